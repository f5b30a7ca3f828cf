"""Which circuit computes greater-than? Section 3 of the paper: path patching, logit lens, attention, evaluation.

python circuit_discovery.py [--model gpt2|standin|PATH] [--circuit paper|auto|FILE] [--help]
"""

# %% What is asked, of which model? In an interactive window, change the settings here.
from dataclasses import dataclass
from typing import Literal

from path_patching.bootstrap import mean, share
from path_patching.circuits.circuit import full_circuit, in_model, in_order, into_mlp, late_half, nodes
from path_patching.circuits.circuit_file import as_json, links_as_json, table
from path_patching.circuits.links import link_effects
from path_patching.circuits.search import THRESHOLDS, Found, find_circuit
from path_patching.errors import UserError
from path_patching.paths import Node, PathSet, Via
from path_patching.sweeps import remembered_effects
from path_patching.unembedding import logit_lens
from reproduction.paper import PAPER
from reproduction.settings import Settings, flag, read_settings
from utils import (
    choose_circuit,
    circuit_asked_for,
    collate,
    greater_than,
    later_above_others,
    note_greater_than,
    open_run,
    prob_diff,
    save_sweep,
    start_experiment,
)


@dataclass(frozen=True)
class DiscoverySettings(Settings):
    """The settings of every experiment, and how strict the search for a circuit is."""

    threshold: float | None = flag(
        None,
        "auto keeps nodes whose effect is at least this share of the clean probability difference; by default the "
        f"largest of {', '.join(f'{share:g}' for share in THRESHOLDS)} with which the circuit suffices",
        float,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise UserError(f"--threshold {self.threshold}: give a share between 0 and 1")


settings = read_settings(__doc__, DiscoverySettings(n=490), evaluates_circuit=True)

# %% Which sentences? N of them, each with a twin whose YY is 01. And is a circuit given, or to be found?
experiment = start_experiment(settings)
run = open_run("circuit_discovery", experiment)
model, dataset, engine = experiment.model, experiment.dataset, experiment.engine
yy, YY, END = dataset.years_YY, dataset.yy, dataset.end
to_be_found = circuit_asked_for(settings, model) == "auto"
if settings.threshold is not None and not to_be_found:
    raise UserError("--threshold is for --circuit auto; leave it out, or find the circuit automatically")
given = None if to_be_found else choose_circuit(experiment, run)
run.save("dataset.pt", dataset.as_artifact())
print(f"{dataset.good_sentences[0]!r}, corrupted: {dataset.bad_sentences[0]!r}")

# %% Does the model compute greater-than?
clean, corrupted = engine.clean(), engine.corrupted()
clean_differences = prob_diff(clean, yy)
run.save("probs.pt", collate(clean, yy))
note_greater_than(run, "clean", clean, yy, settings.seed)
note_greater_than(run, "corrupted", corrupted, yy, settings.seed)

# %% Which circuit is followed? The paper's or a file's; or one found here by rule, from sweeps like those below.
metric = greater_than(yy)
effects = remembered_effects(engine, metric)
found: Found | None = None
circuit = given
if circuit is None:
    found = find_circuit(engine, metric, YY, END, settings.threshold, effects)
    circuit = found.circuit
run.note("circuit", circuit.name)
n_nodes = model.architecture.n_layers * (model.architecture.n_heads + 1)
at_end, at_yy = len(circuit.heads + circuit.mlps), len(circuit.lower)
run.note("circuit's heads and MLPs", f"{at_end} of {n_nodes} at END, {at_yy} of {n_nodes} at YY")
print(table(circuit))

# %% What else is looked at? The paper's nodes beside the circuit's own, where the model has them: so models compare.
sizes = model.architecture
mlps = in_order({*circuit.mlps, *in_model(PAPER.mlps, sizes)})
lower = in_order({*circuit.lower, *in_model(PAPER.lower, sizes)})
studied, in_the_paper = circuit.studied or circuit.heads[:3], in_model(PAPER.studied, sizes)
heads, watched = dict.fromkeys((*studied, *in_the_paper)), dict.fromkeys((*studied[:2], *in_the_paper[:2]))


# %% Which nodes act on the logits directly?
def patch_every_node(artifact: str, receivers: PathSet, position: int, via: Via | Literal["all"] = "all") -> None:
    """Patch receivers∘node for every node at a position; save the (L, H + 1) effects and name the strongest."""
    if not receivers.reachable(Node.head(0, 0, position), via):
        print(f"{artifact} is not made: no head and no MLP comes before what it asks about")
        return
    save_sweep(run, artifact, effects(receivers, position, via))


patch_every_node("ipp_logits.pt", PathSet.at(Node.logits(END)), END)

# %% Which nodes act through the late MLPs? Each MLP is reached by every chain of the circuit's later ones.
for mlp in reversed(mlps):
    patch_every_node(f"ipp_{mlp.replace('m', 'mlp')}.pt", into_mlp(circuit, mlp, END), END)

# %% What do the circuit's most telling heads look at? A pattern is (query, key); those of all heads on 20 sentences.
for head in nodes(watched, END):
    pattern = engine.attention([(head.layer, head.index)])[0]
    run.save(f"attn_patterns_{head.name}.pt", pattern.mean(0))
    run.note(f"attention of {head.name} from END to YY", mean(pattern[:, END, YY], settings.seed))
    if head.name == studied[0]:
        run.save("attn_collated.pt", collate(pattern, yy))
        run.note("head of attn_collated.pt", head.name)

every_head = [(layer, index) for layer in range(sizes.n_layers) for index in range(sizes.n_heads)]
few = engine.like(engine.sentences.rows(slice(20)))
patterns = few.attention(every_head).unflatten(0, (sizes.n_layers, sizes.n_heads))
run.save("attn_patterns_all.pt", {"patterns": patterns, "prompt": list(dataset.good_prompt)})

# %% What do heads and MLPs say of the end year by themselves?
lens_names = (*heads, *mlps)
writes = engine.writes(nodes(lens_names, END))
for name, logits in zip(lens_names, logit_lens(writes, model, engine.sentences.answers), strict=True):
    run.save(f"logit_lens_{name.replace('m', 'mlp')}.pt", collate(logits, yy))
    highest, later = (logits.argmax(1) == yy).double(), later_above_others(logits, yy)
    run.note(f"logit lens of {name}: YY is the highest year", mean(highest, settings.seed))
    run.note(f"logit lens of {name}: years above YY minus the others", mean(later, settings.seed))

# %% How much does the late half achieve alone, with everything else on 01 data? And what is lost without it?
late = late_half(circuit, END)


def evaluate(name: str, artifact: str, paths: PathSet) -> None:
    """Sufficiency and necessity of a circuit, and its share of the clean probability difference."""
    alone, without = engine.isolate(paths), engine.patch(paths)
    run.save(artifact, collate(alone, yy))
    note_greater_than(run, name, alone, yy, settings.seed)
    run.note(f"{name}: share of clean", share(prob_diff(alone, yy), clean_differences, settings.seed))
    lost = mean(prob_diff(without, yy), settings.seed)
    run.note(f"{name}: probability difference without it", lost)


evaluate("late half", "late_half_probs.pt", late)

# %% Where do the heads get their queries from at END, their keys and values at YY?
patch_every_node("attn_q.pt", late, END, via="q")
patch_every_node("attn_k.pt", late, YY, via="k")
patch_every_node("attn_v.pt", late, YY, via="v")

# %% And the early MLPs at YY that the heads' values come from?
for node in nodes(lower, YY):
    if node.kind == "mlp" and late.reachable(node, "v"):
        patch_every_node(f"results_mlp{node.layer}.pt", late.extend([node], via="v"), YY)

# %% How much does the full circuit achieve, down to the embeddings?
evaluate("full circuit", "full_circuit_probs.pt", full_circuit(circuit, YY, END))

# %% How much does each of its links matter? With that, and how it was found, the circuit is data for other scripts.
links = links_as_json(link_effects(engine, circuit, metric, YY, END))
run.save_json("circuit.json", as_json(circuit) | {"links": links} | ({"search": found.as_json()} if found else {}))

# %% Everything ran: publish it.
run.publish()
