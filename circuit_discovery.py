"""Which circuit computes greater-than? Section 3 of the paper: path patching, logit lens, attention, evaluation.

python circuit_discovery.py [--model gpt2|standin|NAME|PATH] [--circuit paper|auto|FILE] [--help]
"""

# %% What is asked, of which model? In an interactive window, change the settings here.
from reproduction.command_line import read_settings

from reproduction.settings import DiscoverySettings

settings = read_settings(__doc__, DiscoverySettings(n=490))

import torch

from path_patching.circuits.circuit import full_circuit, in_model, in_order, into_mlp, late_half, nodes
from path_patching.circuits.circuit_file import as_json, links_as_json, table
from path_patching.circuits.links import link_effects
from path_patching.circuits.search import Found, find_circuit
from path_patching.circuits.size import size_of
from path_patching.errors import UserError
from path_patching.paths import AnyVia, Node, PathSet
from path_patching.sweeps import remembered_effects
from path_patching.unembedding import logit_lens
from reproduction.circuit_choice import choose_circuit, circuit_asked_for
from reproduction.evaluations import Evaluations, save_sweep, sweep_intervals
from reproduction.paper import PAPER
from reproduction.run import open_run
from utils import (
    collate,
    greater_than,
    has_every_yy,
    later_above_others,
    start_experiment,
    year_metrics,
)

# %% Which sentences? N of them, each with a twin whose YY is 01. And is a circuit given, or to be found?
experiment = start_experiment(settings)
run = open_run("circuit_discovery", experiment)
model, dataset, engine = experiment.model, experiment.dataset, experiment.engine
start_yy, YY, END = dataset.years_YY, dataset.yy_position, dataset.end
to_be_found = circuit_asked_for(settings, model) == "auto"
if settings.threshold is not None and not to_be_found:
    raise UserError("--threshold is for --circuit auto; leave it out, or find the circuit automatically")
given = None if to_be_found else choose_circuit(experiment, run)
run.save("dataset.pt", dataset.as_artifact(), kind="sentences")
print(f"{dataset.good_sentences[0]!r}, corrupted: {dataset.bad_sentences[0]!r}")

# %% Does the model compute greater-than?
clean, corrupted = engine.clean(), engine.corrupted()
evaluations = Evaluations(run, dataset.as_table(), year_metrics())
for data, probs in {"clean": clean, "corrupted": corrupted}.items():
    evaluations.note(data, probs, data)
clean_differences = evaluations.column("clean", "probability_difference")

# %% And what does it predict for each YY? With few sentences some YY has none, and this is left out here and below.
every_yy = has_every_yy(start_yy)


def save_by_yy(artifact: str, values: torch.Tensor, **about: object) -> None:
    """Save the means of a per-sentence quantity (N, ...) for each YY, (97, ...)."""
    if every_yy:
        run.save(artifact, collate(values, start_yy), **about)


save_by_yy("probs.pt", clean, kind="probabilities", evaluation="clean")

# %% Which circuit is followed? The paper's or a file's; or one found here by rule, from sweeps like those below.
metric = greater_than(start_yy)
effects = remembered_effects(engine, metric)  # what the search has swept is not swept again below
found: Found | None = None
circuit = given
if circuit is None:
    found = find_circuit(engine, metric, YY, END, settings.threshold, effects)
    circuit = found.circuit
    run.note_circuit(circuit)
run.note("circuit/size", str(size_of(circuit, model.architecture)), "circuit's heads, MLPs and links")
print(table(circuit))

# %% What else is looked at? The paper's nodes beside the circuit's own, where the model has them: so models compare.
sizes = model.architecture
mlps = in_order({*circuit.mlps, *in_model(PAPER.mlps, sizes)})
lower = in_order({*circuit.lower, *in_model(PAPER.lower, sizes)})
studied, in_the_paper = circuit.studied or circuit.heads[:3], in_model(PAPER.studied, sizes)
heads, watched = dict.fromkeys((*studied, *in_the_paper)), dict.fromkeys((*studied[:2], *in_the_paper[:2]))


# %% Which nodes act on the logits directly?
intervals: dict[str, torch.Tensor] = {}  # by sweep, the ends of each effect's, (L, H + 1, 2)


def patch_every_node(
    artifact: str, key: str, receivers: PathSet, at: str, via: AnyVia = "all", **about: object
) -> None:
    """Patch receivers∘node for every node at END or YY; save the (L, H + 1) effects and name the strongest."""
    position = {"END": END, "YY": YY}[at]
    if not receivers.reachable(Node.head(0, 0, position), via):
        print(f"left out: {artifact}; no head and no MLP comes before what it asks about")
        return
    save_sweep(run, artifact, f"sweeps/{key}", effects(receivers, position, via), position=at, **about)
    changes = effects.changes(receivers, position, via)
    intervals[artifact] = sweep_intervals(changes, settings.seed, evaluations.clusters)


