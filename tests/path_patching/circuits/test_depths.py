from __future__ import annotations

import pytest

from path_patching.circuits.circuit import END, YY, Circuit, Link
from path_patching.circuits.depths import BINS, histogram, mean_depth, relative_depth, shared

CHAIN = ("embeds@YY → m0@YY", "m0@YY →v a2.h1@END", "a2.h1@END → m4@END", "m4@END → logits@END")
LONGER = ("embeds@YY → m1@YY", "m1@YY →v a8.h0@END", "a8.h0@END → m11@END", "a8.h0@END → m10@END",
          "m10@END → logits@END", "m11@END → logits@END")  # fmt: skip


def circuit(links: tuple[str, ...]) -> Circuit:
    return Circuit("a circuit", tuple(map(Link.parse, links)))


def test_depth_goes_from_0_in_the_first_layer_to_1_in_the_last():
    assert [relative_depth(f"a{layer}.h3@END", 5) for layer in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert relative_depth("m0", 1) == 0


@pytest.mark.parametrize("n_layers", [6, 12, 24, 36, 48])
def test_each_bin_holds_as_many_layers_of_a_gpt2(n_layers):
    heads = [f"a{layer}.h0@END" for layer in range(n_layers)]
    links = [f"everything →v {head}; {head} → logits@END" for head in heads]
    every = circuit(tuple("; ".join(links).split("; ")))
    assert histogram(every, n_layers) == {("head", END, each): pytest.approx(1 / BINS) for each in range(BINS)}


def test_mean_depth_is_of_one_kind_at_one_place():
    longer = circuit(LONGER)
    assert mean_depth(longer, "mlp", END, 12) == pytest.approx(10.5 / 11)
    assert mean_depth(longer, "mlp", YY, 12) == pytest.approx(1 / 11)
    assert mean_depth(longer, "head", END, 12) == pytest.approx(8 / 11)
    assert mean_depth(longer, "head", YY, 12) is None


def test_circuits_share_what_lies_as_deep_whatever_their_sizes():
    """m0 of 5 layers and m1 of 12 are in the first bin at YY, m4 and m10, m11 in the last; a2 in bin 3, a8 in bin 4."""
    of_five, of_twelve = histogram(circuit(CHAIN), 5), histogram(circuit(LONGER), 12)
    assert of_five == pytest.approx({("mlp", YY, 0): 1 / 3, ("head", END, 3): 1 / 3, ("mlp", END, 5): 1 / 3})
    assert of_twelve == pytest.approx({("mlp", YY, 0): 1 / 4, ("head", END, 4): 1 / 4, ("mlp", END, 5): 1 / 2})
    assert shared(of_five, of_twelve) == pytest.approx(1 / 4 + 1 / 3)
    assert shared(of_twelve, of_five) == pytest.approx(1 / 4 + 1 / 3)
    assert shared(of_twelve, of_twelve) == pytest.approx(1)


def test_a_place_and_a_kind_are_told_apart():
    at_end = circuit(("everything →v a1.h0@END", "a1.h0@END → m1@END", "m1@END → logits@END"))
    at_yy = circuit(("embeds@YY → m1@YY", "m1@YY →v a4.h0@END", "a4.h0@END → logits@END"))
    assert shared(histogram(at_end, 5), histogram(at_yy, 5)) == 0
