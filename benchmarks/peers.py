"""How fast are the engines beside the tools that others patch with, where both mean the same?

python benchmarks/peers.py [--model-shape small] [--n 24] [--nodes 13] [--edges 300] [--help]

Two questions, on random weights. *Nodes*: what changes if one head at END is corrupted and all that comes after it is
recomputed (`PathSet.all_downstream`), for some heads. *Edges*: a random circuit of edges at all positions alone, all
other edges corrupted (`engine.isolate` of its paths). Before any time is printed a peer's probability differences must
be the torch engine's to 1e-5. A peer that is not installed, or fails, is a row with the reason.

Each way runs in a process of its own. Its time is all that a question costs once the model is loaded: forward passes,
and whatever the tool makes of nodes and edges. Core time is the processor time of all threads.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# This file's folder, where Python looks first, would hide the module `path_patching` behind a file of its own.
sys.path.insert(0, str(Path(__file__).parents[1]))

from reproduction.command_line import prepare

import torch

from benchmarks.hook_loop import hooked_transformer
from benchmarks.measuring import Cost, NotMeasuredError, in_own_process, machine, timed
from benchmarks.subjects import SHAPES, Subject, spread, subject
from benchmarks.tables import ratio, seconds, table
from path_patching.engine import Request
from path_patching.errors import UserError, in_one_line
from path_patching.gpt2.model import Architecture
from path_patching.gpt2.tokenizer import load_tokenizer
from path_patching.make_engine import make_engine
from path_patching.paths import INPUTS, Branch, Node, PathSet, Via
from path_patching.unembedding import answer_probabilities
from utils import prob_diff

AGREEMENT = 1e-5  # of probability differences, the repository's promise
ENGINES = ("torch", "rust_circuit")
HEADS_DRAWN = 12  # of the circuit of edges, beside all MLPs
REFERENCE = "torch engine"

Edge = tuple[str, str, Via]  # sender, reader and the reader's input, named as `Node.name` does


@dataclass(frozen=True)
class Asked:
    """What is asked of every way: the subject's shape and size, how many heads, how many edges."""

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

    def edges(self, on: Subject) -> list[Edge]:
        """Edges of a random circuit, at most as many as are asked for."""
        return random_edges(on.model.architecture, self.n_edges, random.Random(0))


@dataclass(frozen=True)
class Found:
    """Probability differences, one row a node or circuit, and what they cost."""

    differences: list[list[float]]
    cost: Cost


def random_edges(sizes: Architecture, n: int, rng: random.Random) -> list[Edge]:
    """At most `n` edges among some heads and all MLPs, those alone that lie on a path from embeddings to logits."""
    heads = [f"a{layer}.h{head}" for layer in range(sizes.n_layers) for head in range(sizes.n_heads)]
    mlps = [f"m{layer}" for layer in range(sizes.n_layers)]
    names = ["embeds", *mlps, *rng.sample(heads, min(HEADS_DRAWN, len(heads))), "logits"]
    possible = [
        (sender, reader, via)
        for reader in names
        for via in INPUTS[Node.named(reader, 0).kind]
        for sender in names
        if Node.named(sender, 0).reaches(Node.named(reader, 0), via)
    ]
    return on_paths(rng.sample(possible, min(n, len(possible))))


def on_paths(edges: Iterable[Edge]) -> list[Edge]:
    """Those of the edges that lie on a path from the embeddings to the logits."""
    kept = sorted(edges)
    while True:
        written = {"embeds", *(reader for _, reader, _ in kept)}
        read = {"logits", *(sender for sender, _, _ in kept)}
        left = [edge for edge in kept if edge[0] in written and edge[1] in read]
        if left == kept:
            return kept
        kept = left


