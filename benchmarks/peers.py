"""How fast are the engines beside the tools that others patch with, where both mean the same?

python benchmarks/peers.py [--model-shape small] [--n 24] [--nodes 13] [--edges 300] [--questions …] [--help]

Four questions, on random weights:

- *nodes*: a head at END is corrupted and all that comes after it is recomputed (`PathSet.all_downstream`);
- *edges*: the edges of a random circuit are clean at all positions, all other edges are corrupted (`full_circuit`);
- *paths*: a head's direct path to the logits is corrupted, all else is frozen, the paper's own path patching;
- *links*: one head's link into the values of a head of the last layer is corrupted, at all positions, and all that
  comes after is recomputed.

Nodes and paths are asked for the same heads, links for every head of the last layer. Before any time is printed a
peer's probability differences must be the torch engine's to 1e-5, and to a tenth of the largest effect. A peer that
is not installed, or fails, is a row with the reason.

Each way runs in a process of its own. Its time is all that a question costs once the model is loaded: forward passes,
and whatever the tool makes of nodes and edges. Core time is the processor time of all threads.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

# This file's folder, where Python looks first, would hide the module `path_patching` behind a file of its own.
sys.path.insert(0, str(Path(__file__).parents[1]))

from reproduction.command_line import prepare

import torch

from benchmarks.hook_loop import TransformerLensHooks, differences, hooked_transformer
from benchmarks.measuring import Cost, NotMeasuredError, in_own_process, machine, timed
from benchmarks.path_patching import TOLERANCE
from benchmarks.subjects import SHAPES, Subject, spread, subject
from benchmarks.tables import ratio, seconds, table
from path_patching.circuits.circuit import EMBEDS, LOGITS, Circuit, Link, full_circuit, on_paths
from path_patching.circuits.edge_lists import as_graph, edge
from path_patching.engine import Engine, Request
from path_patching.engine_choice import make_engine
from path_patching.errors import UserError, in_one_line
from path_patching.gpt2.model import Architecture, to_transformers
from path_patching.gpt2.tokenizer import transformers_tokenizer
from path_patching.paths import INPUTS, Node, PathSet, Via
from path_patching.unembedding import answer_probabilities
from utils import prob_diff

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENGINES = ("torch", "rust_circuit")
HEADS_DRAWN = 12  # of the circuit of edges, beside all MLPs
LINKED: Via = "v"  # the input that links lead into
REFERENCE = "torch engine"
TOLERANCE_OF_EFFECT = 0.1  # of the largest effect, so that agreement says something; of a link it is small


@dataclass(frozen=True)
class Asked:
    """What is asked of every way: the question, the subject's shape and size, how many heads, how many edges."""

    question: str
    shape: str
    n: int
    n_nodes: int
    n_edges: int

    def subject(self) -> Subject:
        """The model and the sentences."""
        return subject(self.shape, self.n)

    def heads(self, on: Subject) -> list[Node]:
        """Heads at END, evenly spread over the layers."""
        return spread([node for node in on.nodes if node.kind == "head"], self.n_nodes)

    def circuit(self, on: Subject) -> Circuit:
        """The random circuit, of at most as many edges as are asked for."""
        return random_circuit(on.model.architecture, self.n_edges, random.Random(0))

    def links(self, on: Subject) -> list[Link]:
        """The links from a head of the layer before the last into each head of the last."""
        last = on.model.architecture.n_layers - 1
        return [Link(f"a{last}.h{head}", LINKED, f"a{last - 1}.h0") for head in range(on.model.architecture.n_heads)]

    def cuts(self, on: Subject) -> list[Cut]:
        """Edges and paths as graphs have them."""
        if self.question == "edges":
            return [Cut(frozenset(self.circuit(on).links), kept=True)]
        return [Cut(frozenset([Link(LOGITS, "in", head.name)]), kept=False) for head in self.heads(on)]


@dataclass(frozen=True)
class Cut:
    """Some edges of a graph, at all positions: those alone that are kept clean, or those alone that are corrupted."""

    links: frozenset[Link]
    kept: bool


@dataclass(frozen=True)
class Found:
    """Probability differences, one row a node, circuit or link, what they cost, and the engines' largest effect."""

    differences: list[list[float]]
    cost: Cost
    effect: float = 0.0


