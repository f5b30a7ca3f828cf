"""What is benchmarked: models of GPT-2's shapes with random weights, and sentences to run them on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from dataset import NOUNS_FILE, YearDataset, get_valid_years, year_indices
from path_patching.engine import Sentences
from path_patching.errors import UserError
from path_patching.gpt2.model import GPT2_SMALL, Architecture, Model, random_model
from path_patching.gpt2.tensor_cache import load_model
from path_patching.gpt2.tokenizer import load_tokenizer
from path_patching.paths import Node, layer_nodes

T = TypeVar("T")

WEIGHT_STD = 0.05  # attends to some tokens more than to others, and single nodes have effects of a percent
YEAR_LOGIT_STD = 4.0  # gives the years much of the probability, as a trained model does
PROMPT_LENGTH = 13
STANDIN, WIDE_STANDIN = "standin", "wide-standin"
READS_STREAM = {"q_arr", "k_arr", "v_arr", "proj_in_arr", "unembed_arr"}
UNEQUAL = 1e-4  # a standard deviation of noise that makes rows of an unembedding differ


def _of_width(n_layers: int, n_heads: int, d_model: int) -> Architecture:
    widths = {"d_model": d_model, "d_head": d_model // n_heads, "d_mlp": 4 * d_model}
    return replace(GPT2_SMALL, n_layers=n_layers, n_heads=n_heads, **widths)


SHAPES = {
    "tiny": _of_width(12, 12, 24),
    "2-layers": replace(GPT2_SMALL, n_layers=2),
    "6-layers": replace(GPT2_SMALL, n_layers=6),
    "small": GPT2_SMALL,
    "medium": _of_width(24, 16, 1024),
    "large": _of_width(36, 20, 1280),
    "xl": _of_width(48, 25, 1600),
}


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, sentences, the position of YY in them, and the YY of each, int64 (N,)."""

    model: Model
    sentences: Sentences
    yy_position: int
    start_yy: torch.Tensor

    @property
    def nodes(self) -> list[Node]:
        """Every head and MLP at END: the senders of the logits sweep."""
        sizes, end = self.model.architecture, self.sentences.end
        return [node for layer in range(sizes.n_layers) for node in layer_nodes(layer, sizes.n_heads, end)]


def subject(shape: str, n: int, length: int = PROMPT_LENGTH, balanced: bool = True) -> Subject:
    """A random model of a shape of `SHAPES`, and `n` year-span sentences of `length` tokens.

    Sentences longer than the prompt have random tokens after `<|endoftext|>`, different for each but not for its twin.
    Raises `UserError` for a shape or a length that is not to be had.
    """
    if shape not in SHAPES:
        raise UserError(f"--model-shape {shape}: give one of {', '.join(SHAPES)}")
    if not PROMPT_LENGTH <= length <= SHAPES[shape].n_positions:
        raise UserError(f"sentences have {PROMPT_LENGTH} to {SHAPES[shape].n_positions} tokens, not {length}")
    tokenizer = load_tokenizer()
    dataset = YearDataset(get_valid_years(tokenizer), n, NOUNS_FILE, tokenizer, balanced=balanced)
    answers = year_indices()
    filler = torch.randint(0, 50_000, (n, length - PROMPT_LENGTH), generator=torch.Generator().manual_seed(0))
    clean, corrupted = (
        torch.cat([tokens[:, :1], filler, tokens[:, 1:]], 1) for tokens in (dataset.good_toks, dataset.bad_toks)
    )
    sentences = Sentences(clean, corrupted, answers)
    return Subject(_model(SHAPES[shape], answers), sentences, dataset.yy_position + filler.shape[1], dataset.years_YY)


def spread(items: Sequence[T], count: int) -> list[T]:
    """`count` of the items, evenly spaced from the first to the last; all of them if there are no more."""
    places = torch.linspace(0, len(items) - 1, min(count, len(items))).round().long()
    return [items[place] for place in places.tolist()]


def _model(architecture: Architecture, answers: torch.Tensor) -> Model:
    """Random weights under which years are likely answers, so that effects are far above rounding."""
    model = random_model(architecture, WEIGHT_STD)
    unembedding = model.tensors["t.w.unembed_arr"].clone()
    unembedding[answers] *= YEAR_LOGIT_STD / (WEIGHT_STD * architecture.d_model**0.5)
    return replace(model, tensors={**model.tensors, "t.w.unembed_arr": unembedding})


def wide_standin() -> Model:
    """The stand-in in GPT-2 small's widths: it answers as the stand-in does, and takes the time of GPT-2 small.

    Each number of the residual stream stands several times, and what is left is filled with the stream's mean, so
    LayerNorm subtracts the same mean, and divides by as much but for a factor. What reads the stream reads the average
    of the copies. Heads and MLPs are filled up with zeros. The stand-in's unembedding has mostly equal rows, which an
    engine computes once; here they differ a little, as in GPT-2.
    """
    narrow = load_model(STANDIN)
    width = narrow.architecture.d_model
    times = GPT2_SMALL.d_model // width
    tensors = {}
    for name, shape in GPT2_SMALL.tensor_shapes().items():
        tensor, kind = narrow.tensors[name], name.rpartition(".")[2]
        for axis in [axis for axis, size in enumerate(tensor.shape) if size == width]:
            read = kind in READS_STREAM
            copies = tensor.repeat_interleave(times, axis) / (times if read else 1)
            rest = tensor.mean(axis, keepdim=True) * (not read)
            rest = rest.repeat_interleave(shape[axis] - copies.shape[axis], axis)
            tensor = torch.cat([copies, rest], axis)
        if "ln.w.scale" in name:
            tensor = tensor * (times * width / GPT2_SMALL.d_model) ** 0.5
        if kind in ("q_arr", "q_bias_arr"):  # scores are divided by the square root of the heads' width
            tensor = tensor * (GPT2_SMALL.d_head / narrow.architecture.d_head) ** 0.5
        tensors[name] = torch.zeros(shape)
        tensors[name][tuple(map(slice, tensor.shape))] = tensor
    unembedding = tensors["t.w.unembed_arr"]
    unembedding += UNEQUAL * torch.randn(unembedding.shape, generator=torch.Generator().manual_seed(0))
    return replace(narrow, architecture=GPT2_SMALL, tensors=tensors, config=None)
