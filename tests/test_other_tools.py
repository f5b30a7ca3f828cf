"""The page on other tools does what it says: models go to `transformers` and TransformerLens, and come back."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from path_patching.files import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "other-tools.md").read_text(), re.DOTALL)
TOKENS = torch.tensor([[50256, 464, 1175, 15436]])  # The war lasted


def test_a_model_goes_to_transformers_and_comes_back(tmp_path: Path) -> None:
    names: dict[str, object] = {"folder": tmp_path / "saved"}
    exec(BLOCKS[0], names)
    model, again, tokenizer = (names[name] for name in ("model", "again", "tokenizer"))
    assert again.architecture == model.architecture
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in model.tensors.items())
    assert tokenizer.name_or_path == "gpt2"
    assert tokenizer.decode(tokenizer(" lasted").input_ids) == " lasted"


def test_model_and_tokenizer_go_to_transformer_lens(tmp_path: Path) -> None:
    """By the block for the version that is there."""
    pytest.importorskip("transformer_lens", reason="TransformerLens is not installed (benchmarks/README.md)")
    block = 1 if int(version("transformer_lens").split(".")[0]) < 4 else 2
    names: dict[str, object] = {"folder": tmp_path / "saved"}
    with torch.no_grad():
        exec(BLOCKS[0], names)
        exec(BLOCKS[block], names)
        expected = names["hf_model"](TOKENS).logits
    assert (names["logits"].softmax(-1) - expected.softmax(-1)).abs().max() < 1e-5