def random_circuit(sizes: Architecture, n: int, rng: random.Random) -> Circuit:
    """At most `n` edges among some heads and all MLPs, those alone that lie on a path from embeddings to logits.

    Raises `UserError` if none does.
    """
    heads = [f"a{layer}.h{head}" for layer in range(sizes.n_layers) for head in range(sizes.n_heads)]
    mlps = [f"m{layer}" for layer in range(sizes.n_layers)]
    names = [EMBEDS, *mlps, *rng.sample(heads, min(HEADS_DRAWN, len(heads))), LOGITS]
    possible = [
        Link(reader, via, sender)
        for reader in names
        for via in INPUTS[Node.named(reader, 0).kind]
        for sender in names
        if Node.named(sender, 0).reaches(Node.named(reader, 0), via)
    ]
    kept, _ = on_paths(rng.sample(possible, min(n, len(possible))))
    if not kept:
        raise UserError(f"--edges {n}: none of those drawn is on a path from embeddings to logits; give more")
    return Circuit("drawn at random", kept)


def by_engine(name: str, asked: Asked) -> Found:
    """What an engine of this repository finds, and the largest change that it makes."""
    on = asked.subject()
    try:
        engine = make_engine(name, "cpu", on.model, on.sentences, check=False)
    except UserError as error:  # rust_circuit has no wheel for this Python
        raise NotMeasuredError(f"skipped: {error}") from error
    found = _found(on, lambda: OURS[asked.question](engine, asked, on))
    unchanged = prob_diff(engine.corrupted() if asked.question == "edges" else engine.clean(), on.start_yy)
    effect = (torch.tensor(found.differences, dtype=torch.float64) - unchanged).abs().max().item()
    return Found(found.differences, found.cost, effect)


def _nodes(engine: Engine, asked: Asked, on: Subject) -> torch.Tensor:
    sizes, end = on.model.architecture, on.sentences.end
    each = [PathSet.all_downstream([head], end, sizes.n_layers, sizes.n_heads) for head in asked.heads(on)]
    return engine.evaluate([Request.patch(paths) for paths in each])


def _edges(engine: Engine, asked: Asked, on: Subject) -> torch.Tensor:
    return engine.isolate(full_circuit(asked.circuit(on), on.yy_position, on.sentences.end))[None]


def _paths(engine: Engine, asked: Asked, on: Subject) -> torch.Tensor:
    return engine.sweep(PathSet.at(Node.logits(on.sentences.end)), asked.heads(on))


def _links(engine: Engine, asked: Asked, on: Subject) -> torch.Tensor:
    """After a head of the last layer come the last MLP and the logits alone."""
    end = on.sentences.end
    after = PathSet.at(Node.logits(end)).through_chains([Node.mlp(on.model.architecture.n_layers - 1, end)])
    return engine.evaluate(
        [
            Request.patch(
                after.extend([Node.named(link.reader, end)]).extend(
                    [Node.named(link.sender, position) for position in range(end + 1)], link.via
                )
            )
            for link in asked.links(on)
        ]
    )


OURS: dict[str, Callable[[Engine, Asked, Subject], torch.Tensor]] = {
    "nodes": _nodes,
    "edges": _edges,
    "paths": _paths,
    "links": _links,
}


def by_transformer_lens(asked: Asked) -> Found:
    """Activation patching as TransformerLens brings it, one forward pass a head."""
    import pandas as pd
    from transformer_lens import patching

    on = asked.subject()
    hooked = hooked_transformer(on.model, "cpu")
    places = pd.DataFrame([(head.layer, head.position, head.index) for head in asked.heads(on)])
    places.columns = pd.Index(["layer", "pos", "head"])
    keep, swept = _keeper(on)

    def run() -> torch.Tensor:
        _, cache_ = hooked.run_with_cache(
            on.sentences.corrupted, names_filter=lambda name: name.endswith("attn.hook_z")
        )
        setter = patching.layer_pos_head_vector_patch_setter
        patching.generic_activation_patch(hooked, on.sentences.clean, cache_, keep, setter, "z", index_df=places)
        return torch.stack(swept)

    with torch.inference_mode():
        return _found(on, run)


def by_hooks(asked: Asked) -> Found:
    """Path patching with TransformerLens' hooks, one frozen forward pass a head."""
    on = asked.subject()
    hooked = TransformerLensHooks(on.model, "cpu")
    run = timed(lambda: differences(hooked, on.sentences, on.start_yy, asked.heads(on)), "cpu")
    return Found(run.result.tolist(), run.cost)


