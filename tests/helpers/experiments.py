"""Running experiment scripts on models that they can run on, as a user would."""

from __future__ import annotations

import subprocess
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from dataset import year_indices
from path_patching.files import ROOT
from reproduction.run import Artifacts, read_artifacts
from tests.helpers.checkpoints import edit_tensors, files_in, save_checkpoint, written
from tests.helpers.scripts import output, run_script


def random_gpt2(
    folder: Path, n_layer: int = 2, strength: float = 4.0, different_tokens: int = 701, **config: object
) -> Path:
    """A checkpoint with random weights, two heads and GPT-2's vocabulary, in which single paths matter.

    `strength` is that of attention; where it is large, float32 rounds off some 1e-5 of a probability. Of all tokens,
    many are alike, which makes evaluations quick.
    """
    sizes = {"n_layer": n_layer, "n_head": 2, "n_embd": 8, "n_positions": 20, "vocab_size": 50257}
    return written(folder, _files(strength, different_tokens, tuple(sorted((sizes | config).items()))))


@cache
def _files(strength: float, different_tokens: int, config: tuple[tuple[str, object], ...]) -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), **dict(config))
        edit_tensors(Path(folder), partial(_strengthened, strength=strength, different_tokens=different_tokens))
        return files_in(Path(folder))


def run_experiment(
    script: str, folder: Path, model: str | Path, n: int, *more: str
) -> subprocess.CompletedProcess[str]:
    """Run a script on N sentences: artifacts go to `folder / "out"`, the model to "tensors" beside it or the folder."""
    tensors = (model if isinstance(model, Path) else folder).parent / "tensors"
    flags = ["--model", str(model), "--n", str(n), "--out", str(folder / "out"), *more]
    return run_script(ROOT / f"{script}.py", *flags, settings={"TENSORS_CACHE_DIR": str(tensors)})


def made_by(script: str, folder: Path, model: str | Path, n: int, *more: str) -> Artifacts:
    """What such a run leaves."""
    output(run_experiment(script, folder, model, n, *more))
    return read_artifacts(folder / "out", script)


def _strengthened(tensors: dict[str, torch.Tensor], strength: float, different_tokens: int) -> dict[str, torch.Tensor]:
    """Heads that write more, and year tokens that stand out among 50,257, of which many are alike."""
    factors = {name: strength if "attn.c" in name else 1.0 for name in tensors}
    stronger = {name: tensor * factors[name] for name, tensor in tensors.items()}
    rows = stronger["transformer.wte.weight"]
    years = 15 * rows[year_indices()]
    alike = rows[torch.arange(len(rows)) % different_tokens]
    return stronger | {"transformer.wte.weight": alike.index_put((year_indices(),), years)}
