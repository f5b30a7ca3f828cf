"""The pictures of docs/validation.md: what tests see of circuits that were planted by hand, right and wrong ones.

    python examples/planted_pictures.py

Each lies in docs/images as a small WebP. The models are those of tests/helpers/planted.py.
"""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reproduction.command_line import prepare

import plotly.graph_objects as go
import torch
from PIL import Image

from benchmarks.calibration import MANY, full, planted, with_twins
from color_utils import diverging, sequential
from path_patching.bootstrap import Estimate, sentence_weights
from path_patching.circuits.circuit import Circuit, late_half
from path_patching.circuits.overlap import jaccard
from path_patching.circuits.validation.completeness import completeness
from path_patching.circuits.validation.counterfactuals import Scheme, compare
from path_patching.circuits.validation.dissociation import Ability, dissociation
from path_patching.circuits.validation.faithfulness import faithfulness
from path_patching.circuits.validation.interactions import interactions
from path_patching.circuits.validation.matched import least_to_pass, matched
from path_patching.circuits.validation.measuring import CHANGE, Scale
from path_patching.circuits.validation.minimality import minimality
from path_patching.circuits.validation.random_links import beside_random_links
from path_patching.circuits.validation.size_curve import halves, on_curve, random_curve, ranked_nodes, size_curve
from path_patching.circuits.validation.stability import members_of, stability
from path_patching.circuits.validation.strength import strengths
from path_patching.circuits.validation.verdicts import BARS
from path_patching.engine import Engine, Sentences
from path_patching.files import ROOT, written_whole
from path_patching.gpt2.model import Model
from path_patching.paths import Node
from path_patching.sweeps import remembered_effects
from path_patching.torch_engine.engine import TorchEngine
from reproduction.figures import curves, facets, heatmap, intervals, named, share_histogram
from reproduction.rendering import render
from tests.helpers.planted import AT_LAST, BEFORE, BOTH, END, YY, cut, planted_sentences, planted_turn, two_abilities
from utils import greater_than

WIDTH = 640  # pixels
WORDS = {"planted": "as planted", "too few": "a node too few", "too many": "a node too many", "swapped": "one swapped"}
EARLIER = 20  # years, of twins
THRESHOLDS = (0.02, 0.93)  # far below the effects of most heads, and about that


def on(model: Model, sentences: Sentences | None = None) -> tuple[Engine, Scale]:
    """An engine on a sentence of each of many YYs, unless others are given, and the scale of these."""
    sentences = sentences or planted_sentences(MANY)
    engine = TorchEngine(model, sentences, device="cpu")
    return engine, Scale.of(engine, greater_than(sentences.clean[:, YY]))


@cache
def of(shape: str) -> tuple[Engine, Scale]:
    """The same for the model of a shape."""
    return on(planted(shape).model)


def circuits(shape: str, *variants: str) -> dict[str, Circuit]:
    """Circuits planted in it, by words for them."""
    return {WORDS[variant]: planted(shape).variants[variant] for variant in variants}


def shown(estimates: Iterable[Estimate]) -> torch.Tensor:
    """Estimates with their intervals, (n, 3)."""
    return torch.tensor([(each.value, *each.ends) for each in estimates], dtype=torch.float64)


def dots(values: Iterable[float]) -> torch.Tensor:
    """Numbers without intervals, (n, 3)."""
    return torch.tensor([*values], dtype=torch.float64)[:, None].expand(-1, 3)


def ends(bar: str) -> tuple[float, ...]:
    """The numbers between which a bar lies."""
    return tuple(end for end in (BARS[bar].least, BARS[bar].most) if end is not None)


def faithful() -> go.Figure:
    """F of circuits alone, and of the model without them."""
    by_words = circuits("MLP chains", *WORDS)
    found = [faithfulness(*of("MLP chains"), full(circuit), "") for circuit in by_words.values()]
    alone, without = shown(each.normalized for each in found), shown(each.complement for each in found)
    groups, bars = {"the circuit alone": alone, "the model without it": without}, ("faithfulness", "complement")
    title, rows = "Does it do all alone, and is nothing left without it?", named("", [*by_words])
    return intervals(groups, title, "F (dashed: the bars)", rows, "", [end for bar in bars for end in ends(bar)])


def by_year() -> dict[str, go.Figure]:
    """Δ of the circuit alone, and what is left without it, against YY."""
    engine, scale = of("heads alone")
    by_words = circuits("heads alone", "planted", "too few")
    scores = {words: faithfulness(engine, scale, full(circuit), "").scores for words, circuit in by_words.items()}
    higher = {words: torch.stack([MANY, alone - scale.whole], 1) for words, (alone, _) in scores.items()}
    left = {f"without: {words}": without - scale.nothing for words, (_, without) in scores.items()}
    left = {words: torch.stack([MANY, each], 1) for words, each in {"the model": scale.span, **left}.items()}
    return {
        "equivalence": curves(higher, "Is it as often above 0 as below?", "YY", "Δ = s(C) − s(M)"),
        "independence": curves(left, "Does what is left go with what the model does?", "YY", "s − s(∅)"),
    }