def by_direct_path(asked: Asked) -> Found:
    """TransformerLens' own path patching, of version 4, whose receivers are the inputs of heads."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.patching import get_act_patch_direct_path

    on = asked.subject()
    # Given both, it asks no network for either.
    bridge = TransformerBridge.boot_transformers(
        "gpt2", hf_model=to_transformers(on.model), tokenizer=tokenizer_with_bos(), device="cpu"
    )
    sender = Node.named(asked.links(on)[0].sender, on.sentences.end)
    keep, swept = _keeper(on)

    def run() -> torch.Tensor:
        site = f"blocks.{sender.layer}.attn.hook_z"
        # What is patched is called corrupted there, and what is patched in is called clean.
        corrupted, clean = (
            bridge.run_with_cache(on.sentences.of(data), names_filter=site)[1] for data in ("corrupted", "clean")
        )
        get_act_patch_direct_path(
            bridge, on.sentences.clean, corrupted, clean, keep, sender.layer, sender.index, LINKED, verbose=False
        )
        return torch.stack(swept)

    with torch.inference_mode():
        return _found(on, run)


def by_eap_ig(asked: Asked) -> Found:
    """EAP-IG's evaluation of graphs that keep some edges."""
    from eap.evaluate import evaluate_graph
    from eap.graph import Graph

    on = asked.subject()
    hooked = hooked_transformer(on.model, "cpu", split=True)
    hooked.set_tokenizer(tokenizer_with_bos())
    texts = {data: hooked.tokenizer.batch_decode(on.sentences.of(data)[:, 1:]) for data in ("clean", "corrupted")}
    batches = [(texts["clean"], texts["corrupted"], None)]
    cuts = asked.cuts(on)

    def probabilities(logits: torch.Tensor, *_: object) -> torch.Tensor:
        return answer_probabilities(logits[:, -1], on.sentences.answers)

    def evaluated(cut: Cut) -> torch.Tensor:
        graph, named = Graph.from_model(hooked), as_graph(cut.links, on.model.architecture)["edges"]
        for name, each in graph.edges.items():
            each.in_graph = (name in named) == cut.kept
        return evaluate_graph(hooked, graph, batches, probabilities, quiet=True)

    return _found(on, lambda: torch.stack([evaluated(cut) for cut in cuts]))


def by_auto_circuit(asked: Asked) -> Found:
    """auto-circuit's patching of the edges that are not kept."""
    from auto_circuit.utils.ablation_activations import src_ablations
    from auto_circuit.utils.graph_utils import patch_mode, patchable_model

    on = asked.subject()
    hooked = hooked_transformer(on.model, "cpu", split=True)
    model = patchable_model(hooked, factorized=True, slice_output="last_seq", separate_qkv=True)
    links = {each.name: edge(each.name)[0] for each in model.edges}
    patched = [{name for name, link in links.items() if (link in cut.links) != cut.kept} for cut in asked.cuts(on)]

    def evaluated(names: set[str], corrupted: torch.Tensor) -> torch.Tensor:
        with patch_mode(model, corrupted, names):
            logits = model(on.sentences.clean)[model.out_slice]
        return answer_probabilities(logits, on.sentences.answers)

    def run() -> torch.Tensor:
        corrupted = src_ablations(model, on.sentences.corrupted)
        return torch.stack([evaluated(names, corrupted) for names in patched])

    with torch.inference_mode():
        return _found(on, run)


def tokenizer_with_bos() -> PreTrainedTokenizerBase:
    """GPT-2's, putting `<|endoftext|>` first: TransformerLens takes such a one as it is and fetches no other."""
    tokenizer = transformers_tokenizer()
    tokenizer.add_bos_token = True
    return tokenizer


def _keeper(on: Subject) -> tuple[Callable[[torch.Tensor], torch.Tensor], list[torch.Tensor]]:
    """A metric that keeps the sentences' own answer probabilities (N, A), and where; one number of a pass is asked."""
    swept: list[torch.Tensor] = []

    def keep(logits: torch.Tensor) -> torch.Tensor:
        swept.append(answer_probabilities(logits[:, -1], on.sentences.answers))
        return torch.zeros(())

    return keep, swept


def _found(on: Subject, compute: Callable[[], torch.Tensor]) -> Found:
    """The probability differences of probabilities (rows, N, A) and the cost to compute these."""
    run = timed(compute, "cpu")
    return Found([prob_diff(each.double(), on.start_yy).tolist() for each in run.result], run.cost)