def paths_of(edges: Iterable[Edge], end: int) -> PathSet:
    """All paths from the logits at `end` that use these edges alone, at any position, down to the embeddings."""
    senders: dict[tuple[str, Via], list[str]] = {}
    for sender, reader, via in edges:
        senders.setdefault((reader, via), []).append(sender)

    @cache
    def below(name: str, position: int) -> PathSet:
        node = Node.named(name, position)
        branches = [
            Branch(via, below(sender, at))
            for via in INPUTS[node.kind]
            for sender in senders.get((name, via), ())
            for at in (range(position + 1) if via in ("k", "v") else (position,))
        ]
        return PathSet(node, not branches, tuple(branches))

    return below("logits", end)


def by_engine(name: str, question: str, asked: Asked) -> Found:
    """What an engine of this repository finds, given the nodes or the edges."""
    on = asked.subject()
    sizes, end = on.model.architecture, on.sentences.end
    heads, edges = asked.heads(on), asked.edges(on)
    engine = make_engine(name, "cpu", on.model, on.sentences, check=False)

    def requests() -> list[Request]:
        if question == "edges":
            return [Request.isolate(paths_of(edges, end))]
        each = [PathSet.all_downstream([head], end, sizes.n_layers, sizes.n_heads) for head in heads]
        return [Request.patch(paths) for paths in each]

    return _found(on, lambda: engine.evaluate(requests()))


def by_transformer_lens(asked: Asked) -> Found:
    """Activation patching as TransformerLens brings it, one forward pass a head."""
    import pandas as pd
    from transformer_lens import patching

    on = asked.subject()
    hooked = hooked_transformer(on.model, "cpu")
    places = pd.DataFrame([(head.layer, head.position, head.index) for head in asked.heads(on)])
    places.columns = pd.Index(["layer", "pos", "head"])
    swept: list[torch.Tensor] = []

    def keep(logits: torch.Tensor) -> torch.Tensor:
        swept.append(answer_probabilities(logits[:, -1], on.sentences.answers))
        return torch.zeros(())  # it wants one number of a pass; the sentences' own are kept here

    def run() -> torch.Tensor:
        _, cache_ = hooked.run_with_cache(
            on.sentences.corrupted, names_filter=lambda name: name.endswith("attn.hook_z")
        )
        setter = patching.layer_pos_head_vector_patch_setter
        patching.generic_activation_patch(hooked, on.sentences.clean, cache_, keep, setter, "z", index_df=places)
        return torch.stack(swept)

    with torch.inference_mode():
        return _found(on, run)


def by_eap_ig(asked: Asked) -> Found:
    """EAP-IG's evaluation of a graph that keeps some edges."""
    from eap.evaluate import evaluate_graph
    from eap.graph import Graph

    on = asked.subject()
    hooked = hooked_transformer(on.model, "cpu", split=True)
    hooked.tokenizer = _tokenizer()
    hooked.cfg.tokenizer_prepends_bos = False  # what it would find out of a tokenizer that it loads itself
    texts = {data: hooked.tokenizer.batch_decode(on.sentences.of(data)[:, 1:]) for data in ("clean", "corrupted")}
    batches = [(texts["clean"], texts["corrupted"], None)]
    edges = asked.edges(on)

    def probabilities(logits: torch.Tensor, *_: object) -> torch.Tensor:
        return answer_probabilities(logits[:, -1], on.sentences.answers)

    def run() -> torch.Tensor:
        graph = Graph.from_model(hooked)
        for sender, reader, via in edges:
            arrow = f"{'input' if sender == 'embeds' else sender}->{reader}"
            graph.edges[arrow if via == "in" else f"{arrow}<{via}>"].in_graph = True
        return evaluate_graph(hooked, graph, batches, probabilities, quiet=True)[None]

    return _found(on, run)


def by_auto_circuit(asked: Asked) -> Found:
    """auto-circuit's patching of the edges that are not kept."""
    from auto_circuit.types import Edge as TheirEdge
    from auto_circuit.utils.ablation_activations import src_ablations
    from auto_circuit.utils.graph_utils import patch_mode, patchable_model

    on = asked.subject()
    hooked = hooked_transformer(on.model, "cpu", split=True)
    edges = {_in_auto_circuit(edge) for edge in asked.edges(on)}
    model = patchable_model(hooked, factorized=True, slice_output="last_seq", separate_qkv=True)

    def outside() -> list[TheirEdge]:
        return [edge for edge in model.edges if edge.name not in edges]

    def run() -> torch.Tensor:
        corrupted = src_ablations(model, on.sentences.corrupted)
        with patch_mode(model, corrupted, {edge.name for edge in outside()}):
            logits = model(on.sentences.clean)[model.out_slice]
        return answer_probabilities(logits, on.sentences.answers)[None]

    with torch.inference_mode():
        return _found(on, run)