def beside_random() -> go.Figure:
    """F of random circuits and of those of their shape."""
    found = matched(*of("MLP chains"), planted("MLP chains").circuit, full, "any layers", "", count=100)
    by_words = circuits("MLP chains", "planted", "swapped")
    own = {words: faithfulness(*of("MLP chains"), full(each), "").normalized for words, each in by_words.items()}
    marks = {words: each.value for words, each in own.items()}
    alone = found.alone.round(decimals=5)  # what is nothing but for rounding is in one bar
    if (least := least_to_pass(alone)) is not None:
        marks[f"the bar, p {BARS['random'].words}"] = least
    return share_histogram(alone, marks, "Do random circuits do less?", "", "F of the circuit alone")


def needed() -> go.Figure:
    """What F loses with each node of a backup and a head too many."""
    found = minimality(*of("backup"), full(planted("backup").too_many), YY, END, "").nodes
    alone, after = shown(each.alone for each in found), shown(each.given_class for each in found)
    groups, rows = {"alone": alone, "after the rest of its class": after}, named("", [each.name for each in found])
    x_title = f"loss of F (dashed: the bars, ±{CHANGE:g})"
    return intervals(groups, "Is every node needed?", x_title, rows, "", (-CHANGE, CHANGE))


def random_links() -> go.Figure:
    """The links of heads alone with one head too many, beside random ones."""
    (engine, scale), circuit = of("heads alone"), planted("heads alone").too_many
    losses = minimality(engine, scale, full(circuit), YY, END, "")
    found = beside_random_links(engine, scale, circuit, full, losses, YY, END)
    others = torch.tensor(list(found.others.values())).quantile(torch.tensor([0.5, 0.0, 1.0]), dim=1).T
    groups = {"the circuit's link": dots(found.own.values()), "20 random ones, least to most": others}
    rows = named("", [str(link) for link in found.own])
    return intervals(groups, "Does each link matter more than random ones?", "δ, change of F", rows)


def complete() -> go.Figure:
    """The gaps between a backup's model and circuits, each without one node."""
    by_words = circuits("backup", "planted", "too few")
    found = {words: completeness(*of("backup"), full(each), YY, END, "").gaps for words, each in by_words.items()}
    gaps = {words: {each.nodes: each.gap for each in of_circuit} for words, of_circuit in found.items()}
    removed = [nodes for nodes in gaps[WORDS["too few"]] if len(nodes) < 2]
    groups = {words: shown(of_circuit[nodes] for nodes in removed) for words, of_circuit in gaps.items()}
    (most,), rows = ends("completeness"), named("", ["".join(nodes) or "nothing" for nodes in removed])
    x_title = "F(M∖K) − F(C∖K) (dashed: the bar)"
    return intervals(groups, "Do model and circuit lose the same without K?", x_title, rows, "", (-most, most))


def counterfactuals() -> go.Figure:
    """F with each of some counterfactuals."""
    engine, scale = of("heads alone")
    schemes = [
        Scheme("twins of 01", engine),
        Scheme(f"twins {EARLIER} years earlier", with_twins(engine, YY, MANY - EARLIER)),
        Scheme("mean ablation", engine, "mean"),
        Scheme("zero ablation (not judged)", engine, "zero"),
    ]
    parts = {words: full(circuit) for words, circuit in circuits("heads alone", "planted", "too few").items()}
    found = compare(schemes, scale, planted("heads alone").circuit, parts, END)
    groups = {words: shown(each.faithfulness[words] for each in found) for words in parts}
    title, rows = "Does it hold with other counterfactuals?", named("", [each.name for each in schemes])
    return intervals(groups, title, "F (dashed: the bar)", rows, "", ends("counterfactual"))


def sizes() -> go.Figure:
    """F of the strongest nodes by their number, and of circuits of two; one half of the sentences ranks the nodes."""
    whole, _ = of("chain")
    (ranking, ranked_by), (engine, scale) = (on(whole.model, whole.sentences.rows(half)) for half in halves(len(MANY)))
    order = ranked_nodes(ranking, ranked_by.metric, END)
    found = {"the strongest": size_curve(engine, scale, order, END), "at random": random_curve(engine, scale, END)}
    by_size = {words: torch.tensor([each.sizes, each.faithfulness]).T for words, each in found.items()}
    (behind,) = ends("on_curve")
    by_size[f"the bar: {behind:g} below"] = by_size["the strongest"] - torch.tensor([0, behind])
    by_words = circuits("chain", "planted", "swapped")
    own = {words: on_curve(engine, scale, order, circuit, END) for words, circuit in by_words.items()}
    points = {words: (each.size, each.own.value) for words, each in own.items()}
    return curves(by_size, "Is it as good as the strongest nodes?", "nodes at END", "F", "", points)