BY_GRAPHS: dict[str, tuple[Callable[[Asked], Found], str]] = {
    "EAP-IG": (by_eap_ig, "clean run; each reader's input gets the differences of the edges left out added"),
    "auto-circuit": (by_auto_circuit, "the same, with masks on each input, against what the senders write by then"),
}
PEERS: dict[str, dict[str, tuple[Callable[[Asked], Found], str]]] = {
    "nodes": {
        "TransformerLens": (by_transformer_lens, "a head's z at END; all that comes after it is recomputed"),
    },
    "edges": BY_GRAPHS,
    "paths": {
        "TransformerLens, hooks": (by_hooks, "every z and MLP output held at its clean value, the head's corrupted"),
        **BY_GRAPHS,
    },
    "links": {
        "TransformerLens 4": (by_direct_path, "the difference in what a head writes, added to a later head's input"),
    },
}


def attempt(way: Callable[..., Found], *arguments: object) -> Found:
    """What a way finds. Raises `NotMeasuredError` with the reason if it cannot be imported or run."""
    try:
        return way(*arguments)
    except ImportError as error:
        raise NotMeasuredError(f"skipped: {in_one_line(error)}") from error
    except UserError:
        raise
    except Exception as error:  # another's code, of any version
        raise NotMeasuredError(f"skipped: it fails with {type(error).__name__} ({in_one_line(error)})") from error


def compare(asked: Asked, threads: int) -> list[list[str]]:
    """The rows of one question: the engines, then the peers.

    Raises `UserError` if one differs from the torch engine in what it finds.
    """
    ways: dict[str, tuple[tuple[object, ...], str]] = {
        f"{name} engine": ((by_engine, name, asked), "the paths' nodes are recomputed, nothing else")
        for name in ENGINES
    }
    ways |= {name: ((way, asked), meaning) for name, (way, meaning) in PEERS[asked.question].items()}
    rows, reference = [], None
    for name, (call, meaning) in ways.items():
        try:
            found = in_own_process(attempt, *call, threads=threads)
        except NotMeasuredError as reason:
            rows.append([asked.question, name, *[""] * 4, str(reason)])
            continue
        reference = reference or found
        differs = _apart(name, found, reference, asked.question)
        cells = [seconds(found.cost.core), seconds(found.cost.clock), ratio(found.cost.core, reference.cost.core)]
        rows.append([asked.question, name, *cells, f"{differs:.0e} of {reference.effect:.0e}", meaning])
    return rows


def _apart(name: str, found: Found, reference: Found, question: str) -> float:
    """The largest difference of two ways. Raises `UserError` if it is more than rounding, or than effects allow."""
    ours, theirs = (torch.tensor(each.differences, dtype=torch.float64) for each in (reference, found))
    apart = (ours - theirs).abs().max().item()
    if not apart < min(TOLERANCE, TOLERANCE_OF_EFFECT * reference.effect):
        raise UserError(
            f"{name} differs from the {REFERENCE} on {question} by {apart:.1e}, the largest effect being "
            f"{reference.effect:.1e}; no times"
        )
    return apart


def main(arguments: list[str] | None = None) -> None:
    """Measure and print one table."""
    prepare()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model-shape", choices=[*SHAPES], default="small", help="of random weights (small)")
    parser.add_argument("--n", type=int, default=24, help="sentences (24)")
    parser.add_argument("--nodes", type=int, default=13, help="heads at END (13)")
    parser.add_argument("--edges", type=int, default=300, help="edges drawn (300)")
    parser.add_argument("--questions", nargs="+", choices=[*PEERS], default=[*PEERS], help="some of them (all)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (1)")
    options = parser.parse_args(arguments)
    if min(options.n, options.nodes, options.edges, options.threads) < 1:
        raise UserError("give --n, --nodes, --edges and --threads of 1 or more")
    each = [
        Asked(question, options.model_shape, options.n, options.nodes, options.edges) for question in options.questions
    ]
    on = each[0].subject()
    print(f"{machine('cpu', options.threads)}\n")
    print(
        f"{len(each[0].heads(on))} nodes, a circuit of {len(each[0].circuit(on).links)} edges, "
        f"{len(each[0].links(on))} links, {options.model_shape}, {options.n} sentences.\n"
    )
    rows = [row for asked in each for row in compare(asked, options.threads)]
    print(table(["asked", "how", "core time", "time", "÷ torch engine", "differs", "what it does"], rows))


if __name__ == "__main__":
    main()
