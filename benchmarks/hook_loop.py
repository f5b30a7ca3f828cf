"""Baseline: path patching as users of hooks do it, one frozen forward pass for each node.

What the heads mix (z) and what the MLPs write is recorded on clean and on corrupted sentences. For each node the model
then runs on the clean sentences with every z and every MLP's output held at its clean value, but for the node's, which
is the corrupted one: what changes at the logits is the node's direct effect.
N sentences, T positions, H heads, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import nn

from path_patching.engine import Sentences
from path_patching.gpt2.model import LAYER_NORM_EPSILON, Model, to_transformers
from path_patching.paths import Node
from path_patching.unembedding import answer_probabilities
from utils import prob_diff

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer


class Site(NamedTuple):
    """Where a hook sits: what the heads of a layer mix, (N, T, H, d_head), or what its MLP writes, (N, T, D)."""

    kind: str  # head or mlp
    layer: int


Values = Mapping[Site, torch.Tensor]


class HookedModel(Protocol):
    """A GPT-2 with hooks."""

    def record(self, tokens: torch.Tensor) -> Values:
        """The values of every site on tokens (N, T)."""

    def end_logits(self, tokens: torch.Tensor, frozen: Values) -> torch.Tensor:
        """The logits (N, V) at END with every site held at the value given."""


@torch.inference_mode()
def differences(
    hooked: HookedModel, sentences: Sentences, start_yy: torch.Tensor, nodes: Sequence[Node]
) -> torch.Tensor:
    """Probability difference with the direct path of each node to the logits corrupted: (len(nodes), N) float64.

    `start_yy` int64 (N,) is the YY of each sentence.
    """
    clean, corrupted = (hooked.record(sentences.of(data)) for data in ("clean", "corrupted"))
    swept = []
    for node in nodes:
        logits = hooked.end_logits(sentences.clean, {**clean, **_patched(node, clean, corrupted)})
        swept.append(prob_diff(answer_probabilities(logits, sentences.answers).cpu(), start_yy))
    return torch.stack(swept)


def _patched(node: Node, clean: Values, corrupted: Values) -> Values:
    """The site of a node, clean but for the node itself."""
    site = Site(node.kind, node.layer)
    place = (slice(None), node.position, node.index) if node.kind == "head" else (slice(None), node.position)
    value = clean[site].clone()
    value[place] = corrupted[site][place]
    return {site: value}


class TransformersHooks:
    """`transformers`' GPT-2 with PyTorch's hooks.

    With `end_only` the logits are computed at END alone, which makes a pass cheaper than a user's `model(tokens)`.
    """

    def __init__(self, model: Model, device: str, end_only: bool = False) -> None:
        self._hf_model = to_transformers(model).to(device)
        self._device = device
        self._heads = (model.architecture.n_heads, model.architecture.d_head)
        self._positions_kept = 1 if end_only else 0  # 0 means all to transformers

    def record(self, tokens: torch.Tensor) -> Values:
        """See `HookedModel`."""
        found: dict[Site, torch.Tensor] = {}
        with self._hooks(lambda site, value: found.setdefault(site, value)):
            self._logits(tokens)
        return found

    def end_logits(self, tokens: torch.Tensor, frozen: Values) -> torch.Tensor:
        """See `HookedModel`."""
        with self._hooks(lambda site, _: frozen[site]):
            return self._logits(tokens)[:, -1]

    def _logits(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._hf_model(tokens.to(self._device), logits_to_keep=self._positions_kept, use_cache=False).logits

    @contextlib.contextmanager
    def _hooks(self, replace: Callable[[Site, torch.Tensor], torch.Tensor]) -> Iterator[None]:
        """Let `replace` see, and give, the value of every site while the context lasts."""

        def on_mixed(layer: int) -> Callable[[nn.Module, tuple[torch.Tensor]], tuple[torch.Tensor]]:
            return lambda _, inputs: (replace(Site("head", layer), inputs[0].unflatten(-1, self._heads)).flatten(-2),)

        def on_mlp(layer: int) -> Callable[[nn.Module, object, torch.Tensor], torch.Tensor]:
            return lambda _, inputs, output: replace(Site("mlp", layer), output)

        with contextlib.ExitStack() as stack:
            for layer, block in enumerate(self._hf_model.transformer.h):
                stack.enter_context(block.attn.c_proj.register_forward_pre_hook(on_mixed(layer)))
                stack.enter_context(block.mlp.register_forward_hook(on_mlp(layer)))
            yield


class TransformerLensHooks:
    """TransformerLens' `HookedTransformer`. Raises ImportError where TransformerLens is not installed."""

    def __init__(self, model: Model, device: str) -> None:
        self._hooked = hooked_transformer(model, device)
        self._device = device
        layers = range(model.architecture.n_layers)
        self._name = {Site("head", layer): f"blocks.{layer}.attn.hook_z" for layer in layers}
        self._name |= {Site("mlp", layer): f"blocks.{layer}.hook_mlp_out" for layer in layers}

    def record(self, tokens: torch.Tensor) -> Values:
        """See `HookedModel`."""
        names = set(self._name.values())
        _, cache = self._hooked.run_with_cache(tokens.to(self._device), names_filter=lambda name: name in names)
        return {site: cache[name] for site, name in self._name.items()}

    def end_logits(self, tokens: torch.Tensor, frozen: Values) -> torch.Tensor:
        """See `HookedModel`."""
        hooks = [(name, lambda _, hook, site=site: frozen[site]) for site, name in self._name.items()]
        return self._hooked.run_with_hooks(tokens.to(self._device), fwd_hooks=hooks)[:, -1]


