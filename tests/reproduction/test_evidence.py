from __future__ import annotations

import pytest

from reproduction.circuit_svg import circuit_svg
from reproduction.evidence import evidence, link_effects_of, link_id
from reproduction.paper import PAPER
from reproduction.run import read_artifacts
from tests.helpers.whole import EFFECTS, labels_of_circuit, publish_whole


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts")
    publish_whole(folder)
    scripts = ("circuit_discovery", "circuit_validation")
    runs = {script: read_artifacts(folder, script) for script in scripts}
    return evidence(link_effects_of(runs.get("circuit_discovery")), runs)


def test_a_heads_effects_are_those_of_the_sweeps_at_its_place_with_their_rank(known):
    found = [(each.of, each.shown, each.rank, each.among) for each in known["a9.h1@END"].effects]
    assert found == [
        ("through m9 and any later MLPs of the circuit", "−6.2 points [−7.0, −5.5]", 1, 156),
        ("on the logits, directly", "−4.1 points", 2, 156),
    ]  # not that of the sweep at YY, where another a9.h1 stands
    at_yy = known["m0@YY"].effects
    assert [(each.of, each.shown, each.rank) for each in at_yy] == [
        ("through the values of the circuit's heads", "−20.0 points", 2)
    ]


def test_a_nodes_largest_effect_stands_first_whatever_its_rank(known):
    assert [(each.shown, each.rank) for each in known["m8@END"].effects] == [
        ("2.0 points", 3),
        ("1.0 points [−7.0, −5.5]", 2),
    ]


def test_where_a_head_looks_is_its_row_from_end(known):
    attention = known["a9.h1@END"].attention
    assert (attention.to_yy, attention.few) == ("44.0 %", ""), "of all sentences, as in the report's sentences"
    assert dict(attention.shares)["YY"] == pytest.approx(0.44)
    other = known["a8.h11@END"].attention
    assert (other.to_yy, other.few) == ("1.0 %", "mean of 20 sentences")
    assert known["m10@END"].attention is None


def test_the_lens_is_a_curve_that_steps_up_behind_yy(known):
    lens = known["m10@END"].lens
    heights = [float(point.split(",")[1]) for point in lens.points.split()]
    at = {offset: heights[offset - lens.first] for offset in range(lens.first, lens.last + 1)}
    assert at[1] < 5 < 60 < at[0]  # y runs downwards
    assert lens.at_yy == pytest.approx(240 * 49 / 99)
    assert known["m9@END"].lens is None


def test_what_is_lost_without_a_node_is_the_validations(known):
    assert known["a9.h1@END"].lost == (
        ("loss of F, late half", "21.0 % [20.0, 22.0]"),
        ("loss of F, late half, after the rest of its class", "31.0 % [30.0, 32.0]"),
    )
    assert known["a8.h11@END"].lost == ()
    of_link = known["m10@END→:logits@END"].lost
    assert of_link == (("loss of F, late half", "21.0 % [20.0, 22.0]"),), "what was not asked is no number"


def test_every_node_and_link_has_its_evidence_and_the_drawing_names_each_once(known):
    drawing = circuit_svg(EFFECTS)
    assert {box.id for box in drawing.boxes} == labels_of_circuit()
    assert {link.id for link in drawing.links} == {link_id(link) for link in PAPER.links}
    assert {*known} == labels_of_circuit() | {link.id for link in drawing.links}
    strongest = max(EFFECTS, key=lambda link: abs(EFFECTS[link]))
    assert known[link_id(strongest)].shown == "−30.0 points"
    assert known[strongest.reader].links[0][::2] == (link_id(strongest), "−30.0 points")


def test_what_the_paper_says_of_a_node_stands_with_its_place(known):
    assert any("m9" in text for text in known["a9.h1@END"].says)
    to_yy = {name for name, each in known.items() if any("attends from END to YY" in text for text in each.says)}
    assert to_yy == {"a7.h10@END", "a8.h11@END"}, "those whose patterns the paper shows"
    assert known["everything@END"].says == ()


def test_beside_the_paper_s_words_stands_what_was_measured(known):
    assert known["a9.h1@END"].here[:2] == (
        "its largest effect is −6.2 points [−7.0, −5.5], through m9 and any later MLPs of the circuit (rank 1 of 156)",
        "from END, it gives YY 44.0 % of its attention",
    )
    assert known["m10@END"].here[-1].startswith("by the logit lens, the years after YY stand ")
    assert known["everything@END"].here == (), "the paper says nothing of it"


def test_thin_links_are_hidden_at_first_but_the_strongest_of_each_node():
    drawing = circuit_svg(dict.fromkeys(PAPER.links, -1e-6) | {PAPER.links[0]: -0.5})
    hidden = [link for link in drawing.links if link.share < drawing.seen and not link.kept]
    assert len(hidden) > len(drawing.links) / 2
    seen = {name for link in drawing.links if link not in hidden for name in link.id.replace(":", "→").split("→")}
    assert labels_of_circuit() <= seen


def test_without_a_circuit_there_is_no_evidence():
    assert evidence(link_effects_of(None), {}) == {}
