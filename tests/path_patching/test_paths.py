"""Path sets against plain Python sets of paths, built from the definition."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from path_patching.errors import UserError
from path_patching.paths import (
    DEEPEST,
    INPUTS,
    LARGEST,
    NAMES,
    PATHS_SHOWN,
    Branch,
    Node,
    PathSet,
    PathSetError,
    layer_nodes,
    union,
)

END, YY = 12, 8
LOGITS = PathSet.at(Node.logits(END))
HEADS = [(9, 1), (8, 11), (8, 8), (7, 10), (6, 9), (5, 5), (5, 1)]
PAPER_HEADS = [Node.head(*head, END) for head in HEADS]
PAPER_MLPS = [Node.mlp(layer, END) for layer in (8, 9, 10, 11)]
CHAINS = LOGITS.through_chains(PAPER_MLPS)
LATE_HALF = CHAINS.extend(PAPER_HEADS)


# The paper's sets


def test_the_four_mlps_make_sixteen_chains():
    assert len(CHAINS) == 16
    assert CHAINS.ends() == {Node.logits(END), *PAPER_MLPS}


def test_the_late_half_has_104_paths():
    by_hand = sum(2 ** sum(mlp >= layer for mlp in (8, 9, 10, 11)) for layer, _ in HEADS)
    assert len(LATE_HALF) == len(set(LATE_HALF)) == by_hand == 104
    assert LATE_HALF.ends() == set(PAPER_HEADS)
    assert LATE_HALF.nodes() == {Node.logits(END), *PAPER_MLPS, *PAPER_HEADS}


def test_heads_may_feed_two_mlps_alone_as_in_the_later_reanalysis():
    """Spec section 3: a description must be able to say that heads feed m8 and m9 and nothing else."""
    fed = LOGITS.through_chains(PAPER_MLPS[2:]).extend(PAPER_MLPS[:2])
    below = (fed | fed.extend(PAPER_MLPS[:1])).extend(PAPER_HEADS)
    assert len(below) < len(LATE_HALF)
    assert all("→ m8@12" in path or "→ m9@12" in path for path in below)


def test_receivers_of_an_mlp_are_every_chain_of_the_later_ones():
    for below, mlp in enumerate(PAPER_MLPS):
        receivers = LOGITS.through_chains(PAPER_MLPS[below + 1 :]).extend([mlp])
        assert len(receivers) == 2 ** (3 - below)
        assert receivers.ends() == {mlp}


def test_the_full_circuit_counts_its_chains():
    deep = [Node.mlp(layer, YY) for layer in range(4)] + [Node.head(0, 1, YY)]
    first = [*deep, Node.head(0, 3, YY), Node.head(0, 5, YY)]
    values = LATE_HALF.extend(first, "v").through_chains(deep).extend([Node.embeds(YY)])
    # Below one path to a head: subsets of m0 … m3, each alone, over a0.h1 (three inputs read its embedding), or, if it
    # is one node at the most above it, over a0.h3 or a0.h5; never empty.
    chains = (2**4 - 1) + 3 * 2**4 + 3 * 2
    assert len(values) == 104 * chains
    assert values.ends() == {Node.embeds(YY)}
    assert not any(path.startswith("embeds@8 →v a9.h1@12") for path in values)


# One node is one value


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Node(11, "mlp", 7, END), "m11 has no number 7"),
        (lambda: Node(-1, "embeds", 4, YY), "embeds has no number 4"),
        (lambda: Node(3, "embeds", 0, YY), "embeds has no layer 3"),
        (lambda: Node(3, "residual", 0, YY), "residual has no layer 3"),
        (lambda: Node(11, "logits", 0, END), "logits has no layer 11"),
        (lambda: Node(-1, "mlp", 0, END), "mlp has no layer -1"),
        (lambda: Node.mlp(10**6, END), "mlp has no layer 1000000"),
        (lambda: Node.head(9, -1, END), "a9.h-1@12: numbers and positions are counted from 0"),
        (lambda: Node.mlp(9, -1), "m9@-1: numbers and positions are counted from 0"),
        (lambda: Node.mlp(9, 10**6), "m9@1000000: numbers and positions are counted from 0"),
        (lambda: Node(1, "foo", 0, END), "there is no node of kind 'foo'; kinds are mlp, head"),
        (lambda: Node(1, ["mlp"], 0, END), "there is no node of kind"),
        (lambda: Node(1, None, 0, END), "there is no node of kind None"),
        (lambda: Node.mlp(True, END), "whole numbers, not True"),
        (lambda: Node.head(9, True, END), "whole numbers, not True"),
        (lambda: Node.mlp(9, False), "whole numbers, not False"),
        (lambda: Node.mlp(np.True_, END), "whole numbers, not"),
        (lambda: PathSet.parse("a9.h1 → logits", end=True), "whole numbers, not True"),
        (lambda: PathSet.parse("m1@YY →v a9.h1 → logits", end=END, yy=True), "whole numbers, not True"),
    ],
)
def test_a_node_has_no_other_spelling(make, complaint):
    """Each of these was a node of its own beside the one that it prints as, or was taken for 0 or 1."""
    with pytest.raises(PathSetError, match=f"^.*{complaint}"):
        make()


def test_numbers_of_numpy_are_the_same_node_and_never_overflow():
    node = Node.head(np.int8(100), np.int64(3), np.uint8(200))
    assert node == Node.head(100, 3, 200)
    assert {type(each) for each in (node.layer, node.index, node.position)} == {int}
    assert node.depth == 201


@settings(deadline=None, derandomize=True)
@given(st.sampled_from(sorted(NAMES)), *[st.sampled_from([-2, -1, 0, 1, 11, LARGEST, LARGEST + 1])] * 3)
def test_every_node_comes_back_from_its_print(kind, layer, index, position):
    try:
        node = Node(layer, kind, index, position)
    except PathSetError:
        return
    assert Node.named(node.name, node.position) == node


# Printing


def test_a_path_prints_from_its_end_to_the_logits():
    paths = LOGITS.extend([Node.mlp(10, END)]).extend([Node.head(9, 1, END)]).extend([Node.mlp(3, YY)], "v")
    assert str(paths) == "m3@8 →v a9.h1@12 → m10@12 → logits@12"
    assert list(LOGITS.extend([Node.neuron(10, 5, END)])) == ["m10.n5@12 → logits@12"]
    assert list(LOGITS.extend([Node.residual(END)])) == ["residual@12 → logits@12"]
    assert str(LOGITS) == "logits@12"


def test_a_long_set_prints_its_first_paths_and_how_many_there_are_more():
    lines = str(LATE_HALF).splitlines()
    assert len(lines) == PATHS_SHOWN + 1
    assert lines[:-1] == list(LATE_HALF)[:PATHS_SHOWN]
    assert lines[-1] == f"… and {104 - PATHS_SHOWN} more"
    exactly = LOGITS.extend([Node.mlp(layer, END) for layer in range(PATHS_SHOWN)])
    assert len(str(exactly).splitlines()) == PATHS_SHOWN
    assert "more" not in str(exactly)


@pytest.mark.parametrize(
    ("node", "name"),
    [
        (Node.head(9, 1, END), "a9.h1"),
        (Node.mlp(10, END), "m10"),
        (Node.neuron(10, 5, END), "m10.n5"),
        (Node.embeds(YY), "embeds"),
        (Node.residual(YY), "residual"),
        (Node.logits(END), "logits"),
    ],
)
def test_nodes_have_the_papers_names(node, name):
    assert node.name == name
    assert str(node) == f"{name}@{node.position}"


def test_a_layer_is_a_row_of_a_sweep():
    names = [node.name for node in layer_nodes(3, 12, END)]
    assert names == [*(f"a3.h{head}" for head in range(12)), "m3"]


# Values


def test_sets_built_in_different_orders_are_equal():
    built = [
        LATE_HALF,
        LOGITS.through_chains(reversed(PAPER_MLPS)).extend(reversed(PAPER_HEADS)),
        LOGITS.through_chains([*PAPER_MLPS, *PAPER_MLPS]).extend([*PAPER_HEADS, *PAPER_HEADS[:2]]),
        union([CHAINS.extend([head]) for head in PAPER_HEADS]),
        union([LOGITS.through_chains(PAPER_MLPS[at:]).extend(PAPER_HEADS) for at in (3, 1, 0, 2)]),
    ]
    assert len({hash(paths) for paths in built}) == len(set(built)) == 1
    assert all(paths == LATE_HALF for paths in built)
    assert LATE_HALF != CHAINS
    assert CHAINS.extend(PAPER_HEADS[1:]) != LATE_HALF


def test_path_sets_are_frozen():
    for thing, field in ((LATE_HALF, "ends_here"), (LATE_HALF.node, "layer"), (LATE_HALF.branches[0], "via")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, field, getattr(thing, field))


def test_building_on_a_set_leaves_it_as_it_was():
    before = list(CHAINS)
    CHAINS.extend(PAPER_HEADS).through_chains([Node.mlp(1, YY)])
    assert (CHAINS | LATE_HALF) != CHAINS
    assert list(CHAINS) == before


def test_copies_are_equal():
    for again in (copy.deepcopy(LATE_HALF), pickle.loads(pickle.dumps(LATE_HALF)), dataclasses.replace(LATE_HALF)):
        assert again == LATE_HALF
        assert hash(again) == hash(LATE_HALF)


# Errors


def test_a_path_set_error_is_one_that_a_user_can_mend():
    assert issubclass(PathSetError, UserError)


def test_an_empty_set_is_an_error():
    with pytest.raises(PathSetError, match="empty"):
        PathSet(Node.logits(END), ends_here=False)
    with pytest.raises(PathSetError, match="empty"):
        union([])
    with pytest.raises(PathSetError, match="no node is given to extend the paths to"):
        LOGITS.extend([])


def test_the_published_sweep_of_query_inputs_at_yy_is_an_error():
    """A query at END reads END alone; the published code swept YY here and stored zeros."""
    at_yy = [Node.mlp(3, YY), Node.head(0, 1, YY), Node.embeds(YY)]
    for node in at_yy:
        assert not LATE_HALF.reachable(node, "q")
        assert LATE_HALF.reachable(node, "k")
        assert LATE_HALF.reachable(node, "v")
    with pytest.raises(PathSetError, match=r"m3@8 cannot be reached from a5.h1@12, .*\(via q\)"):
        LATE_HALF.extend(at_yy, "q")


@pytest.mark.parametrize(
    ("end", "sender", "via"),
    [
        (Node.mlp(3, END), Node.mlp(3, END), "all"),  # itself
        (Node.mlp(3, END), Node.mlp(4, END), "all"),  # downstream
        (Node.mlp(3, END), Node.head(4, 0, END), "all"),
        (Node.head(3, 0, END), Node.head(3, 1, END), "all"),  # beside it
        (Node.head(3, 0, END), Node.mlp(3, END), "all"),  # its own layer's MLP comes later
        (Node.head(3, 0, YY), Node.mlp(1, END), "all"),  # a later position
        (Node.mlp(3, END), Node.mlp(1, YY), "all"),  # MLPs read their own position
        (Node.mlp(3, END), Node.neuron(3, 0, END), "all"),
        (Node.mlp(3, END), Node.residual(YY), "all"),
        (Node.head(3, 0, END), Node.residual(YY), "q"),
        (Node.embeds(END), Node.embeds(END), "all"),  # these read nothing
        (Node.neuron(3, 0, END), Node.mlp(1, END), "all"),
        (Node.residual(END), Node.mlp(1, END), "all"),
        (Node.mlp(3, END), Node.logits(END), "all"),
        (Node.head(3, 0, END), Node.mlp(1, END), "in"),  # inputs that the node has not
        (Node.mlp(3, END), Node.mlp(1, END), "q"),
    ],
)
def test_what_cannot_be_reached_is_an_error(end, sender, via):
    ending = PathSet.at(end) if end.depth == 0 or end.position != END else LOGITS.extend([end])
    assert not ending.reachable(sender, via)
    with pytest.raises(PathSetError, match=f"{sender} cannot be reached from {end}"):
        ending.extend([sender], via)
    for way in INPUTS[end.kind] if via == "all" else [via]:
        with pytest.raises(PathSetError):
            PathSet(end, False, (Branch(way, PathSet.at(sender)),))


def test_a_heads_own_layer_mlp_reads_it():
    assert LOGITS.extend([Node.mlp(3, END)]).reachable(Node.head(3, 0, END))
    assert LOGITS.extend([Node.head(0, 0, END)]).reachable(Node.embeds(END), "q")
    assert LOGITS.extend([Node.head(1, 0, END)]).reachable(Node.residual(0), "k")
    assert LOGITS.extend([Node.mlp(3, END)]).reachable(Node.neuron(2, 0, END))


def test_steps_made_by_hand_say_what_is_wrong():
    head = Node.head(3, 0, END)
    for node, via, sender, message in (
        (head, "in", Node.mlp(1, END), "has no input 'in'; it has q, k, v"),
        (head, "x", Node.mlp(1, END), "has no input 'x'"),
        (Node.embeds(END), "in", Node.embeds(END), "has no input 'in'; it has none"),
        (head, "q", Node.mlp(3, END), "m3@12 is not upstream of a3.h0@12"),
        (head, "q", Node.mlp(1, YY), "m1@8 cannot reach input 'q' of a3.h0@12"),
    ):
        with pytest.raises(PathSetError, match=message):
            PathSet(node, False, (Branch(via, PathSet.at(sender)),))


def test_sets_from_different_nodes_have_no_union():
    with pytest.raises(PathSetError, match="no union"):
        LOGITS | PathSet.at(Node.mlp(3, END))


def test_extending_leaves_out_what_is_impossible_for_some_ends():
    both = LOGITS.extend([Node.head(9, 1, END), Node.head(5, 5, END)])
    extended = both.extend([Node.mlp(7, YY)], "v")
    assert list(extended) == ["m7@8 →v a9.h1@12 → logits@12"]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (Node.mlp(12, END), "m12@12: the model has 12 layers of 12 heads"),
        (Node.neuron(12, 0, END), "m12.n0@12: the model has 12 layers"),
        (Node.neuron(11, 48, END), "m11.n48@12: the model has 48 neurons"),
        (Node.head(11, 12, END), "a11.h12@12: the model has 12 layers of 12 heads"),
        (Node.logits(13), "logits@13: the sentences have positions 0 to 12"),
    ],
)
def test_nodes_that_a_model_lacks(node, message):
    with pytest.raises(PathSetError, match=message):
        node.check_fits(n_layers=12, n_heads=12, d_mlp=48, n_positions=13)


def test_nodes_that_a_model_has():
    for node in LATE_HALF.nodes() | {Node.residual(END), Node.neuron(11, 5, END), Node.embeds(0)}:
        node.check_fits(n_layers=12, n_heads=12, d_mlp=48, n_positions=13)


# Sharing


def test_long_chains_share_their_tails():
    """4,096 chains of 12 MLPs with a head of layer 0 below each: fifteen nodes, not thousands."""
    started = time.perf_counter()
    mlps = [Node.mlp(layer, END) for layer in range(12)]
    chains = LOGITS.through_chains(mlps).extend([Node.head(0, head, END) for head in range(12)])
    assert len(chains) == 12 * 4096
    again = LOGITS.through_chains(reversed(mlps)).extend([Node.head(0, head, END) for head in reversed(range(12))])
    assert chains == again
    assert {chains: "found"}[again] == "found"
    assert len(chains.nodes()) == 25
    assert chains.ends() == again.ends()
    assert len(chains.extend([Node.embeds(END)], "q")) == 12 * 4096
    assert len(str(chains).splitlines()) == PATHS_SHOWN + 1
    assert time.perf_counter() - started < 2


def test_paths_of_the_most_steps_can_be_walked_and_longer_ones_are_one_line():
    """A chain of a thousand MLPs ended in a RecursionError."""
    longest = [f"m{layer}" for layer in range(DEEPEST)]
    chain = PathSet.parse(" → ".join([*longest, "logits"]), end=END)
    assert chain.count() == 1
    assert PathSet.parse(str(chain | LOGITS)) == chain | LOGITS
    mlps = [Node.mlp(layer, END) for layer in range(DEEPEST + 1)]
    assert LOGITS.through_chains(mlps[:-1]).count() == 2**DEEPEST
    for make in (
        lambda: PathSet.parse(" → ".join([*longest, f"m{DEEPEST}", "logits"]), end=END),
        lambda: LOGITS.through(*reversed(mlps)),
        lambda: LOGITS.through_chains(mlps),
    ):
        with pytest.raises(PathSetError, match=f"a path of {DEEPEST + 1} steps or more: at most {DEEPEST}"):
            make()


@pytest.mark.parametrize(
    "text", ["m1" * 5000, f"m1 → m2@{'1' * 5000}", f"q {'1' * 5000} → m1", f"m1@{'x' * 5000} → logits"]
)
def test_a_message_quotes_the_beginning_of_a_long_text(text):
    with pytest.raises(PathSetError) as error:
        PathSet.parse(text, end=END)
    assert len(str(error.value)) < 300


# Path sets against sets of paths. A path is a tuple of steps (via, node), the first ("", logits).

SMALL_END = 2
KINDS = st.sampled_from(["head", "mlp", "embeds", "neuron", "residual"])


def node_of(kind: str, layer: int, index: int, position: int) -> Node:
    if kind in ("head", "neuron"):
        return getattr(Node, kind)(layer, index, position)
    return Node.mlp(layer, position) if kind == "mlp" else getattr(Node, kind)(position)


nodes = st.builds(node_of, KINDS, st.integers(0, 2), st.integers(0, 1), st.sampled_from([SMALL_END, SMALL_END, 0, 1]))
node_lists = st.lists(nodes, min_size=1, max_size=5)
vias = st.sampled_from(["all", "all", "q", "k", "v", "in"])


@st.composite
def path_sets(draw: st.DrawFn) -> PathSet:
    """Two to four operations, each on the set so far; impossible ones are skipped."""
    paths = PathSet.at(Node.logits(SMALL_END))
    for _ in range(draw(st.integers(1, 4))):
        senders, via, how = draw(node_lists), draw(vias), draw(st.sampled_from(["extend", "through", "add"]))
        if how == "through":
            paths = paths.through_chains(senders[:3])
        elif any(paths.reachable(sender, via) for sender in senders):
            extended = paths.extend(senders, via)
            paths = paths | extended if how == "add" else extended
    return paths


def enumerate_paths(paths: PathSet, so_far: tuple = ()) -> list[tuple]:
    so_far = so_far or (("", paths.node),)
    here = [so_far] if paths.ends_here else []
    return here + [
        path
        for branch in paths.branches
        for path in enumerate_paths(branch.paths, (*so_far, (branch.via, branch.paths.node)))
    ]


def may_step(reader: Node, via: str, sender: Node) -> bool:
    """From the order of a forward pass: heads of layer l run at 2l + 1, its MLP at 2l + 2, the logits last."""

    def time_of(node: Node) -> float:
        times = {"embeds": 0, "residual": 0, "head": 2 * node.layer + 1, "logits": float("inf")}
        return times.get(node.kind, 2 * node.layer + 2)

    ways = {"head": "qkv", "mlp": ["in"], "logits": ["in"]}.get(reader.kind, [])
    at = sender.position <= reader.position if via in ("k", "v") else sender.position == reader.position
    return via in ways and at and time_of(sender) < time_of(reader)


def extend_by_hand(paths: set[tuple], senders: list[Node], via: str) -> set[tuple]:
    ways = ["q", "k", "v", "in"] if via == "all" else [via]
    return {
        (*path, (way, node)) for path in paths for way in ways for node in senders if may_step(path[-1][1], way, node)
    }


def through_by_hand(paths: set[tuple], senders: list[Node]) -> set[tuple]:
    longer = extend_by_hand(paths, senders, "all")
    return paths | through_by_hand(longer, senders) if longer else paths


properties = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much]
)


@properties
@given(path_sets())
def test_a_set_holds_each_path_once_and_counts_them(paths):
    every = enumerate_paths(paths)
    assert len(set(every)) == len(every) == len(paths) == len(list(paths)) == len(set(paths))
    assert paths.ends() == {path[-1][1] for path in every}
    assert paths.nodes() == {node for path in every for _, node in path}


@properties
@given(path_sets())
def test_every_path_goes_upstream_and_is_printed_as_it_is(paths):
    for path, text in zip(enumerate_paths(paths), paths, strict=True):
        steps = list(pairwise(path))
        assert all(may_step(reader, via, sender) for (_, reader), (via, sender) in steps)
        words = [str(path[-1][1])]
        for (_, reader), (via, _) in reversed(steps):
            words += ["→" if via == "in" else f"→{via}", str(reader)]
        assert text == " ".join(words)


@properties
@given(path_sets(), node_lists, vias)
def test_extending_extends_every_path(paths, senders, via):
    expected = extend_by_hand(set(enumerate_paths(paths)), senders, via)
    assert [paths.reachable(sender, via) for sender in senders] == [
        bool(extend_by_hand(set(enumerate_paths(paths)), [sender], via)) for sender in senders
    ]
    if expected:
        assert set(enumerate_paths(paths.extend(senders, via))) == expected
    else:
        with pytest.raises(PathSetError, match="cannot be reached"):
            paths.extend(senders, via)


@properties
@given(path_sets(), node_lists)
def test_through_adds_every_chain_and_adds_it_once(paths, senders):
    through = paths.through_chains(senders[:3])
    assert set(enumerate_paths(through)) == through_by_hand(set(enumerate_paths(paths)), senders[:3])
    assert through.through_chains(senders[:3]) == through
    assert through | paths == through


@properties
@given(path_sets(), node_lists)
def test_ending_at_keeps_the_paths_that_end_there(paths, ends):
    expected = {path for path in enumerate_paths(paths) if path[-1][1] in ends}
    if expected:
        assert set(enumerate_paths(paths.ending_at(ends))) == expected
    else:
        with pytest.raises(PathSetError, match="no path of the set ends at"):
            paths.ending_at(ends)


@properties
@given(path_sets(), path_sets())
def test_a_union_holds_the_paths_of_both(first, second):
    both = first | second
    assert set(enumerate_paths(both)) == set(enumerate_paths(first)) | set(enumerate_paths(second))
    assert both == second | first == union([first, second, first])
    assert hash(both) == hash(second | first)
    assert first | first == first


@properties
@given(path_sets(), path_sets(), path_sets())
def test_unions_associate(first, second, third):
    assert (first | second) | third == first | (second | third)


@properties
@given(path_sets(), path_sets(), node_lists, vias)
def test_extending_and_through_distribute_over_unions(first, second, senders, via):
    assert (first | second).through_chains(senders[:3]) == first.through_chains(senders[:3]) | second.through_chains(
        senders[:3]
    )
    parts = [paths.extend(senders, via) for paths in (first, second) if can_extend(paths, senders, via)]
    if parts:
        assert (first | second).extend(senders, via) == union(parts)
        assert not can_extend(first, senders[:1], via) or first.extend(senders, via) == union(
            first.extend([sender], via) for sender in senders if first.reachable(sender, via)
        )


def can_extend(paths: PathSet, senders: list[Node], via: str) -> bool:
    return any(paths.reachable(sender, via) for sender in senders)


@properties
@given(path_sets(), path_sets())
def test_sets_are_equal_exactly_if_their_paths_are(first, second):
    same = set(enumerate_paths(first)) == set(enumerate_paths(second))
    assert (first == second) == same
    assert not same or hash(first) == hash(second)


def test_a_union_shares_what_its_sets_share():
    """Ten layers of three heads and an MLP: multiplying the shared tails out would take hours."""
    nodes = [
        node for layer in range(10) for node in [*(Node.head(layer, h, END) for h in range(3)), Node.mlp(layer, END)]
    ]
    a, b = LOGITS.through_chains(nodes), LOGITS.through_chains(nodes[:-1])
    both = a | b
    assert both == a
    assert bool(both)
    assert "more" in str(both)
    assert both.count() == a.count()


def test_an_input_that_no_node_has_is_named():
    with pytest.raises(PathSetError, match="there is no input 'x'"):
        LOGITS.extend([Node.mlp(3, END)], via="x")


# Paths as text.


@properties
@given(path_sets())
def test_what_is_printed_is_read_back(paths):
    text = "\n".join(paths)
    assert PathSet.parse(text) == paths
    assert PathSet.parse(text.replace("→", "->").replace("\n", ";")) == paths


@pytest.mark.parametrize(
    "text", ["a9.h1@END -> m10@END -> logits@END", "a9.h1→m10→logits", " a9.h1@12 →  m10 → logits\n"]
)
def test_a_node_without_a_position_stands_at_end_whatever_the_arrows(text):
    assert PathSet.parse(text, end=END, yy=YY) == LOGITS.through(Node.mlp(10, END), Node.head(9, 1, END))


def test_an_arrow_into_a_head_names_its_input_or_means_all_that_can_be_reached():
    head = LOGITS.through(Node.head(9, 1, END))
    values = PathSet.parse("m3@YY →v a9.h1 → logits", end=END, yy=YY)
    assert values == head.extend([Node.mlp(3, YY)], "v")
    assert PathSet.parse("m3@YY -> a9.h1 -> logits", end=END, yy=YY) == head.extend([Node.mlp(3, YY)])
    assert {branch.via for branch in PathSet.parse("m3 → a9.h1 → logits", end=END).branches[0].paths.branches} == {
        *"qkv"
    }


def test_every_kind_of_node_can_be_written():
    text = "embeds@8 →k a9.h1@12 → logits@12; residual@3 →v a9.h1@12 → logits@12; m10.n5@12 → logits@12"
    assert {node.kind for node in PathSet.parse(text).ends()} == {"embeds", "residual", "neuron"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text holds no path"),
        ("a9.h1 → m10", "goes up to m10@12; a path goes up to the logits"),
        ("m10 → a9.h1 → logits", "m10@12 cannot be reached from a9.h1@12"),
        ("a9.h1@YY → logits", "cannot be reached from logits@12"),
        ("a9.h1@there → logits", "where is there"),
        ("m08 → logits", "'m08' is not a node"),
        ("a07.h1 → logits", "'a07.h1' is not a node"),
        ("m1.n05 → logits", "'m1.n05' is not a node"),
        ("m1٣ → logits", "'m1٣' is not a node"),
        ("m1 → m8,m10 → logits", "write several paths out, with ; between them"),
        ("m8@012 → logits", "where is 012"),
        ("m8@١٢ → logits", "where is ١٢"),
        ("m3 →v m8 → logits", "none of these has an input 'v'"),
        ("m10 →v logits", "none of these has an input 'v'"),
        ("m10@ → logits", "where is nothing"),
        ("→ logits", "'' is not a node"),
        ("a9.h1 → logits\n… and 7 more", "cut short"),
    ],
)
def test_text_that_is_no_path_is_refused(text, message):
    with pytest.raises(PathSetError, match=message):
        PathSet.parse(text, end=END, yy=YY)


def test_a_position_by_name_has_to_be_said():
    with pytest.raises(PathSetError, match="where is YY"):
        PathSet.parse("m3@YY →v a9.h1 → logits", end=END)


def test_a_set_too_large_to_print_says_so_and_is_not_read_back_as_what_is_shown():
    with pytest.raises(PathSetError, match=r'cut short .* to 12 paths; "\\n"\.join\(paths\) has all paths of a set'):
        PathSet.parse(str(LATE_HALF))
    assert PathSet.parse("\n".join(LATE_HALF)) == LATE_HALF
    assert repr(LOGITS.through(Node.mlp(10, END))) == "<PathSet of 1 path: m10@12 → logits@12>"


def test_through_is_one_chain_and_through_chains_every_one():
    m11, m10 = Node.mlp(11, END), Node.mlp(10, END)
    assert list(LOGITS.through(m11, m10)) == ["m10@12 → m11@12 → logits@12"]
    assert [*LOGITS.through_chains([m10, m11])] == [
        "logits@12",
        "m10@12 → logits@12",
        "m11@12 → logits@12",
        "m10@12 → m11@12 → logits@12",
    ]
    with pytest.raises(PathSetError, match="m11@12 cannot be reached from m10@12"):
        LOGITS.through(m10, m11)


def test_everything_downstream_is_every_chain_of_later_nodes_at_all_positions():
    paths = PathSet.all_downstream([Node.mlp(0, 1)], end=2, n_layers=2, n_heads=1)
    assert {*paths} == {
        "m0@1 →k a1.h0@2 → logits@2",
        "m0@1 →v a1.h0@2 → logits@2",
        "m0@1 →k a1.h0@2 → m1@2 → logits@2",
        "m0@1 →v a1.h0@2 → m1@2 → logits@2",
    }


def test_a_message_names_no_more_nodes_than_can_be_read():
    with pytest.raises(PathSetError, match="name at least one"):
        PathSet.all_downstream([], END, n_layers=12, n_heads=12)
    everything = [node for layer in range(12) for node in layer_nodes(layer, 12, END)]
    with pytest.raises(PathSetError, match=r"m3@8 cannot be reached from .*, and \d+ more") as refused:
        LOGITS.through_chains(everything).extend([Node.mlp(3, YY)], "q")
    assert len(str(refused.value)) < 300


HEAD = Node.head(9, 1, END)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: PathSet.at("m10"), "'m10' is no node; write one like Node.head"),
        (lambda: LOGITS.extend("a9.h1"), "'a9.h1' is no list of nodes; write one like"),
        (lambda: LOGITS.extend(HEAD), "is no list of nodes"),
        (lambda: LOGITS.extend(["a9.h1"]), "'a9.h1' is no node"),
        (lambda: LOGITS.extend(3), "3 is no list of nodes"),
        (lambda: LOGITS.through("m10"), "'m10' is no node"),
        (lambda: LOGITS.through_chains(HEAD), "is no list of nodes"),
        (lambda: LOGITS.through_chains("m10"), "'m10' is no list of nodes"),
        (lambda: LOGITS.ending_at("logits"), "'logits' is no list of nodes"),
        (lambda: LOGITS.reachable("m10"), "'m10' is no node"),
        (lambda: union(["a9.h1 → logits"]), "'a9.h1 → logits' is no path set"),
        (lambda: LOGITS | LOGITS.passing([HEAD]), "None is no path set"),
        (lambda: LOGITS.avoiding_steps([("logits", "in", "m10")]), "is no step; write one like"),
        (lambda: PathSet.all_downstream(HEAD, END, 12, 12), "is no list of nodes"),
        (lambda: PathSet.all_downstream([HEAD], "12", 12, 12), "whole numbers, not '12'"),
        (lambda: PathSet.all_downstream([HEAD], END, "12", 12), "whole numbers, not '12'"),
        (lambda: PathSet.all_downstream([HEAD], END, 12, True), "whole numbers, not True"),
        (lambda: Node.named(None, END), "None is no node's name"),
        (lambda: Node.named(["m3"], END), r"\['m3'\] is no node's name"),
        (lambda: PathSet.parse(LOGITS), "is no text"),
        (lambda: PathSet.parse("m10 → logits", end="12"), "whole numbers, not '12'"),
        (lambda: PathSet.parse("m1@YY → logits", end=END, yy="8"), "whole numbers, not '8'"),
        (lambda: Node.head("9", 1, END), "whole numbers, not '9'"),
        (lambda: Node.mlp(9.5, END), "whole numbers, not 9.5"),
        (lambda: PathSet(Node.logits(END), ends_here=1), "give True or False, not 1"),
    ],
)
def test_what_is_of_another_type_is_one_line(make, complaint):
    with pytest.raises(PathSetError, match=complaint) as error:
        make()
    assert "\n" not in str(error.value)


def test_paths_that_pass_a_node_and_those_that_avoid_it_are_all():
    paths = PathSet.parse("m0@1 →v a1.h0 → m1 → logits; a1.h0 → logits; a0.h0 → m1 → logits; m1 → logits", end=2)
    for nodes in ([Node.head(1, 0, 2)], [Node.mlp(1, 2)], [Node.mlp(0, 1), Node.head(0, 0, 2)]):
        passing, avoiding = paths.passing(nodes), paths.avoiding(nodes)
        assert passing is not None
        assert avoiding is not None
        assert passing.count() + avoiding.count() == paths.count()
        assert passing | avoiding == paths
        assert all(any(str(node) in path for node in nodes) for path in passing)
        assert not any(str(node) in path for node in nodes for path in avoiding)


def test_no_paths_pass_a_node_elsewhere_and_all_pass_the_logits():
    paths = PathSet.parse("a1.h0 → m1 → logits", end=2)
    elsewhere = [Node.mlp(1, 1)]
    assert (paths.passing(elsewhere), paths.avoiding(elsewhere)) == (None, paths)
    assert (paths.passing([]), paths.avoiding([])) == (None, paths)
    assert (paths.passing([Node.logits(2)]), paths.avoiding([Node.logits(2)])) == (paths, None)
    assert paths.avoiding([Node.mlp(1, 2)]) is None


def test_paths_that_avoid_a_step_may_pass_its_ends():
    paths = PathSet.parse("a1.h0 → m1 → logits; a1.h0 → logits; m0@1 →k a1.h0 → m1 → logits", end=2)
    step = (Node.mlp(1, 2), "in", Node.head(1, 0, 2))
    assert paths.avoiding_steps([step]) == PathSet.parse("a1.h0 → logits", end=2)
    assert paths.avoiding_steps([step, (Node.logits(2), "in", Node.head(1, 0, 2))]) is None
    assert paths.avoiding_steps([step]) | paths.passing_steps([step]) == paths
    assert paths.passing_steps([step]).avoiding_steps([step]) is None
    assert paths.avoiding_steps([(Node.head(1, 0, 2), "v", Node.mlp(0, 1))]) == paths
