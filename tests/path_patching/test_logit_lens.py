"""The lens of what is in the residual stream at END is the model's own logits."""

from __future__ import annotations

import torch

from path_patching.engine import Sentences
from path_patching.gpt2.model import Architecture, random_model
from path_patching.paths import Node
from path_patching.torch_engine.engine import TorchEngine
from path_patching.unembedding import logit_lens
from tests.helpers.plain_gpt2 import logits
from utils import later_above_others

MODEL = random_model(Architecture(2, 2, 8, 4, 12, 8, 50))
TOKENS = torch.randint(0, 50, (4, 6), generator=torch.Generator().manual_seed(0))
ANSWERS = torch.tensor([3, 49, 0])


def test_the_lens_of_the_whole_stream_is_the_models_logits():
    engine = TorchEngine(MODEL, Sentences(TOKENS, TOKENS, ANSWERS))
    lens = logit_lens(engine.residual(Node.logits(5)), MODEL, ANSWERS)
    assert lens.dtype == torch.float64
    torch.testing.assert_close(lens, logits(MODEL, TOKENS)[:, -1, ANSWERS], rtol=1e-5, atol=1e-5)


def test_the_lens_does_not_depend_on_a_writes_size():
    write = torch.randn(2, 4, 8)
    torch.testing.assert_close(
        logit_lens(100 * write, MODEL, ANSWERS), logit_lens(300 * write, MODEL, ANSWERS), rtol=1e-3, atol=1e-3
    )


def test_later_years_are_set_against_the_others():
    logits = torch.zeros(2, 100, dtype=torch.float64)
    logits[0, 33:] = 3.0
    logits[1, :50] = 1.0
    found = later_above_others(logits, torch.tensor([32, 98]))
    torch.testing.assert_close(found, torch.tensor([3.0, -50 / 99], dtype=torch.float64))
