"""Baseline: path patching the way the paper's release does it with rust_circuit, in code of our own.

The whole of GPT-2 is one circuit, split by head and by all positions, with the softmax over the vocabulary at all
positions and the probability difference inside. Each node gets a matcher for the paths from the root to it and a
circuit of its own, in which the tokens below those paths are the corrupted ones; all are evaluated in one call.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import rust_circuit as rc
import torch
from rust_circuit.algebric_rewrite import split_to_concat
from rust_circuit.model_rewrites import To, configure_transformer
from rust_circuit.module_library import TransformerBlockParams, TransformerInfo, TransformerParams

from path_patching.engine import Sentences
from path_patching.gpt2.model import Model
from path_patching.paths import Node

EVERY_PATH = rc.restrict(rc.new_traversal(), term_if_matches=True)  # matches the root, with all that is below it
AS_RELEASED = rc.OptimizationSettings(scheduling_simplify=False, scheduling_naive=True)


@dataclass(frozen=True, eq=False)
class ReleaseWay:
    """A split GPT-2, its weights on `device`; `node_names` are those of its heads and MLPs at each position."""

    circuit: rc.Circuit
    node_names: frozenset[str]
    device: str

    def differences(self, sentences: Sentences, start_yy: torch.Tensor, nodes: Sequence[Node]) -> torch.Tensor:
        """Probability difference with the direct path of each node to the logits corrupted: (len(nodes), N) float32.

        `start_yy` int64 (N,) is the YY of each sentence.
        """
        group = rc.DiscreteVar.uniform_probs_and_group(len(sentences))
        metric = self._probability_difference(sentences.answers, start_yy, group)
        clean = self._with_tokens(metric, EVERY_PATH, sentences.clean, group)
        sampler = rc.Sampler(rc.RunDiscreteVarAllSpec([group]))
        patched = [
            sampler(self._with_tokens(clean, self._direct_path(node), sentences.corrupted, group)) for node in nodes
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that norms are left as modules; the release leaves them so
            return torch.stack(rc.optimize_and_evaluate_many(patched, AS_RELEASED)).cpu()

    def _probability_difference(self, answers: torch.Tensor, start_yy: torch.Tensor, group: rc.Circuit) -> rc.Circuit:
        is_valid = torch.arange(len(answers)) > start_yy.cpu()[:, None]  # (N, 100)
        signs = rc.Array((2.0 * is_valid - 1.0).to(self.device), "signs")
        probabilities = rc.softmax(self.circuit, name="probabilities")  # (T, V)
        of_years = rc.Index(probabilities, [-1, answers.to(self.device)], name="answer_probabilities")
        sign = rc.DiscreteVar(signs, group, name="sign")
        return rc.Einsum.from_einsum_string("y,y->", of_years, sign, name="probability_difference")

    def _direct_path(self, node: Node) -> rc.IterativeMatcher:
        """Matches a node where the logits read it themselves, and not below another node."""
        wanted = piece_name(node)
        others = rc.Matcher(*(self.node_names - {wanted}))
        return rc.restrict(rc.Matcher(wanted), term_if_matches=True, term_early_at=others)

    def _with_tokens(
        self, circuit: rc.Circuit, paths: rc.IterativeMatcher, tokens: torch.Tensor, group: rc.Circuit
    ) -> rc.Circuit:
        variable = rc.DiscreteVar(rc.Array(tokens.to(self.device), "token_ids"), group, name="tokens")
        return circuit.update(paths.chain("tokens"), lambda _: variable)


def split_by_head_and_position(model: Model, n_positions: int, device: str = "cpu") -> ReleaseWay:
    """The model as a circuit from `tokens` (T,) to `logits` (T, V), every head and MLP a concatenation of T pieces."""
    circuit = _without_modules(_bound(model, n_positions, device))
    names = dict(_node_names(model))
    circuit = circuit.update(rc.Matcher(*names), lambda part: part.rename(names[part.name]))

    def pieces(part: rc.Circuit) -> rc.Circuit:
        split = split_to_concat(part, axis=0, partitioning_idxs=range(n_positions))
        named = [piece.rename(f"{part.name}_t{position}") for position, piece in enumerate(split.children)]
        return rc.Concat(*named, axis=0, name=f"{part.name}_by_position")

    circuit = circuit.update(rc.Matcher(*names.values()), pieces)
    all_pieces = frozenset(f"{name}_t{position}" for name in names.values() for position in range(n_positions))
    return ReleaseWay(circuit, all_pieces, device)


def piece_name(node: Node) -> str:
    """The name of a head or an MLP at a position within the split circuit: `a9_h1_t12`, `m10_t12`."""
    return f"{node.name.replace('.', '_')}_t{node.position}"


def _bound(model: Model, n_positions: int, device: str) -> rc.Circuit:
    """The logits (T, V) of the library's GPT-2 with weights and tokens, its residual stream one flat sum of nodes."""
    architecture = model.architecture
    block = TransformerBlockParams(attn_bias=True, mlp_act_type=architecture.activation, mlp_output_bias=True)
    info = TransformerInfo(TransformerParams(block, num_layers=architecture.n_layers))
    arrays = {name: rc.Array(tensor.to(device), name) for name, tensor in model.tensors.items()}
    token_embeddings, position_embeddings = arrays.pop("t.w.tok_embeds"), arrays.pop("t.w.pos_embeds")
    weights = ((name.removesuffix("_arr"), array) for name, array in arrays.items())
    unbound = rc.module_new_bind(info.params.get().body, *weights, name="t.bind_w")
    tokens = rc.Array(torch.zeros(n_positions, dtype=torch.int64, device=device), "tokens")
    embedded = rc.GeneralFunction.gen_index(token_embeddings, tokens, 0, name="tok_embeds")
    split = configure_transformer(
        unbound, To.ATTN_HEAD_MLP_NORM, split_by_head_config="full", use_pull_up_head_split=True, use_flatten_res=True
    )
    bound = rc.conform_all_modules(info.bind_to_input(split, embedded, position_embeddings))
    return bound.cast_module().substitute().rename("logits")


def _without_modules(circuit: rc.Circuit) -> rc.Circuit:
    """Substitute every module but the LayerNorms, which stay what their reader applies."""

    def is_part(module: rc.Circuit) -> bool:
        return module.is_module() and not any(word in module.name for word in ("norm", "ln", "final"))

    while circuit.are_any_found(is_part):
        circuit = circuit.update(is_part, lambda module: module.cast_module().substitute())
    return circuit


def _node_names(model: Model) -> Iterator[tuple[str, str]]:
    """The library's name of every head and MLP, and the one it gets here."""
    for layer in range(model.architecture.n_layers):
        yield f"b{layer}.m", f"m{layer}"
        for head in range(model.architecture.n_heads):
            yield f"b{layer}.a.h{head}", f"a{layer}_h{head}"
