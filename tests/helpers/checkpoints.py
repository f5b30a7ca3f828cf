"""Random GPT-2 checkpoints on the disk, written by `transformers`, for tests to convert."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

SMALL = {"n_layer": 2, "n_head": 3, "n_embd": 12, "n_positions": 9, "vocab_size": 20}


def save_checkpoint(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32, **config: object) -> Path:
    """A whole random model, with weights large enough that every part of it shows in the logits."""
    return written(folder, _files(seed, dtype, tuple(sorted(config.items()))))


def written(folder: Path, files: Mapping[str, bytes]) -> Path:
    """A folder with these files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@cache
def _files(seed: int, dtype: torch.dtype, config: tuple[tuple[str, object], ...]) -> dict[str, bytes]:
    """A model's files, made once, since `transformers` takes long to write them."""
    generator = torch.Generator().manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(**(SMALL | dict(config)), bos_token_id=0, eos_token_id=0))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            around = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
            parameter.copy_(around + 0.2 * torch.randn(parameter.shape, generator=generator))
    with TemporaryDirectory() as folder:
        model.to(dtype).save_pretrained(folder)
        return files_in(Path(folder))


def transformers_logits(folder: Path, tokens: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """What `transformers` computes from a checkpoint, (N, T, V)."""
    model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").to(dtype).eval()
    with torch.no_grad():
        return model(tokens).logits


def edit_config(folder: Path, **fields: object) -> None:
    """Change fields of a checkpoint's config."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Replace a checkpoint's tensors by what `edit` makes of them."""
    path = folder / "model.safetensors"
    save_file({name: t.contiguous() for name, t in edit(load_file(path)).items()}, path, metadata={"format": "pt"})
