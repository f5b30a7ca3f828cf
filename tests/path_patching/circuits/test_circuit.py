from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations, pairwise

import pytest
import torch

from path_patching.circuits.circuit import (
    LOGITS,
    Circuit,
    Link,
    check_fits,
    down_to,
    full_circuit,
    into_lower,
    into_mlp,
    is_same,
    late_half,
    late_half_by_values,
    nodes,
    on_paths,
)
from path_patching.circuits.circuit_file import as_json
from path_patching.circuits.overlap import overlap
from path_patching.circuits.papers_shape import in_papers_shape, lists_of, varied
from path_patching.circuits.random_circuits import random_circuit
from path_patching.engine import Sentences
from path_patching.errors import UserError
from path_patching.gpt2.model import GPT2_SMALL, Architecture, random_model
from path_patching.paths import Node, PathSet, PathSetError
from reproduction.paper import PAPER
from tests.helpers.engines import each_engine, make_engine

YY, END = 8, 12
TINY = Architecture(n_layers=2, n_heads=2, d_model=8, d_head=4, d_mlp=16, n_positions=8, vocab_size=120)
SMALL = in_papers_shape(
    name="small",
    mlps=("m1",),
    heads=("a0.h0", "a1.h1"),
    heads_feed=(LOGITS, "m1"),
    first_below=("embeds", "m0"),
    further_below=("a0.h1",),
    followed=("v",),
    whole=("q", "k"),
)


def layer(name: str) -> int:
    return int(name.lstrip("ma").split(".")[0])


