"""Running experiment scripts on models that they can run on, as a user would."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch

from dataset import year_indices
from path_patching.files import ROOT
from tests.helpers.checkpoints import edit_tensors, save_checkpoint
from tests.helpers.scripts import run_python


def random_gpt2(folder: Path, n_layer: int = 2, **config: object) -> Path:
    """A checkpoint with random weights, two heads and GPT-2's vocabulary, in which single paths matter."""
    sizes = {"n_layer": n_layer, "n_head": 2, "n_embd": 8, "n_positions": 20, "vocab_size": 50257}
    save_checkpoint(folder, **(sizes | config))
    edit_tensors(folder, _strengthened)
    return folder


def run_experiment(
    script: str, folder: Path, model: str | Path, n: int, *more: str
) -> subprocess.CompletedProcess[str]:
    """Run a script on N sentences: artifacts go to `folder / "out"`, the model to `folder / "tensors"`."""
    flags = ["--model", str(model), "--n", str(n), "--out", str(folder / "out"), *more]
    return run_python(str(ROOT / f"{script}.py"), *flags, settings={"TENSORS_CACHE_DIR": str(folder / "tensors")})


def _strengthened(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Heads that write more, and year tokens that stand out among the 50,257."""
    factors = {name: 4.0 if "attn.c" in name else 1.0 for name in tensors}
    stronger = {name: tensor * factors[name] for name, tensor in tensors.items()}
    stronger["transformer.wte.weight"][year_indices()] *= 15
    return stronger