patch_every_node("ipp_logits.pt", "logits", PathSet.at(Node.logits(END)), "END", of="logits", receiver="logits")

# %% Which nodes act through the late MLPs? Each MLP is reached by every chain of the circuit's later ones.
if not mlps:
    print("left out: what acts through late MLPs, of which there are none")
for mlp in reversed(mlps):
    artifact = f"ipp_{mlp.replace('m', 'mlp')}.pt"
    patch_every_node(artifact, mlp, into_mlp(circuit, mlp, END), "END", of="mlp", receiver=mlp)

# %% What do the circuit's most telling heads look at? A pattern is (query, key); those of all heads on 20 sentences.
prompt = list(dataset.good_prompt)
for head in nodes(watched, END):
    pattern = engine.attention([(head.layer, head.index)])[0]
    run.save(f"attn_patterns_{head.name}.pt", pattern.mean(0), kind="attention", node=head.name, prompt=prompt)
    words = f"attention of {head.name} from END to YY"
    evaluations.note_mean(f"attention/{head.name}", "end_to_yy", pattern[:, END, YY], words)
    if head.name == studied[0]:
        save_by_yy("attn_collated.pt", pattern, kind="attention_by_yy", node=head.name)
        run.note("attention/collated/head", head.name, "head of attn_collated.pt")

every_head = [(layer, index) for layer in range(sizes.n_layers) for index in range(sizes.n_heads)]
few = engine.like(engine.sentences.rows(slice(20)))
patterns = few.attention(every_head).unflatten(0, (sizes.n_layers, sizes.n_heads))
run.save("attn_patterns_all.pt", {"patterns": patterns, "prompt": prompt}, kind="attention_of_all_heads")

# %% What do heads and MLPs say of the end year by themselves?
lens_names = (*heads, *mlps)
writes = engine.writes(nodes(lens_names, END))
for node, logits in zip(nodes(lens_names, END), logit_lens(writes, model, engine.sentences.answers), strict=True):
    artifact, lens = f"logit_lens_{node.name.replace('m', 'mlp')}.pt", f"logit_lens/{node.name}"
    save_by_yy(artifact, logits, kind="logit_lens", of=node.kind, node=node.name)
    highest, later = (logits.argmax(1) == start_yy).double(), later_above_others(logits, start_yy)
    words = f"logit lens of {node.name}"
    evaluations.note_mean(lens, "yy_is_highest", highest, f"{words}: YY is the highest year")
    evaluations.note_mean(lens, "later_above_others", later, f"{words}: years above YY minus the others")

# %% How much does the late half achieve alone, with everything else on 01 data? And what is lost without it?
late = late_half(circuit, END)


def evaluate(key: str, words: str, artifact: str, paths: PathSet) -> None:
    """Sufficiency and necessity of a circuit, and its share of the clean probability difference."""
    alone, without = engine.isolate(paths), engine.patch(paths)
    save_by_yy(artifact, alone, kind="probabilities", evaluation=key)
    evaluations.note(key, alone, words, clean=clean_differences)
    rest = evaluations.measure(f"{key}/without", without)["probability_difference"]
    of_rest = f"{words}: probability difference without it"
    evaluations.note_mean(f"{key}/without", "probability_difference", rest, of_rest)


evaluate("late_half", "late half", "late_half_probs.pt", late)

# %% Where do the heads get their queries from at END, their keys and values at YY?
for via, at in {"q": "END", "k": "YY", "v": "YY"}.items():
    patch_every_node(f"attn_{via}.pt", f"heads/{via}", late, at, via, of="heads", through=via)

# %% And the early MLPs at YY that the heads' values come from?
early = [mlp for mlp in nodes(lower, YY) if mlp.kind == "mlp" and late.reachable(mlp, "v")]
if not early:
    print("left out: what acts through early MLPs, of which the heads' values read none")
for mlp in early:
    artifact, receivers = f"results_mlp{mlp.layer}.pt", late.extend([mlp], via="v")
    patch_every_node(artifact, f"{mlp.name}/v", receivers, "YY", of="mlp", receiver=mlp.name, through="v")

# %% How much does the full circuit achieve, down to the embeddings?
evaluate("full_circuit", "full circuit", "full_circuit_probs.pt", full_circuit(circuit, YY, END))

# %% How much does each of its links matter? With that, and how it was found, the circuit is data for other scripts.
links = links_as_json(link_effects(engine, circuit, metric, YY, END, effects))
described = as_json(circuit) | {"links": links} | ({"search": found.as_json()} if found else {})
run.save_json("circuit.json", described, kind="circuit")

# %% Everything ran: publish it.
run.save("sweep_intervals.pt", intervals, kind="sweep_intervals")
evaluations.save()
run.publish()