def chains(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every chain of nodes, last layer first, the empty one included."""
    for length in range(len(names) + 1):
        for chosen in combinations(names, length):
            yield tuple(sorted(chosen, key=lambda name: -layer(name)))


def late_paths() -> Iterator[str]:
    """The paths of the paper's late half, written straight from section 3 of the paper."""
    for head in PAPER.heads:
        for chain in chains(PAPER.mlps):
            if all(layer(mlp) >= layer(head) for mlp in chain):
                yield " → ".join([f"{name}@12" for name in (head, *chain[::-1])] + ["logits@12"])


def lower_paths() -> Iterator[str]:
    """What lies below a head of the paper's circuit: one to five nodes at YY, a0.h3 and a0.h5 only as the first."""
    mlp_chains = [chain for chain in chains(("m0", "m1", "m2", "m3")) if chain]
    for chain in mlp_chains:
        yield "embeds@8 → " + " → ".join(f"{name}@8" for name in chain[::-1])
    for head in ("a0.h1", "a0.h3", "a0.h5"):
        for above in [(), *(mlp_chains if head == "a0.h1" else ())]:
            read = " → ".join(f"{name}@8" for name in above[::-1])
            entered = [("q", YY)] + [(way, position) for way in ("k", "v") for position in range(YY + 1)]
            for way, position in entered:
                yield f"embeds@{position} →{way} {head}@8" + (f" → {read}" if above else "")


def test_the_late_half_has_the_paths_of_the_paper():
    expected = list(late_paths())
    assert len(expected) == 6 * 16 + 8
    assert sorted(late_half(PAPER, END)) == sorted(expected)


def test_the_full_circuit_has_the_paths_of_the_paper():
    below = list(lower_paths())
    expected = [f"{path} →{way} {late}" for late in late_paths() for way in ("k", "v") for path in below]
    expected += [f"residual@12 →q {late}" for late in late_paths()]
    assert sorted(full_circuit(PAPER, YY, END)) == sorted(expected)


def test_heads_may_feed_m8_and_m9_alone():
    narrow = varied(PAPER, heads_feed=("m8", "m9"))
    expected = [path for path in late_paths() if path.split(" → ")[1] in ("m8@12", "m9@12")]
    assert len(expected) == 6 * 12 + 4
    assert sorted(late_half(narrow, END)) == sorted(expected)


def test_heads_may_read_the_embeddings_directly_beside_what_else_they_read():
    paths = set(full_circuit(SMALL, 1, 2))
    assert "embeds@1 →v a0.h0@2 → logits@2" in paths
    assert "embeds@1 →v a1.h1@2 → m1@2 → logits@2" in paths
    assert "embeds@0 →k a0.h1@1 → m0@1 →v a1.h1@2 → logits@2" in paths
    assert "residual@0 →k a0.h0@2 → logits@2" in paths
    assert not any("→k a1.h1@2" in path and "residual" not in path for path in paths)  # k is whole, not followed
    assert not any("a0.h1@1 →v" in path for path in paths)  # a0.h1 is below m0 alone


def test_a_circuit_needs_neither_mlps_nor_nodes_at_yy():
    bare = in_papers_shape("bare", (), ("a3.h1",), (LOGITS,), ("embeds",), (), followed=("v",), whole=())
    assert list(full_circuit(bare, YY, END)) == ["embeds@8 →v a3.h1@12 → logits@12"]
    whole = varied(bare, first_below=(), followed=(), whole=("v",))
    assert len(full_circuit(whole, YY, END)) == END + 1


@each_engine
def test_a_circuit_whose_inputs_are_all_whole_is_its_late_half(engine_name):
    clean = torch.randint(0, 120, (5, 6), generator=torch.Generator().manual_seed(0))
    corrupted = clean.clone()
    corrupted[:, 3] = 1
    engine = make_engine(engine_name, random_model(TINY), Sentences(clean, corrupted, torch.arange(100)))
    whole = varied(SMALL, first_below=(), further_below=(), followed=(), whole=("q", "k", "v"))
    late, full = (engine.isolate(paths) for paths in (late_half(whole, 5), full_circuit(whole, 3, 5)))
    assert (late - full).abs().max() < 1e-8
    assert (late - engine.corrupted()).abs().max() > 1e-4


def test_the_paths_into_a_node_are_those_above_it_in_the_circuit():
    full = full_circuit(PAPER, YY, END)
    for mlp in PAPER.mlps:
        assert down_to(full, Node.named(mlp, END)) == into_mlp(PAPER, mlp, END)
    assert down_to(full, Node.named("m2", YY)) == into_lower(PAPER, "m2", YY, END)
    assert down_to(full, Node.logits(END)) == PathSet.at(Node.logits(END))
    assert down_to(full, Node.named("m7", END)) is None


def test_the_links_of_the_papers_circuit():
    found = PAPER.links
    late = {"logits": 11, "m8": 6, "m9": 7 + 1, "m10": 7 + 2, "m11": 7 + 3}
    early = {"m0": 2, "m1": 3, "m2": 4, "m3": 5, "a0.h1": 3, "a0.h3": 3, "a0.h5": 3}
    counts = {f"{name}@END": count for name, count in late.items()}
    counts |= {f"{head}@END": 1 + 2 * 7 for head in PAPER.heads}
    counts |= {f"{name}@YY": count for name, count in early.items()}
    assert {reader: sum(link.reader == reader for link in found) for reader in counts} == counts
    assert len(found) == len(set(found)) == sum(counts.values())
    assert Link("a9.h1@END", "q", "everything") in found
    assert Link("m3@YY", "in", "a0.h3@YY") not in found


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"mlps": ("m8", "a9.h1"), "heads_feed": ("m8",)}, "a9.h1 cannot be in mlps"),
        ({"heads": ("a9.h1", "m3")}, "m3 cannot be in heads"),
        ({"heads": ("a7.h10", "a9.h1", "a7.h10")}, "a7.h10 is twice in heads"),
        ({"heads_feed": ("m7",)}, "its heads feed m7, which is not in mlps"),
        ({"further_below": ("embeds",)}, "embeds cannot be in further_below"),
        ({"studied": ("a1.h1",)}, "a1.h1 is studied, but not among its heads"),
        ({"heads": (), "studied": ()}, "without heads"),
        ({"heads_feed": ()}, "without heads, and something that they feed"),
        ({"followed": ("q",), "whole": ()}, "a query at END reads nothing at YY"),
        ({"whole": ("q", "k")}, "followed or whole, not both"),
        ({"followed": (), "whole": (), "first_below": (), "further_below": ()}, "at least one must be either"),
        ({"first_below": ()}, "both are empty or neither is"),
        ({"heads": ("a9h1",)}, "'a9h1' is not a node"),
        ({"heads": ("a09.h1",)}, "'a09.h1' is not a node"),
        ({"mlps": ("m8", "m08"), "heads_feed": ("m8",)}, "'m08' is not a node"),
        ({"heads": ("a9.h١",)}, "is not a node"),
        ({"heads": ("a" * 20_000,)}, "is not a node"),
        ({"followed": ("k", "k")}, "k is twice in followed"),
        ({"heads": "a9.h1"}, "heads has to be a tuple of names"),
        ({"mlps": ["m8"]}, "mlps has to be a tuple of names"),
        ({"name": ""}, "its name has to be a text of 1 to 100 letters, all of them printable"),
        ({"name": "  "}, "its name has to be"),
        ({"name": "two\nlines"}, "its name has to be"),
        ({"name": "\x1b[31mred"}, "its name has to be"),
        ({"name": "\ud800"}, "its name has to be"),
        ({"name": "a" * 101}, "its name has to be"),
        ({"name": "a" * 20_000}, "its name has to be"),
        ({"name": 3}, "its name has to be"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(change, complaint):
    with pytest.raises(UserError, match=complaint) as error:
        varied(PAPER, **change)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("change", "unlinked"),
    [
        ({"heads": ("a7.h10", "a11.h0"), "heads_feed": ("m8", "m9"), "studied": ()}, "a11.h0"),
        ({"heads": ("a7.h10", "a9.h1"), "heads_feed": ("m8",), "studied": ()}, "a9.h1"),
        ({"mlps": ("m4", *PAPER.mlps)}, "m4"),
        ({"mlps": ("m4", *PAPER.mlps), "heads_feed": ("m4", *PAPER.heads_feed)}, "m4"),
        ({"heads_feed": (LOGITS,)}, "m8"),
        ({"first_below": ("m0", "m9")}, "m9"),
        ({"first_below": ("a9.h3", "m0")}, "a9.h3"),
        ({"first_below": ("m0",), "further_below": ("m1",)}, "m1"),
        ({"first_below": ("embeds",), "further_below": ("a0.h1",)}, "a0.h1"),
    ],
)
def test_a_node_on_no_path_is_refused_by_name(change, unlinked):
    with pytest.raises(UserError, match=rf": {unlinked}@(END|YY) is on no path of it; link it, or leave it out"):
        varied(PAPER, **change)