def found_again() -> go.Figure:
    """The nodes that searches find where heads cancel, and those of circuits, with and without these heads."""
    engine, scale = of("cancelling")
    drawn = sentence_weights(len(MANY), resamples=20)
    searches = stability(remembered_effects(engine, scale.metric), drawn, YY, END, THRESHOLDS).searches
    rows = {f"searches at {100 * each.threshold:g} %: {each.jaccard():.2f}": each.membership for each in searches}
    for words, circuit in circuits("cancelling", "planted", "too few").items():
        nodes = members_of(circuit)
        alike = jaccard(searches[0].consensus(), nodes)
        rows[f"{words.replace('a node', 'two nodes')}: {alike:.2f}"] = dict.fromkeys(nodes, 1.0)
    columns = sorted(searches[0].membership)
    values = torch.tensor([[row.get(node, 0.0) for node in columns] for row in rows.values()])
    title, said = (
        "Do searches find the same nodes, and these?",
        f"Jaccard indices beside rows; bar: {BARS['stability'].words}",
    )
    colours = partial(sequential, title="share of the searches")
    figure = heatmap(values, title, named("", columns), named("", [*rows]), colours, said, (480, 180))
    return figure.update_traces(xgap=2, ygap=2)


def graded() -> go.Figure:
    """The metric against the strength of a patch, with and without a turn on the way."""
    models = {"heads alone": (planted("heads alone").model, planted("heads alone").circuit), "a turn": planted_turn()}
    by_strength = {}
    for name, (model, circuit) in models.items():
        (found,) = strengths(*on(model), late_half(circuit, END), {}, name)
        heights = [each.value for each in found.means]
        by_strength[f"{name}: {found.monotone():.2f}"] = torch.tensor([found.alphas, heights]).T
    said = f"beside names: the share of the steps up to α = 1 in one direction; bar: {BARS['monotone'].words}"
    return curves(
        by_strength, "Does a stronger patch do more?", "strength α (1: 01 data)", "probability difference", said
    )


def dissociated() -> go.Figure:
    """What each of two abilities loses with each circuit: each has a head of its own, or one has both."""
    whole, names = planted_sentences(MANY), ("at END", "one before")
    panels = {}
    for panel, pair in {"each its own head": (AT_LAST, BEFORE), "one circuit with both": (BOTH, BEFORE)}.items():
        abilities = [
            Ability(name, *on(two_abilities(), sentences), circuit, sentences.end)
            for name, sentences, circuit in zip(names, (whole, cut(whole)), pair, strict=True)
        ]
        losses = dissociation(abilities, random.Random(0)).losses
        panels[panel] = torch.tensor([[100 * losses[task, other].value for other in names] for task in names])
    x, y = named("circuit impeded", names), named("ability measured", names)
    said = f"bars: {BARS['own_loss'].words} of its own, {BARS['other_loss'].words} of the other"
    title, colours = "Is each lost with its own circuit alone?", partial(diverging, title="share of the span lost (%)")
    figure = facets(panels, title, x, y, colours, said, size=(250, 200))
    return figure.update_traces(texttemplate="%{z:.0f} %")


def added_up() -> go.Figure:
    """The effects of two nodes, each alone and both together."""
    pairs = {"chain": ("a1.h1", "m2"), "backup": ("a1.h1", "a2.h4"), "heads alone": ("a1.h1", "a1.h4")}
    added, both = {}, {}
    for shape, pair in pairs.items():
        nodes = {name: Node.named(name, END) for name in pair}
        found = interactions(*of(shape), late_half(planted(shape).circuit, END), nodes)
        row = f"{shape}: {' and '.join(pair)}"
        added[row] = sum(each.value for each in found.alone.values())
        both[row] = added[row] + found.pairs[pair].value
    groups = {"alone, added": dots(added.values()), "both together": dots(both.values())}
    x_title = "eff, change of the probability difference"
    return intervals(groups, "Do the effects of two nodes add up?", x_title, named("", [*both]))


def figures() -> dict[str, go.Figure]:
    """The figures by name, in the order of the tests."""
    return {
        "faithfulness": faithful(),
        **by_year(),
        "random": beside_random(),
        "minimality": needed(),
        "random-links": random_links(),
        "completeness": complete(),
        "counterfactuals": counterfactuals(),
        "sizes": sizes(),
        "stability": found_again(),
        "strength": graded(),
        "specificity": dissociated(),
        "interactions": added_up(),
    }


def main() -> None:
    """Render the pictures anew."""
    prepare()
    for name, figure in figures().items():
        picture = Image.open(io.BytesIO(render(figure, "png"))).convert("RGB")
        picture.thumbnail((WIDTH, WIDTH))
        with written_whole(ROOT / "docs" / "images" / f"planted-{name}.webp") as unfinished:
            picture.save(unfinished, "WEBP", quality=85)
        print(f"docs/images/planted-{name}.webp")


if __name__ == "__main__":
    main()
