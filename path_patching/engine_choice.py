"""Choosing an engine and a device, and refusing an engine that fails its self-checks.

An engine is checked on a few sentences against `transformers`. Patching nothing has to give the clean run, patching
everything the corrupted run, restoring everything the clean run again. The same is checked with nodes recomputed.

    >>> engine = make_engine("torch", "cpu", model, sentences)  # "auto", "auto": what this machine has
    torch engine on cpu, random (seed 0), 97 sentences
    >>> make_engine("torch", "cuda:99", model, sentences)
    Traceback (most recent call last):
    path_patching.errors.UserError: device cuda:99: PyTorch sees ...; give ...
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

import torch

from path_patching.defaults import ENGINES
from path_patching.devices import resolve_device
from path_patching.engine import Engine, Request, Sentences
from path_patching.errors import UserError
from path_patching.gpt2.model import Model, end_logits, to_transformers
from path_patching.gpt2.remembered import remember, remembered
from path_patching.paths import INPUTS, Branch, Node, PathSet, layer_nodes
from path_patching.reference import ReferenceEngine
from path_patching.unembedding import answer_probabilities

SENTENCES_CHECKED = 20
HEADS_CHECKED = 6  # heads that are recomputed, at most about so many: the code is the same for all
TOLERANCE = 1e-5  # in probability; float32 engines differ from float64 by some 1e-7


def make_engine(
    name: str, device: str, model: Model, sentences: Sentences, memory_gb: float = 4.0, check: bool = True
) -> Engine:
    """The engine `name` ("auto", "rust_circuit", "torch" or "reference") on `device` ("auto", "cpu", "cuda", "cuda:i").

    Raises `UserError` if the engine or the device is not available, or if a self-check fails.
    """
    engine_class = _engine_class(name)
    engine = engine_class(model, sentences, resolve_device(device), memory_gb)
    if check:
        check_engine(engine.like(sentences.rows(slice(SENTENCES_CHECKED))))
    print(f"{engine.name} engine on {engine.device}, {model.name}, {len(sentences)} sentences")
    if engine.remark:
        print(engine.remark)
    return engine


def check_engine(engine: Engine) -> None:
    """Compare an engine with `transformers` on its sentences: nothing and everything, patched and restored.

    "Everything" is first the path of length one from each writer at END: the residual stream has to be the sum of its
    parts. Then it is all paths: each writer at END is recomputed from the others.
    Raises `UserError` naming the first check that fails, and for a model that gives no probabilities.
    """
    model, sentences = engine.model, engine.sentences
    kept = remembered(model, sentences)
    expected = kept or _transformers_answers(model, sentences)
    found = _checked(engine)
    if kept and _differing(found, kept):
        expected = _transformers_answers(model, sentences)
    for complaint, difference in _differing(found, expected).items():
        raise UserError(
            f"the {engine.name} engine fails its self-check on {model.name}: {complaint} of transformers "
            f"(largest difference in probability {difference:.1e}); do not use its results, and report this"
        )
    if expected is not kept:
        remember(model, sentences, expected)


def _transformers_answers(model: Model, sentences: Sentences) -> dict[str, torch.Tensor]:
    """What `transformers` answers on clean and on corrupted sentences, (N, A). Raises `UserError` if that is none."""
    hf_model = to_transformers(model)
    answers = {}
    for data in ("clean", "corrupted"):
        answers[data] = answer_probabilities(end_logits(hf_model, sentences.of(data)), sentences.answers)
    if unfit := [data for data, of_data in answers.items() if not of_data.isfinite().all()]:
        raise UserError(
            f"{model.name} itself gives no probabilities on {unfit[0]} sentences, in transformers as well: look "
            "for NaN, or numbers that are too large, in its weights"
        )
    return answers


def _checked(engine: Engine) -> dict[str, tuple[torch.Tensor, str]]:
    """The complaint of each check with what the engine answers, and the data on which the model has to answer it."""
    architecture, end = engine.model.architecture, engine.sentences.end
    layers = range(architecture.n_layers)
    writers = [node for layer in layers for node in layer_nodes(layer, architecture.n_heads, end)]
    everything = PathSet.at(Node.logits(end)).extend([Node.embeds(end), *writers])
    asked = {
        "nothing patched is not the clean run": (Request.clean(), "clean"),
        "everything patched is not the corrupted run": (Request.patch(everything), "corrupted"),
        "everything recomputed is not the corrupted run": (Request.patch(all_paths(engine)), "corrupted"),
        "nothing restored is not the corrupted run": (Request.corrupted(), "corrupted"),
        "everything restored is not the clean run": (Request.isolate(everything), "clean"),
    }
    found = engine.evaluate([request for request, _ in asked.values()])
    return {complaint: (each, data) for (complaint, (_, data)), each in zip(asked.items(), found, strict=True)}


def _differing(
    checked: Mapping[str, tuple[torch.Tensor, str]], expected: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """The complaints that hold, each with the largest difference in probability."""
    largest = {complaint: (found - expected[data]).abs().max().item() for complaint, (found, data) in checked.items()}
    return {complaint: difference for complaint, difference in largest.items() if not difference < TOLERANCE}


def all_paths(engine: Engine) -> PathSet:
    """All paths from the logits at END to the embeddings there and to the whole inputs at other positions.

    Every MLP at END is recomputed, and some heads of several layers and numbers; at the other heads the paths end.
    """
    architecture, end = engine.model.architecture, engine.sentences.end
    step = architecture.n_layers * architecture.n_heads // HEADS_CHECKED + 1
    elsewhere = [PathSet.at(Node.residual(position)) for position in range(end)]
    written = [PathSet.at(Node.embeds(end))]  # at END, by all nodes so far

    def recomputed(node: Node) -> PathSet:
        read = {via: [*written, *elsewhere] if via in ("k", "v") else written for via in INPUTS[node.kind]}
        return PathSet(node, False, tuple(Branch(via, paths) for via, senders in read.items() for paths in senders))

    for layer in range(architecture.n_layers):
        *heads, mlp = layer_nodes(layer, architecture.n_heads, end)
        first = layer * architecture.n_heads
        written += [PathSet.at(head) if (first + head.index) % step else recomputed(head) for head in heads]
        written.append(recomputed(mlp))
    return recomputed(Node.logits(end))


def _engine_class(name: str) -> type[Engine]:
    if name == "auto":
        name = "rust_circuit" if importlib.util.find_spec("rust_circuit") else "torch"
    if name not in ENGINES:
        raise UserError(f"there is no engine {name!r}; choose {', '.join(ENGINES[:-1])} or {ENGINES[-1]}")
    if name == "reference":
        return ReferenceEngine
    if name == "torch":
        from path_patching.torch_engine.engine import TorchEngine

        return TorchEngine
    try:
        from path_patching.rust_engine.engine import RustCircuitEngine
    except ImportError as error:
        raise UserError(
            f"rust_circuit cannot be imported ({error}); it has wheels for Linux and Python 3.11 alone: "
            "use one of those, or the engine torch"
        ) from error
    return RustCircuitEngine
