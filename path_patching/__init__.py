"""Path patching on GPT-2: which paths of the model compute its answer (section 3 of the paper).

A model answers *clean* sentences, such as “The war lasted from the year 1732 to the year 17”, and their *corrupted*
twins, which have 01 in the place of 32. Path patching runs the model on clean sentences, but lets some paths carry what
they carry on the corrupted ones. If a metric of the answers changes, those paths matter:

    effect(P) = mean_n( metric(answers with P on corrupted data)_n − metric(clean answers)_n )

`path_patching.reference` defines what is computed, in one recursion; engines compute the same, faster.

The words, as all modules use them:

- A *node* is a part of the model at one position: a head `a9.h1@12`, an MLP `m10@12`, one of its neurons `m10.n5@12`,
  the embeddings `embeds@8`, the logits `logits@12`.
- A *path* leads from a node up to the logits: `m3@8 →v a9.h1@12 → m10@12 → logits@12`. `→v` says that the head above
  reads it as values. A *path set* is a set of paths.
- *END* is the last position, where the answer is predicted. *YY* is the position at which twins differ, here the year.
- The *answers* are the tokens whose probabilities are wanted, here the 100 years. A *metric* makes one number of them
  for each sentence, high where the model does its task.
- A *circuit* is the part of the model that achieves the metric. Its *late half* is what happens at END.

From a model and twin sentences to an effect, with its 95 % interval:

    >>> model, tokenizer = load_model("standin"), load_tokenizer()  # or "gpt2", "gpt2-medium", …
    >>> text = "<|endoftext|> The war lasted from the year 17{} to the year 17"
    >>> clean = torch.tensor([tokenizer(text.format(yy)).input_ids for yy in (32, 45, 60)])
    >>> corrupted = torch.tensor([tokenizer(text.format("01")).input_ids] * 3)
    >>> years = torch.tensor([tokenizer.convert_tokens_to_ids(f"{yy:02d}") for yy in range(100)])
    >>> sentences = Sentences(clean, corrupted, answers=years)
    >>> END, YY = 12, 8
    >>> def metric(probs):  # the probability difference: of the years after YY, minus of the others
    ...     later = torch.arange(100) > torch.tensor([[32], [45], [60]])
    ...     return torch.where(later, probs, -probs).sum(1)
    >>> engine = make_engine("torch", "cpu", model, sentences)
    torch engine on cpu, stand-in, 3 sentences
    >>> print(effect(engine, PathSet.parse("m11 → logits", end=END), metric))
    -0... [-0..., -0...]

`find_circuit(engine, metric, YY, END).circuit` would then be the model's `circuit`. The usage blocks of the modules go
on from these names, with other models and more sentences. All names below can be imported from here. What is needed
less often stays in its module: `edits` and `subspaces` (activations changed, PCA, LEACE), `circuits.circuit_file`, …
"""

from __future__ import annotations

import gc
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from path_patching.public import *  # noqa: F403
    from path_patching.public import __all__ as __all__


def __getattr__(name: str) -> object:
    """A name of `public`, which takes long to import: what needs less of this package, as `--help`, waits for less."""
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    looks_for_garbage = gc.isenabled()
    gc.disable()  # what is imported stays, and looking through it takes long
    try:
        public = import_module("path_patching.public")
    finally:
        if looks_for_garbage:
            gc.enable()
    globals().update({each: getattr(public, each) for each in ("__all__", *public.__all__)})
    if name not in globals():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module("path_patching.public").__all__})
