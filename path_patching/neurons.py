"""Direct effects of all neurons of an MLP on the logits at END, each neuron patched alone.

On the path neuron → logits only the neuron's own write changes: by a·w, the change a of its activation times its
output weights w. The final LayerNorm centres, divides by the row's deviation and applies a fixed affine map. With U
the unembedding after centring and scaling, the logits of a stream x become

    (U·x + a·U·w) · scale(a) + shift.

U·x is one product for all neurons, U·w one for all sentences, and scale(a) needs two numbers. What remains is the
softmax's denominator over the whole vocabulary, for every neuron and sentence: neurons × sentences × vocabulary
exponentials, 7.6e10 for a layer of GPT-2 small and 490 sentences. A single neuron moves the logits little. So nearly
all exponentials are replaced by a power series, whose terms are matrix products, up to an order that leaves out less
than rounding does. The few others are computed one by one.

`Engine.sweep` with `Node.neuron` senders is the general way: it works through any receivers, in float32, and returns
all probabilities at once. Here the engine's streams are float32, and all that follows is float64, except the products
of the series: they change a probability difference by less than 1e-9.

    >>> neurons = read_neurons(engine, layer=2)
    >>> def metric_of(which):  # the metric of some sentences, given by their numbers: here the years from 50 on
    ...     return lambda probs: probs[:, 50:].sum(1)
    >>> effects = neuron_effects(neurons, metric_of)  # (M, N)
    >>> strongest_first = effects.mean(1).abs().argsort(descending=True).tolist()
    >>> neurons.logit_lens(strongest_first[:3]).shape  # what the three strongest write, at the answers
    torch.Size([3, 97, 100])

N sentences, M neurons, D width, V distinct rows of the unembedding, A answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import reduce
from math import factorial

import torch

from path_patching.batches import in_parts
from path_patching.engine import Data, Engine
from path_patching.gpt2.model import LAYER_NORM_EPSILON
from path_patching.metrics import Metric, measured_by
from path_patching.paths import Node
from path_patching.precision import full_precision
from path_patching.progress import progress
from path_patching.torch_engine.forward import Transformer
from path_patching.unembedding import Unembedding, vocabulary_pieces

SENTENCES_AT_ONCE = 512  # whose logits are in memory together, in float64
NEURONS_ANSWERED_AT_ONCE = 64  # whose probabilities (neurons, N, A) are in memory together
SERIES_REACH = 0.25  # logits that move further than this are exponentiated one by one
SERIES_ORDERS = (3, 5, 7)  # the lowest is taken that leaves out at most `LEFT_OUT`, else the highest
LEFT_OUT = SERIES_REACH**8 / factorial(8)  # the first term of exp(move) beyond the highest order, 4e-10
SERIES_ROWS_AT_ONCE = 2048  # of the unembedding
TINY = 1e-300  # instead of a largest number of 0, by which nothing can be divided


@dataclass(frozen=True, eq=False)
class Neurons:
    """The neurons of the MLP of one layer at END, and what the logits read there. Tensors are float64, on one device.

    Indexed by neuron: `clean` and `corrupted` activations (N, M), output weights `directions` (M, D). `stream` (N, D)
    is what the logits read on the clean sentences; `scale` and `bias` (D,) are the final LayerNorm's.
    """

    layer: int
    clean: torch.Tensor
    corrupted: torch.Tensor
    directions: torch.Tensor
    stream: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor
    unembedding: Unembedding

    def __len__(self) -> int:
        return len(self.directions)

    def year_logits(self, patched: Sequence[int] = ()) -> torch.Tensor:
        """Answer logits (N, A) with the direct paths of some neurons patched together; without any, the clean ones."""
        which = list(patched)
        stream = self.stream + (self.corrupted - self.clean)[:, which] @ self.directions[which]
        normed = torch.nn.functional.layer_norm(stream, self.scale.shape, self.scale, self.bias, LAYER_NORM_EPSILON)
        return normed @ self._answer_rows().T

    def logit_lens(self, which: Sequence[int]) -> torch.Tensor:
        """Clean activation × (output weights through the unembedding), at the answers: (len(which), N, A).

        As the paper's section on neurons has it, without the final LayerNorm: no centring, no scale, no deviation.
        """
        weights = self.directions[list(which)] @ self._answer_rows().T  # (neurons, A)
        return self.clean.T[list(which)][:, :, None] * weights[:, None]

    def _answer_rows(self) -> torch.Tensor:
        return self.unembedding.rows[self.unembedding.answers].double()


@full_precision()
def read_neurons(engine: Engine, layer: int) -> Neurons:
    """The neurons of a layer's MLP at END, on the engine's sentences and device."""
    needed = (f"m{layer}.", "final.")
    tensors = {name: tensor.double() for name, tensor in engine.model.tensors.items() if name.startswith(needed)}
    transformer = Transformer(replace(engine.model, tensors=tensors), engine.device)
    end = engine.sentences.end

    def stream(reader: Node, data: Data) -> torch.Tensor:
        return engine.residual(reader, data).double().to(engine.device)

    return Neurons(
        layer=layer,
        clean=transformer.neurons(layer, stream(Node.mlp(layer, end), "clean")),
        corrupted=transformer.neurons(layer, stream(Node.mlp(layer, end), "corrupted")),
        directions=transformer[f"m{layer}.w.proj_out"].T.contiguous(),
        stream=stream(Node.logits(end), "clean"),
        scale=transformer["final.ln.w.scale"],
        bias=transformer["final.ln.w.bias"],
        unembedding=Unembedding(engine.model, engine.sentences.answers, engine.device),
    )


def neuron_effects(neurons: Neurons, metric_of: Callable[[torch.Tensor], Metric]) -> torch.Tensor:
    """What patching each neuron's path to the logits adds to a metric: (M, N) float64 on the CPU.

    Sentences come in batches: `metric_of` takes the numbers (int64) of a batch's sentences and gives their metric. The
    metric has to be linear in the answer probabilities, as the probability difference is.
    """
    device, every = str(neurons.stream.device), torch.arange(len(neurons.stream))

    found = []
    for part in in_parts(every, SENTENCES_AT_ONCE, "sentences", device):
        with part:
            found.append(_effects(_moved_by(neurons, part.rows), metric_of(part.rows)))
    return torch.cat(found, 1)


@dataclass(frozen=True, eq=False)
class _Moves:
    """How far each patched neuron moves the clean logits of a batch of N sentences.

    The move of token v by neuron i on sentence n is

        shrinking[n, i] · logits[n, v] + step[n, i] · (heights[v, i] − mean_heights[n, i])

    where `logits` come from the stream itself, without the LayerNorm's bias, and `heights` = `rows` · `readable` from
    one unit of a neuron's activation. From both, their mean under the clean probabilities is subtracted. This changes
    no probability, and the softmax's denominator can then only grow, so that float32 can hold its growth.
    """

    log_probs: torch.Tensor  # clean, of one token of each row, (N, V)
    log_weights: torch.Tensor  # the same, of all tokens that share the row, (N, V)
    logits: torch.Tensor  # (N, V)
    shrinking: torch.Tensor  # what the LayerNorm's scale loses, as a share of it, (N, M)
    step: torch.Tensor  # (N, M)
    mean_heights: torch.Tensor  # (N, M)
    rows: torch.Tensor  # of the unembedding, (V, D)
    readable: torch.Tensor  # (M, D)
    answers: torch.Tensor  # (A,)


def _moved_by(neurons: Neurons, batch: torch.Tensor) -> _Moves:
    """The moves of a batch of sentences, given by their numbers."""

    def centred(x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(-1, keepdim=True)

    stream, directions = centred(neurons.stream[batch]), centred(neurons.directions)
    change = (neurons.corrupted - neurons.clean)[batch]
    variance = stream.square().mean(-1, keepdim=True) + LAYER_NORM_EPSILON  # (N, 1)
    covariance = stream @ directions.T / stream.shape[-1]
    growth = (2 * change * covariance + change.square() * directions.square().mean(-1)) / variance
    shrinking = torch.expm1(-0.5 * torch.log1p(growth))

    counts, rows = neurons.unembedding.counts, neurons.unembedding.rows.double()
    rows = rows - rows.mean(0)  # what all rows share changes no probability, but would cost precision
    logits = stream * variance.rsqrt() * neurons.scale @ rows.T
    log_probs = logits + rows @ neurons.bias
    log_counts = rows.new_zeros(len(rows)) if counts is None else counts.log()
    log_probs -= (log_probs + log_counts).logsumexp(-1, keepdim=True)
    log_weights = log_probs + log_counts
    weights, readable = log_weights.exp(), directions * neurons.scale
    return _Moves(
        log_probs=log_probs,
        log_weights=log_weights,
        logits=logits - (weights * logits).sum(-1, keepdim=True),
        shrinking=shrinking,
        step=change * (1 + shrinking) * variance.rsqrt(),
        mean_heights=weights @ rows @ readable.T,
        rows=rows,
        readable=readable,
        answers=neurons.unembedding.answers,
    )


def _effects(moves: _Moves, metric: Metric) -> torch.Tensor:
    """`neuron_effects` of a batch."""
    log_growth = _log_growth_of_denominator(moves)
    clean = moves.log_probs[:, moves.answers]
    heights = moves.rows[moves.answers] @ moves.readable.T  # (A, M)
    effects = torch.empty(len(moves.readable), len(clean), dtype=torch.float64)  # many tensors would split the heap
    for block in torch.arange(len(effects)).split(NEURONS_ANSWERED_AT_ONCE):
        shrinking, step, mean, growth = (
            each[:, block].T[..., None] for each in (moves.shrinking, moves.step, moves.mean_heights, log_growth)
        )  # (neurons, N, 1)
        moved = shrinking * moves.logits[:, moves.answers] + step * (heights.T[block][:, None] - mean)
        change = clean.exp() * torch.expm1(moved - growth)  # (neurons, N, A)
        for neuron, of_neuron in zip(block.tolist(), change.cpu(), strict=True):
            effects[neuron] = measured_by(metric, of_neuron)
    return effects


def _log_growth_of_denominator(moves: _Moves) -> torch.Tensor:
    """log Σ_v p_v exp(move of v), (N, M): by how much each patched neuron raises the log of the softmax's denominator.

    It is log1p of the mean of exp(move) − 1: by the series where all logits move little, one by one where one may move
    far.
    """
    middle = moves.mean_heights.mean(0)  # (M,); without it float32 keeps more digits of the heights
    beyond, furthest_height = torch.zeros_like(moves.step), torch.zeros_like(middle)
    firsts = range(0, len(moves.rows), SERIES_ROWS_AT_ONCE)
    for tokens in progress([slice(first, first + SERIES_ROWS_AT_ONCE) for first in firsts], "neurons"):
        heights = moves.rows[tokens] @ moves.readable.T - middle  # (v, M)
        beyond += _beyond_first_order(moves, tokens, heights)
        furthest_height = torch.maximum(furthest_height, heights.abs().amax(0))
    furthest = moves.step.abs() * (furthest_height + (moves.mean_heights - middle).abs())
    furthest += moves.shrinking.abs() * moves.logits.abs().amax(1, keepdim=True)
    # A move is x + offset and has mean 0. So the mean of x, the first order of the series, is −offset.
    offset = moves.step * (middle - moves.mean_heights)
    growth = offset.expm1() + offset.exp() * (beyond - offset)
    return _written_out_where(furthest > SERIES_REACH, growth.log1p(), moves)


def _beyond_first_order(moves: _Moves, tokens: slice, heights: torch.Tensor) -> torch.Tensor:
    """Σ_v p_v (exp(x_v) − 1 − x_v) over a piece of the vocabulary, x = shrinking · logit + step · height: (N, M).

    `heights` are (v, M). Each neuron has a series of the order that its x need, at most the highest. The products are
    float32; logits and heights are divided by their largest.
    """
    logits = moves.logits[:, tokens]
    largest_logit, largest_height = (each.abs().amax(over, keepdim=True) for each, over in ((logits, 1), (heights, 0)))
    logit, height = logits / largest_logit.clamp_min(TINY), (heights / largest_height.clamp_min(TINY)).float()
    shrinking, step = moves.shrinking * largest_logit, moves.step * largest_height  # (N, M)
    weights = moves.log_weights[:, tokens].exp()
    weighted = [(weights * logit**power).float() for power in range(SERIES_ORDERS[-1] + 1)]
    reach = (shrinking.abs() + step.abs()).amax(0)  # (M,)
    too_low = [reach ** (order + 1) / factorial(order + 1) > LEFT_OUT for order in SERIES_ORDERS[:-1]]
    needed = torch.stack(too_low).sum(0)  # which of the orders
    total = torch.zeros_like(step)
    for place, order in enumerate(SERIES_ORDERS):
        which = (needed == place).nonzero()[:, 0]
        total[:, which] = _series(order, weighted, height[:, which], shrinking[:, which], step[:, which])
    return total


def _series(
    order: int, weighted: list[torch.Tensor], height: torch.Tensor, shrinking: torch.Tensor, step: torch.Tensor
) -> torch.Tensor:
    """Σ_v p_v Σ_k x_v^k / k! for 2 ≤ k ≤ `order`, with x = shrinking · logit + step · height: (N, m).

    `weighted` are p_v times each power of a logit, (N, v); heights (v, m). Each product of powers is a matrix product.
    """
    total, of_height = torch.zeros_like(step), torch.ones_like(height[:, :1])
    for power in range(order + 1):
        lowest, inner = max(0, 2 - power), torch.zeros_like(step)
        for other in reversed(range(lowest, order + 1 - power)):
            inner = shrinking / (other + 1) * inner + weighted[other] @ of_height
        total += shrinking**lowest / factorial(lowest) * step**power / factorial(power) * inner
        of_height = of_height * height
    return total


def _written_out_where(far: torch.Tensor, log_growth: torch.Tensor, moves: _Moves) -> torch.Tensor:
    """`log_growth` with its entries `far`, both (N, M), computed one by one in float64, safe from overflow."""
    sentences_of = {neuron: far[:, neuron].nonzero()[:, 0] for neuron in far.any(0).nonzero()[:, 0].tolist()}

    def log_growth_in(tokens: slice) -> torch.Tensor:  # (N, M)
        heights = moves.rows[tokens] @ moves.readable[list(sentences_of)].T  # (v, neurons)
        found = torch.full_like(log_growth, -torch.inf)
        for (neuron, at), height in zip(sentences_of.items(), heights.T, strict=True):
            moved = moves.shrinking[at, neuron, None] * moves.logits[at, tokens]
            moved += moves.step[at, neuron, None] * (height - moves.mean_heights[at, neuron, None])
            found[at, neuron] = (moved + moves.log_weights[at, tokens]).logsumexp(-1)
        return found

    if not sentences_of:
        return log_growth
    exact = reduce(torch.logaddexp, _over_vocabulary(moves, log_growth_in, len(log_growth)))
    return torch.where(far, exact, log_growth)


def _over_vocabulary(moves: _Moves, compute: Callable[[slice], torch.Tensor], rows: int) -> Iterator[torch.Tensor]:
    """`compute` for each piece of the vocabulary, `rows` at a time, in order.

    On a CPU each piece has its own thread: threads that share such a small operation would wait for each other.
    """
    device = moves.rows.device.type
    pieces = vocabulary_pieces(len(moves.rows), rows, device)
    threads = torch.get_num_threads()
    workers = threads if device == "cpu" else 1
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from progress(pool.map(compute, pieces), "neurons", len(pieces))
    finally:
        torch.set_num_threads(threads)