@pytest.mark.parametrize("changed", [{"heads": PAPER.heads[1:]}, {"whole": ()}, {"further_below": ("m0",)}])
def test_circuits_are_the_same_if_their_paths_are(changed):
    other = varied(PAPER, **changed)
    assert is_same(PAPER, varied(PAPER, name="another", heads=PAPER.heads[::-1], studied=()))
    assert is_same(other, other)
    assert not is_same(PAPER, other)
    assert not is_same(other, PAPER)


def test_names_and_nodes():
    assert nodes(("m3", "a9.h1", "embeds", "logits"), 4) == [
        Node.mlp(3, 4),
        Node.head(9, 1, 4),
        Node.embeds(4),
        Node.logits(4),
    ]
    for wrong in ("m", "a9", "a9.h", "m08", "a07.h1", "m8 ", "M3", "m-1", ""):
        with pytest.raises(PathSetError, match="is not a node"):
            Node.named(wrong, 0)


def test_a_random_circuit_has_the_shape_of_the_other_and_no_node_twice():
    rng = random.Random(0)
    drawn = [random_circuit(PAPER, GPT2_SMALL, rng) for _ in range(200)]
    assert len(set(drawn)) == 200
    for circuit in drawn:
        assert len(set(circuit.mlps)) == 4
        assert len(set(circuit.heads)) == 7
        assert set(circuit.heads_feed) == {LOGITS, *circuit.mlps}
        lists = lists_of(circuit)
        assert set(lists["further_below"]) < set(lists["first_below"])
        heads_below = [name for name in circuit.lower if name.startswith("a")]
        assert (len(heads_below), len(circuit.lower)) == (3, 7)
        last = max(Node.named(head, 0).depth for head in circuit.heads)
        assert all(Node.named(name, 0).depth < last for name in circuit.lower)
        assert {each.name for each in late_half(circuit, END).nodes()} == {LOGITS, *circuit.mlps, *circuit.heads}
        at_yy = {each.name for each in full_circuit(circuit, YY, END).nodes() if each.position == YY}
        assert at_yy >= {*circuit.lower}, "every node is on a path"
    every_head = {head for circuit in drawn for head in circuit.heads}
    assert len(every_head) == 144
    assert {mlp for circuit in drawn for mlp in circuit.mlps} == {f"m{index}" for index in range(12)}


