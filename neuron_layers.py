"""Which MLP's neurons are looked at, and where what is found of them lies."""

from __future__ import annotations

from pathlib import Path

from gpt2 import Model
from settings import Settings
from utils import UserError

PAPER_LAYER = 10  # the neurons that the paper looks at are those of m10


def chosen_layer(model: Model, layer: int | None = None) -> int:
    """`layer`, or without one the paper's, or in a model of fewer layers the last but one (the only one, if single).

    Raises `UserError` if the model does not have the layer.
    """
    n_layers = model.architecture.n_layers
    if layer is None:
        return PAPER_LAYER if n_layers > PAPER_LAYER else max(0, n_layers - 2)
    if not 0 <= layer < n_layers:
        raise UserError(f"--layer {layer}: {model.name} has the layers 0 to {n_layers - 1}")
    return layer


def layer_folder(folder: Path, layer: int | None) -> Path:
    """Where the neurons of a layer are kept: `folder` without a layer or for the paper's, else its subfolder `m8`."""
    return folder if layer in (None, PAPER_LAYER) else folder / f"m{layer}"


def ranks_for_gpt2(settings: Settings, layer: int) -> bool:
    """Whether a run's ranking is the one that `cache/order.pt` holds: GPT-2 small's m10, with the default sentences.

    The model "gpt2" is GPT-2 small and no other: all its tensors have the published hashes, or it is not loaded.
    """
    defaults = Settings(model="gpt2")
    named = ("model", "n", "seed", "as_published")
    return layer == PAPER_LAYER and all(getattr(settings, name) == getattr(defaults, name) for name in named)
