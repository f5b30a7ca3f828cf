"""A metric gives one finite number for each sentence, or a line that says what it gave."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from path_patching.circuits.circuit import full_circuit
from path_patching.circuits.links import link_effects
from path_patching.circuits.rivals import compared
from path_patching.circuits.search import find_circuit
from path_patching.circuits.validation.measuring import Scale, measured
from path_patching.engine import Request
from path_patching.errors import UserError
from path_patching.metrics import measured_by
from path_patching.neurons import neuron_effects, read_neurons
from path_patching.paths import Node, PathSet
from path_patching.sweeps import changes, direct_effects_on, effect, effects_of, effects_on, remembered_effects
from tests.helpers.engines import make_engine
from tests.helpers.planted import END, LARGER, YEARS, YY, planted_model, planted_sentences
from utils import greater_than

PROBS = torch.rand(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ROWS = torch.arange(5)
NAN = float("nan")


@pytest.mark.parametrize(
    "found",
    [
        ROWS, ROWS.double(), ROWS.float(), ROWS.half(), ROWS.bfloat16(), ROWS.to(torch.uint8), ROWS.numpy(),
        ROWS.float().numpy(), ROWS.float().requires_grad_(),
    ],
)  # fmt: skip
def test_any_real_numbers_are_the_same_metric(found):
    measured_values = measured_by(lambda _: found, PROBS)
    assert measured_values.dtype == torch.float64
    assert measured_values.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert not measured_values.requires_grad


@pytest.mark.parametrize("found", [ROWS > 2, (ROWS > 2).numpy()])
def test_an_accuracy_is_a_metric(found):
    assert measured_by(lambda _: found, PROBS).tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]


WRONG = {
    "a column": (lambda probs: probs[:, :1], r"gives \(5, 1\) for 5 sentences"),
    "a row": (lambda probs: probs[None, :, 0], r"gives \(1, 5\) for 5 sentences"),
    "all answers": (lambda probs: probs, r"gives \(5, 7\) for 5 sentences"),
    "its mean": (lambda probs: probs.mean(), r"gives \(\) for 5 sentences"),
    "too few": (lambda probs: probs[:3, 0], r"gives \(3,\) for 5 sentences"),
    "numpy's mean": (lambda probs: probs.numpy().mean(), "of type float64"),
    "a float": (lambda probs: 0.5, "gives 0.5, of type float"),
    "a list": (lambda probs: [0.0] * len(probs), "of type list"),
    "nothing": (lambda probs: None, "gives None, of type NoneType"),
    "texts": (lambda probs: np.array(["a"] * len(probs)), "of type ndarray"),
    "sparse": (lambda probs: probs[:, 0].to_sparse(), "a tensor of layout"),
    "quantized": (
        lambda probs: torch.quantize_per_tensor(probs[:, 0].float(), 0.1, 0, torch.qint8),
        "a tensor of torch",
    ),
    "meta": (lambda probs: torch.empty(len(probs), device="meta"), "a tensor without numbers"),
    "masked": (lambda probs: np.ma.masked_less(probs[:, 0].numpy(), 0.5), "of type MaskedArray"),
    "complex": (lambda probs: probs[:, 0] + 0j, "complex numbers"),
    "NaN": (
        lambda probs: probs[:, 0].where(torch.arange(len(probs)) != 2, NAN),
        r"is nan for sentence 2, and not .* 1 of",
    ),
    "a log of 0": (lambda probs: (0 * probs[:, 0]).log(), r"is -inf for sentence 0"),
    "no function": ("probability", "'probability' is no metric; give a function"),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_number_a_sentence_is_one_line(wrong):
    metric, complaint = WRONG[wrong]
    with pytest.raises(UserError, match=complaint) as error:
        measured_by(metric, PROBS)
    assert "\n" not in str(error.value)


LOGITS = PathSet.at(Node.logits(END))
HEADS = [Node.head(1, 1, END)]
ASK = {
    "changes": lambda engine, metric: changes(engine, LOGITS, metric),
    "effect": lambda engine, metric: effect(engine, LOGITS, metric),
    "effects_of": lambda engine, metric: effects_of(engine, LOGITS, HEADS, metric),
    "effects_on": lambda engine, metric: effects_on(engine, LOGITS, metric, END),
    "direct_effects_on": lambda engine, metric: direct_effects_on([engine], [metric]),
    "a search": lambda engine, metric: find_circuit(engine, metric, YY, END),
    "remembered": lambda engine, metric: remembered_effects(engine, metric)(LOGITS, END),
    "links": lambda engine, metric: link_effects(engine, LARGER, metric, YY, END),
    "rivals": lambda engine, metric: compared(engine, metric, [LARGER], YY, END),
    "measured": lambda engine, metric: measured(engine, [Request.clean()], [metric]),
    "a scale": lambda engine, metric: Scale.of(engine, metric),
    "neurons": lambda engine, metric: neuron_effects(read_neurons(engine, 2), lambda rows: metric),
}


@pytest.mark.parametrize("asked", ASK)
@pytest.mark.parametrize("wrong", ["a column", "its mean", "a float", "NaN"])
def test_it_is_looked_at_whoever_asks(asked, wrong):
    """(N, 1) was broadcast to (N, N), a scalar found circuits, and NaN was ranked first."""
    engine = make_engine("torch", planted_model(), planted_sentences())
    with pytest.raises(UserError, match=r"^the metric "):
        ASK[asked](engine, WRONG[wrong][0])


@pytest.mark.parametrize("asked", ["effects_on", "direct_effects_on", "a search", "links", "rivals", "a scale"])
def test_an_accuracy_works_whoever_asks(asked):
    engine = make_engine("torch", planted_model(), planted_sentences())
    ASK[asked](engine, lambda probs: probs.argmax(1) > YEARS)


# YY is where twins differ

WRONG_YY = {
    "a search": lambda engine, yy: find_circuit(engine, greater_than(YEARS), yy, END),
    "links": lambda engine, yy: link_effects(engine, LARGER, greater_than(YEARS), yy, END),
    "rivals": lambda engine, yy: compared(engine, greater_than(YEARS), [LARGER], yy, END),
}


@pytest.mark.parametrize("asked", WRONG_YY)
@pytest.mark.parametrize("yy", [YY - 1, YY + 1, END, END + 5, -1, True, None])
def test_a_position_at_which_no_twin_differs_is_not_followed_to(asked, yy):
    engine = make_engine("torch", planted_model(), planted_sentences())
    with pytest.raises(UserError, match=rf"^YY: twins differ at position {YY}, not at {yy}; give that as YY$"):
        WRONG_YY[asked](engine, yy)


@pytest.mark.parametrize("yy", [None, "8", 8.5, True])
def test_a_circuit_is_not_followed_to_what_is_no_position(yy):
    with pytest.raises(UserError, match=rf"whole numbers, not {yy!r}$"):
        full_circuit(LARGER, yy, END)


@pytest.mark.parametrize("yy", [END + 1, -1])
def test_a_circuit_reads_at_end_what_was_written_before_it(yy):
    with pytest.raises(UserError, match=rf"YY at {yy} and END at {END}"):
        full_circuit(LARGER, yy, END)


def test_a_sweep_together_takes_what_it_is_asked_once():
    """Of a generator nothing was left when it was read a second time."""
    engine, metric = make_engine("torch", planted_model(), planted_sentences()), greater_than(YEARS)
    of_generators = direct_effects_on((each for each in [engine, engine]), (each for each in [metric, metric]))
    of_lists = direct_effects_on([engine, engine], [metric, metric])
    assert len(of_generators) == 2
    assert all(torch.equal(one, other) for one, other in zip(of_generators, of_lists, strict=True))
    with pytest.raises(UserError, match="2 engines need a metric each, not 1"):
        direct_effects_on([engine, engine], [metric])