def test_random_circuits_repeat_with_their_seed():
    assert random_circuit(PAPER, GPT2_SMALL, random.Random(3)) == random_circuit(PAPER, GPT2_SMALL, random.Random(3))
    assert random_circuit(PAPER, GPT2_SMALL, random.Random(3)) != random_circuit(PAPER, GPT2_SMALL, random.Random(4))


def test_a_random_circuit_keeps_which_mlps_the_heads_feed_and_what_reads_the_embeddings():
    narrow = varied(PAPER, heads_feed=("m8", "m9"), first_below=("embeds", *PAPER.lower))
    drawn = random_circuit(narrow, GPT2_SMALL, random.Random(1))
    assert drawn.heads_feed == tuple(sorted(drawn.mlps, key=layer))[:2]
    assert lists_of(drawn)["first_below"][0] == "embeds"
    assert drawn.studied == ()


def test_a_model_with_too_few_nodes_has_no_random_circuit():
    with pytest.raises(UserError, match="2 layers of 2 heads have no circuit of the shape of the paper's circuit"):
        random_circuit(PAPER, TINY, random.Random(0))


def test_a_model_that_lacks_a_node_is_named():
    check_fits(SMALL, random_model(TINY))
    with pytest.raises(UserError, match=r"the paper's circuit has m8, but random .* has 2 layers of 2 heads"):
        check_fits(PAPER, random_model(TINY))
    with pytest.raises(UserError, match=r"small has a1\.h2"):
        check_fits(varied(SMALL, heads=("a1.h2",)), random_model(TINY))


def of(*links: str) -> Circuit:
    return Circuit("of links", tuple(map(Link.parse, links)))


WITHOUT_PLACES = of("m1 → logits", "a1.h0 → m1", "m0 →v a1.h0", "a0.h0 →q a1.h0", "embeds → m0", "everything →k a0.h0")
AT_PLACES = of(
    "a1.h0@END → logits@END", "m0@END →q a1.h0@END", "m0@YY →v a1.h0@END", "everything → m0@END", "embeds@YY → m0@YY"
)


def test_links_without_places_hold_at_every_position_that_is_read():
    values = [f"embeds@{at} → m0@{at} →v a1.h0@2 → m1@2 → logits@2" for at in range(3)]
    queries = [f"residual@{at} →k a0.h0@2 →q a1.h0@2 → m1@2 → logits@2" for at in range(3)]
    assert sorted(full_circuit(WITHOUT_PLACES, 1, 2)) == sorted(values + queries)
    assert list(late_half(WITHOUT_PLACES, 2)) == ["a1.h0@2 → m1@2 → logits@2"]
    assert not WITHOUT_PLACES.placed
    assert WITHOUT_PLACES.members == ("a0.h0", "m0", "a1.h0", "m1")
    assert (WITHOUT_PLACES.mlps, WITHOUT_PLACES.lower) == (("m0", "m1"), ())


def test_links_with_places_hold_at_theirs():
    assert sorted(full_circuit(AT_PLACES, 1, 2)) == [
        "embeds@1 → m0@1 →v a1.h0@2 → logits@2",
        "residual@2 → m0@2 →q a1.h0@2 → logits@2",
    ]
    assert (AT_PLACES.heads, AT_PLACES.mlps, AT_PLACES.lower) == (("a1.h0",), ("m0",), ("m0",))
    assert str(into_lower(AT_PLACES, "m0", 1, 2)) == "m0@1 →v a1.h0@2 → logits@2"
    assert lists_of(AT_PLACES) is None


def test_paths_of_mlps_alone_are_in_the_late_half_to_their_ends():
    circuit = of("m0 → logits", "embeds → m0", "a0.h1 → m0", "embeds →v a0.h1")
    assert sorted(late_half(circuit, 2)) == ["a0.h1@2 → m0@2 → logits@2", "embeds@2 → m0@2 → logits@2"]


def test_what_several_nodes_read_is_one_sub_tree():
    paths = full_circuit(PAPER, YY, END)
    assert len(paths._distinct()) == len(PAPER.members) + 1 + (YY + 1) + 1  # the logits, embeddings, one residual


