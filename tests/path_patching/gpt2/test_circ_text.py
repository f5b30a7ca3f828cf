"""The description of a model, as rust_circuit's readers have it: read as it was written, or not at all."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from path_patching.gpt2.circ_text import HASH_DIGITS, INFO, Description, from_text, to_text
from path_patching.gpt2.model import Architecture

SIZES = Architecture(n_layers=2, n_heads=2, d_model=8, d_head=4, d_mlp=16, n_positions=9, vocab_size=20)
HASHES = {name: f"{number:0{HASH_DIGITS}x}" for number, name in enumerate(SIZES.tensor_shapes())}
DESCRIPTION = Description(SIZES, HASHES, {"folder": "mine"})
TEXT = to_text(DESCRIPTION)


def with_info(change) -> str:
    """The text, its first line changed."""
    first, rest = TEXT.split("\n", 1)
    info = json.loads(first.removeprefix(INFO))
    change(info)
    return f"{INFO}{json.dumps(info)}\n{rest}"


def test_a_description_is_the_same_after_a_text():
    assert from_text(TEXT) == DESCRIPTION


@pytest.mark.parametrize("layers", [3, 1, 0, -1, "2", None, [2], 2.5, 10**9])
def test_layers_that_have_no_tensors_are_refused(layers):
    with pytest.raises(ValueError, match="its tensors are not those of"):
        from_text(with_info(lambda info: info["params"].update(num_layers=layers)))


def test_a_tensor_that_is_there_twice_is_refused():
    line = next(line for line in TEXT.splitlines() if "m1.w.proj_in_arr" in line)
    other = line.replace(HASHES["m1.w.proj_in_arr"], HASH_DIGITS * "f")
    with pytest.raises(ValueError, match="a tensor is there twice"):
        from_text(f"{TEXT}{other}\n")


LINES = TEXT.splitlines()
SPLICED = st.sampled_from(
    ["0", "1", "a", ",", "[", "]", "'", "\n", "{", "}", "[" * 5000, "9" * 5000, "NaN", "٣", "\ud800"]
)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["gelu", "x"]), st.lists(st.none())
)


@st.composite
def texts(draw) -> str:
    """The text with something of its first line changed, with lines dropped or doubled, or spoiled anywhere."""
    names = ["num_layers", "block_params", "use_norm_output", "mlp_act_type"]

    def change(info: dict) -> None:
        part = draw(st.sampled_from([info, info["params"], info["params"]["block_params"]]))
        part[draw(st.sampled_from([*part, *names]))] = draw(VALUES)

    lines = (with_info(change) if draw(st.booleans()) else TEXT).splitlines()
    number, times = draw(st.integers(0, len(lines) - 1)), draw(st.sampled_from([0, 1, 1, 2]))
    text = "\n".join([*lines[:number], *times * [lines[number]], *lines[number + 1 :]]) + "\n"
    if draw(st.booleans()):
        return text
    place = draw(st.integers(0, len(text)))
    return text[:place] + draw(SPLICED) + text[place + draw(st.integers(0, 3)) :]


@tried(max_examples=120, deadline=None, derandomize=True)
@given(text=texts())
def test_any_text_is_a_whole_description_or_a_value_error(text):
    try:
        found = from_text(text)
    except ValueError:
        return
    assert from_text(to_text(found)) == found
    assert found.hashes.keys() == found.architecture.tensor_shapes().keys()
    assert all(f"'{name}'" in text and hash_ in text for name, hash_ in found.hashes.items())