def _in_auto_circuit(edge: Edge) -> str:
    """An edge's name there: `A9.1->A10.2.Q`, `Resid Start->MLP 0`."""

    def named(name: str) -> str:
        node = Node.named(name, 0)
        of_kind = {"mlp": f"MLP {node.layer}", "head": f"A{node.layer}.{node.index}", "embeds": "Resid Start"}
        return of_kind.get(node.kind, "Resid End")

    sender, reader, via = edge
    return f"{named(sender)}->{named(reader)}" + ("" if via == "in" else f".{via.upper()}")


def _tokenizer() -> object:
    """GPT-2's, with the padding that EAP-IG asks for; no sentence here needs it."""
    tokenizer = load_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _found(on: Subject, compute: Callable[[], torch.Tensor]) -> Found:
    """The probability differences of probabilities (rows, N, A) and the cost to compute these."""
    run = timed(compute, "cpu")
    return Found([prob_diff(each.double(), on.years_yy).tolist() for each in run.result], run.cost)


PEERS: dict[str, dict[str, tuple[Callable[[Asked], Found], str]]] = {
    "nodes": {
        "TransformerLens": (by_transformer_lens, "a head's z at END; all that comes after it is recomputed"),
    },
    "edges": {
        "EAP-IG": (by_eap_ig, "clean run; each reader's input gets the differences of the edges left out added"),
        "auto-circuit": (by_auto_circuit, "the same, with masks on each input, against what the senders write by then"),
    },
}  # fmt: skip


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


def compare(question: str, asked: Asked, threads: int) -> list[list[str]]:
    """The rows of one question: the engines, then the peers.

    Raises `UserError` if one differs from the torch engine in what it finds.
    """
    ways: dict[str, tuple[tuple[object, ...], str]] = {
        f"{name} engine": ((by_engine, name, question, asked), "the paths' nodes are recomputed, nothing else")
        for name in ENGINES
    }
    ways |= {name: ((way, asked), meaning) for name, (way, meaning) in PEERS[question].items()}
    rows, reference = [], None
    for name, (call, meaning) in ways.items():
        try:
            found = in_own_process(attempt, *call, threads=threads)
        except NotMeasuredError as reason:
            rows.append([question, name, *[""] * 4, str(reason)])
            continue
        reference = reference or found
        differs = (torch.tensor(found.differences) - torch.tensor(reference.differences)).abs().max().item()
        if not differs < AGREEMENT:
            raise UserError(f"{name} differs from the {REFERENCE} on {question} by {differs:.1e}; no times")
        cells = [seconds(found.cost.core), seconds(found.cost.clock), ratio(found.cost.core, reference.cost.core)]
        rows.append([question, name, *cells, f"{differs:.0e}", meaning])
    return rows


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
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (1)")
    options = parser.parse_args(arguments)
    if min(options.n, options.nodes, options.edges, options.threads) < 1:
        raise UserError("give --n, --nodes, --edges and --threads of 1 or more")
    asked = Asked(options.model_shape, options.n, options.nodes, options.edges)
    on = asked.subject()
    print(f"{machine('cpu', options.threads)}\n")
    rows = [row for question in PEERS for row in compare(question, asked, options.threads)]
    print(
        f"{len(asked.heads(on))} nodes, a circuit of {len(asked.edges(on))} edges, {options.model_shape}, "
        f"{options.n} sentences.\n"
    )
    print(table(["asked", "how", "core time", "time", "÷ torch engine", "differs", "what it does"], rows))


if __name__ == "__main__":
    main()