def test_links_on_no_path_are_told_from_the_others():
    links = [*WITHOUT_PLACES.links, Link.parse("m0 → m1"), Link.parse("m1 →q a3.h0"), Link.parse("a2.h0 → logits")]
    kept, left_out = on_paths(links)
    assert {*kept} == {*WITHOUT_PLACES.links, Link.parse("m0 → m1")}
    assert {*map(str, left_out)} == {"m1 →q a3.h0", "a2.h0 → logits"}


def test_of_the_late_halfs_heads_the_values_count_alone_and_paths_without_heads_stay():
    circuit = of(
        "a1.h0@END → logits@END", "m0@END → logits@END", "embeds@END → m0@END", "m0@END →q a1.h0@END",
        "everything → m1@END", "m1@END → logits@END",
    )  # fmt: skip
    values = [f"residual@{at} →v a1.h0@2 → logits@2" for at in range(3)]
    others = ["embeds@2 → m0@2 → logits@2", "residual@2 → m1@2 → logits@2"]
    assert sorted(late_half_by_values(circuit, 2)) == sorted(values + others)
    assert late_half_by_values(of("m0 → logits", "embeds → m0"), 2) is None
    of_heads = late_half(SMALL, 2).extend([Node.residual(at) for at in range(3)], via="v")
    assert late_half_by_values(SMALL, 2) == of_heads


def test_a_head_of_the_late_half_need_not_read_anything():
    circuit = of("a0.h0@END → logits@END", "a1.h0@END → logits@END", "m0@YY →v a1.h0@END", "embeds@YY → m0@YY")
    assert sorted(late_half(circuit, END)) == ["a0.h0@12 → logits@12", "a1.h0@12 → logits@12"]
    assert list(full_circuit(circuit, YY, END)) == ["embeds@8 → m0@8 →v a1.h0@12 → logits@12"]


@pytest.mark.parametrize(
    ("links", "complaint"),
    [
        (["a1.h0 → logits@END", "embeds →v a1.h0"], "logits@END has a place, but a1.h0 has none"),
        (["m2@3 → logits@END"], "m2@3 is at no place of a circuit"),
        (["m1@YY → logits@YY"], "logits@YY is at no place"),
        (["x → y"], "'x' is not a node"),
        (["m1 → m0"], "m1 is not upstream of m0, or at a position that is not read"),
        (["m0@END →v a1.h0@YY"], "is not upstream of a1.h0@YY, or at a position that is not read"),
        (["m0@YY →q a1.h0@END"], "or at a position that is not read"),
        (["m0 → a1.h0"], "a1.h0 has the inputs q, k, v; name one"),
        (["m0 →k m1"], "m1 has the inputs in"),
        (["logits → m0"], "logits cannot be there"),
        (["m1 → everything"], "everything cannot be there"),
        (["m1.n3 → logits"], r"m1\.n3 cannot be there"),
        (["m2 → logits"], "m2 is on no path of it"),
        (["a1.h0 → logits"], "no path of it leads from the logits down"),
        (["m0 → logits", "embeds → m0", "m0 → m1"], "m1 is on no path of it"),
    ],
)
def test_what_is_no_circuit_is_said_in_one_line(links, complaint):
    with pytest.raises(UserError, match=complaint) as error:
        of(*links)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", ["paper", None, as_json(PAPER)])
def test_what_is_no_circuit_has_no_paths(given):
    """All that a search has found, not its circuit, ended in an AttributeError."""
    for ask in (lambda: full_circuit(given, YY, END), lambda: late_half(given, END), lambda: overlap(PAPER, given)):
        with pytest.raises(UserError, match=r"is no circuit; find_circuit\(…\)\.circuit is one"):
            ask()


@pytest.mark.parametrize("place", ["", "@END"])
def test_a_chain_of_a_thousand_mlps_is_one_line(place):
    """It ended in a RecursionError."""
    names = ["embeds", *(f"m{layer}" for layer in range(1000)), "logits"]
    steps = [f"{one}{place} → {other}{place}" for one, other in pairwise(names)]
    with pytest.raises(UserError, match=r"deep cannot be a circuit: its paths may have more than 200 steps"):
        Circuit("deep", tuple(map(Link.parse, steps)))
    short = (*steps[:150], f"m149{place} → logits{place}")
    assert full_circuit(Circuit("short", tuple(map(Link.parse, short))), 1, 1).count() == 1
