"""A circuit's nodes, classes and links, read off its paths."""

from __future__ import annotations

import pytest

from path_patching.circuits.circuit import Circuit, Link, full_circuit, late_half
from path_patching.circuits.papers_shape import varied
from path_patching.circuits.validation.members import by_name, class_of, classes, link_steps, listed, members
from path_patching.errors import UserError
from path_patching.paths import Node, PathSet
from reproduction.paper import PAPER

YY, END = 8, 12
FULL, LATE = full_circuit(PAPER, YY, END), late_half(PAPER, END)


def test_the_members_of_the_paper_s_circuit_in_order():
    assert list(members(LATE, YY, END)) == [
        *("a5.h1@END", "a5.h5@END", "a6.h9@END", "a7.h10@END", "a8.h8@END", "a8.h11@END", "m8@END"),
        *("a9.h1@END", "m9@END", "m10@END", "m11@END"),
    ]
    lower = ["a0.h1@YY", "a0.h3@YY", "a0.h5@YY", "m0@YY", "m1@YY", "m2@YY", "m3@YY"]
    assert list(members(FULL, YY, END)) == [*lower, *members(LATE, YY, END)]
    assert members(FULL, YY, END)["m0@YY"] == Node.mlp(0, YY)


def test_classes_part_the_members():
    found = classes(FULL, YY, END)
    assert {name: len(group) for name, group in found.items()} == {"heads": 7, "MLPs": 4, "lower nodes": 7}
    assert sorted(node for group in found.values() for node in group) == sorted(members(FULL, YY, END).values())
    assert list(classes(LATE, YY, END)) == ["heads", "MLPs"]


def test_links_are_those_of_the_circuit_and_have_all_their_steps():
    found = link_steps(FULL, YY, END)
    assert tuple(found) == PAPER.links
    everything = {str(link): steps for link, steps in found.items()}
    whole = everything["everything →q a9.h1@END"]
    assert whole == {(Node.head(9, 1, END), "q", Node.residual(END))}
    embeds = everything["embeds@YY →v a0.h1@YY"]
    assert embeds == {(Node.head(0, 1, YY), "v", Node.embeds(position)) for position in range(YY + 1)}
    assert everything["a9.h1@END → m10@END"] == {(Node.mlp(10, END), "in", Node.head(9, 1, END))}


def test_the_paths_without_any_link_are_none_and_each_link_has_some():
    narrow = full_circuit(varied(PAPER, heads=("a7.h10",), studied=()), YY, END)
    found = link_steps(narrow, YY, END)
    for steps in found.values():
        left = narrow.avoiding_steps(steps)
        assert left is None or left.count() < narrow.count()
    assert narrow.avoiding_steps([step for steps in found.values() for step in steps]) is None


def test_paths_without_a_node_are_said():
    with pytest.raises(UserError, match=r"no head or MLP is on the paths <PathSet of 1 path: embeds@12 → logits@12>"):
        members(PathSet.parse("embeds → logits", end=END), YY, END)


def test_what_is_listed_can_be_read():
    assert listed(["m0@YY", "m1@END"]) == "m0@YY, m1@END"
    assert listed([f"m{layer}@END" for layer in range(10)]).endswith("m7@END, and 2 more")


def test_other_places_are_called_by_their_number():
    assert list(members(PathSet.parse("m0@5 →v a9.h1 → logits", end=END), YY, END)) == ["m0@5", "a9.h1@END"]


def test_without_places_a_node_is_all_of_it_and_a_link_holds_at_all_positions():
    links = ("m1 → logits", "a1.h0 → m1", "m0 →v a1.h0", "embeds → m0")
    circuit = Circuit("of links", tuple(map(Link.parse, links)))
    paths = full_circuit(circuit, 1, 2)
    found = by_name(paths, 1, 2, placed=False)
    assert {name: len(group) for name, group in found.items()} == {"m0": 3, "a1.h0": 1, "m1": 1}
    assert classes(paths, 1, 2, placed=False)["MLPs"] == [Node.mlp(0, at) for at in range(3)] + [Node.mlp(1, 2)]
    assert [class_of(name) for name in ("m0", "a1.h0", "m0@YY")] == ["MLPs", "heads", "lower nodes"]
    steps = link_steps(paths, 1, 2, placed=False)
    assert tuple(steps) == circuit.links
    assert steps[Link.parse("m0 →v a1.h0")] == {(Node.head(1, 0, 2), "v", Node.mlp(0, at)) for at in range(3)}
