"""The figures of single neurons are those of their artifacts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers.drawn import (
    OF_MODEL,
    YEARS,
    YY,
    Drawing,
    check_curves,
    check_heatmaps,
    check_titles,
    draw,
    heatmap,
    labels,
    publish,
    told,
)

SCRIPT = "neuron_plots"
NEURONS, LENSES = 300, 210  # more lenses than any figure sums
START_YY = torch.cat([torch.arange(98, 1, -1), torch.arange(2, 99)])  # two sentences of each YY, not in order
RANKED = torch.arange(NEURONS).roll(-7).flip(0)  # m10.n6 is the strongest
LOST = "clean − patched logit, less year 00's"
RELATIVE = "logit minus year 00's logit"
LENS = "activation × output weights through the unembedding, without the final LayerNorm"


def by_neuron(number: int, *neurons: int) -> torch.Tensor:
    """Year logits of some neurons and all sentences: (neurons, N, 100)."""
    return told(number, *neurons, len(START_YY), 100)


EFFECTS = torch.empty(NEURONS, dtype=torch.float64)
EFFECTS[RANKED] = torch.linspace(-0.4, -0.001, NEURONS, dtype=torch.float64) * (-1) ** torch.arange(NEURONS)
ARTIFACTS = {
    "neuron_dataset.pt": ({"years": 1700 + START_YY}, {"kind": "sentences"}),
    "order.pt": (RANKED, {"kind": "ranking"}),
    "neuron_effects.pt": (EFFECTS, {"kind": "neuron_effects"}),
    "t10-logitlens.pt": (by_neuron(20, LENSES), {"kind": "neuron_lens"}),
    "t10-direct_effects.pt": (by_neuron(21, 11), {"kind": "neuron_logits_lost"}),
    "t10-t10patched.pt": (by_neuron(22), {"kind": "logits_lost_together"}),
}


def rows(by_sentence: torch.Tensor) -> np.ndarray:
    """Means of the sentences of each YY, (97, 100) of (N, 100)."""
    return torch.stack([by_sentence[each == START_YY].mean(0) for each in range(2, 99)]).numpy()


@pytest.fixture(scope="module")
def drawing(tmp_path_factory) -> Drawing:
    folder = tmp_path_factory.mktemp("artifacts")
    publish("neuron_investigations", folder, ARTIFACTS, {"mlp/name": "m10"})
    return draw(SCRIPT, folder)


def lens_of(*ranks: int) -> dict[str, np.ndarray]:
    return {f"m10.n{RANKED[rank]}": rows(ARTIFACTS["t10-logitlens.pt"][0][rank]) for rank in ranks}


def together(panels: dict[str, np.ndarray], bar: str) -> dict:
    """Panels over years and YY that share the ends of their colours."""
    return {title: heatmap(values, YEARS, YY, bar, of=[*panels.values()]) for title, values in panels.items()}


def test_every_figure_has_its_title_and_nothing_is_left_out(drawing):
    check_titles(drawing.figures, {
        "appendix/neuron-ranking": (f"Direct effects of the {NEURONS} neurons of m10", ""),
        "top3-neurons": ("Logit lens of the top 3 neurons of m10", LENS),
        "top3-neurons-directeffects": ("Direct effects of the top 3 neurons of m10", "each patched alone"),
        "appendix/neurons": ("Logit lens of the next 8 neurons of m10", LENS),
        "top10-neurons-logitlenssum": ("Logit lens of the top 10 neurons of m10, summed", LENS),
        "top100-neurons": ("Logit lens of the top 100 and more neurons of m10, summed", LENS),
        "top10-neurons-directeffects": ("Direct effects of the top 10 neurons of m10", ""),
    })  # fmt: skip
    assert [line for line in drawing.lines if "left out" in line] == []


def test_lenses_of_the_strongest_neurons_stand_in_the_order_of_their_ranks(drawing):
    check_heatmaps(drawing.figures["top3-neurons"], together(lens_of(0, 1, 2), "logit"))
    check_heatmaps(drawing.figures["appendix/neurons"], together(lens_of(*range(3, 11)), "logit"))


def test_what_is_lost_without_each_is_drawn_under_its_name(drawing):
    lost = {f"m10.n{RANKED[rank]}": rows(ARTIFACTS["t10-direct_effects.pt"][0][rank]) for rank in range(3)}
    check_heatmaps(drawing.figures["top3-neurons-directeffects"], together(lost, LOST))


def test_each_figure_sums_exactly_as_many_neurons_as_its_title_says(drawing):
    lens = torch.stack([torch.tensor(each) for each in lens_of(*range(200)).values()])
    relative = lens - lens[..., :1]
    sums = {f"sum of the top {count}": relative[:count].sum(0).numpy() for count in (10, 100, 200)}
    ten, many = dict([*sums.items()][:1]), dict([*sums.items()][1:])
    check_heatmaps(drawing.figures["top10-neurons-logitlenssum"], together(ten, RELATIVE))
    check_heatmaps(drawing.figures["top100-neurons"], together(many, RELATIVE))


def test_ten_neurons_patched_together_stand_beside_the_sum_of_each_patched_alone(drawing):
    panels = {
        "sum of the top 10, each patched alone": rows(ARTIFACTS["t10-direct_effects.pt"][0][:10].sum(0)),
        "top 10 patched together": rows(ARTIFACTS["t10-t10patched.pt"][0]),
    }
    check_heatmaps(drawing.figures["top10-neurons-directeffects"], together(panels, LOST))


def test_the_ranking_shows_each_effect_in_points_at_its_rank_and_what_patching_does(drawing):
    figure, points = drawing.figures["appendix/neuron-ranking"], 100 * EFFECTS[RANKED]
    ranks = torch.arange(1, NEURONS + 1, dtype=torch.float64)
    lowered, raised = (torch.stack([ranks, (sign * points).where(sign * points > 0, torch.nan)], 1) for sign in (-1, 1))
    y_title = "|change in probability difference| (percentage points)"
    check_curves(figure, {"lowered by patching": lowered, "raised by patching": raised}, "rank", y_title)
    assert figure.layout.yaxis.type == "log"
    assert labels(figure.layout.xaxis) == {at: str(at) for at in (1, *range(50, NEURONS + 1, 50))}
    assert {trace.mode for trace in figure.data} == {"markers"}


def test_figures_of_another_layer_go_to_the_appendix_with_its_name(drawing, tmp_path):
    few = {name: (value[:50] if name == "order.pt" else value, about) for name, (value, about) in ARTIFACTS.items()}
    few["t10-logitlens.pt"] = (by_neuron(20, 50), {"kind": "neuron_lens"})
    publish("neuron_investigations", tmp_path / "m11", few, {"mlp/name": "m11"})
    figures, lines, _ = draw(SCRIPT, tmp_path, "--layer", "11")
    without = [name for name in drawing.figures if name != "top100-neurons"]
    assert {*figures} == {f"appendix/m11-{name.removeprefix('appendix/')}" for name in without}
    assert all("m11" in figure.layout.title.text and "m10" not in str(figure) for figure in figures.values())
    assert all(figure.layout.title.text.endswith(OF_MODEL) for figure in figures.values())
    left_out = [line for line in lines if line.startswith("left out")]
    assert left_out == [f"left out: the sum of the top {count} neurons; m11 has 50" for count in (100, 200)]