def hooked_transformer(model: Model, device: str, split: bool = False) -> HookedTransformer:
    """The model as TransformerLens' own; `split` gives each head's inputs and write hooks of their own.

    Raises ImportError where TransformerLens, of a version before 4, is not installed.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = model.architecture
    config = HookedTransformerConfig(
        n_layers=sizes.n_layers,
        d_model=sizes.d_model,
        n_ctx=sizes.n_positions,
        d_head=sizes.d_head,
        n_heads=sizes.n_heads,
        d_mlp=sizes.d_mlp,
        d_vocab=sizes.vocab_size,
        act_fn=sizes.activation,
        eps=LAYER_NORM_EPSILON,
        normalization_type="LN",
        device=device,
        init_weights=False,
    )
    hooked = HookedTransformer(config)
    hooked.load_state_dict(hooked.state_dict() | _transformer_lens_state(model))
    for switch in (hooked.set_use_attn_result, hooked.set_use_split_qkv_input, hooked.set_use_hook_mlp_in):
        switch(split)
    return hooked


def _transformer_lens_state(model: Model) -> dict[str, torch.Tensor]:
    """The model's tensors under TransformerLens' names and in its layouts."""
    w = {name.removesuffix("_arr"): tensor for name, tensor in model.tensors.items()}
    state = {
        "embed.W_E": w["t.w.tok_embeds"],
        "pos_embed.W_pos": w["t.w.pos_embeds"],
        "ln_final.w": w["final.ln.w.scale"],
        "ln_final.b": w["final.ln.w.bias"],
        "unembed.W_U": w["t.w.unembed"].T,
        "unembed.b_U": torch.zeros(model.architecture.vocab_size),
    }
    for layer in range(model.architecture.n_layers):
        a, m = f"a{layer}", f"m{layer}"
        block = {f"attn.W_{via.upper()}": w[f"{a}.w.{via}"].transpose(1, 2) for via in "qkvo"}
        block |= {f"attn.b_{via.upper()}": w[f"{a}.w.{via}_bias"] for via in "qkvo"}
        block |= {"ln1.w": w[f"{a}.ln.w.scale"], "ln1.b": w[f"{a}.ln.w.bias"]}
        block |= {"ln2.w": w[f"{m}.ln.w.scale"], "ln2.b": w[f"{m}.ln.w.bias"]}
        block |= {"mlp.W_in": w[f"{m}.w.proj_in"].T, "mlp.b_in": w[f"{m}.w.in_bias"]}
        block |= {"mlp.W_out": w[f"{m}.w.proj_out"].T, "mlp.b_out": w[f"{m}.w.out_bias"]}
        state |= {f"blocks.{layer}.{name}": tensor for name, tensor in block.items()}
    return state
