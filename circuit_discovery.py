"""Which circuit computes greater-than? Section 3 of the paper: path patching, logit lens, attention, evaluation.

python circuit_discovery.py [--model gpt2|standin|PATH] [--circuit paper|auto|FILE] [--help]
"""

# %% What is asked, of which model? In an interactive window, change the settings here.
from dataclasses import dataclass

from auto_circuit import THRESHOLDS, find_circuit
from bootstrap import mean, share
from circuit import PAPER, full_circuit, in_model, in_order, into_mlp, late_half, nodes
from circuit_choice import choose_circuit, circuit_asked_for
from circuit_effects import link_effects, remembered_effects
from circuit_file import as_json, links_as_json, table
from experiment import start_experiment
from logit_lens import logit_lens
from metrics import collate, cutoff_sharpness, greater_than, probability_difference
from path_patching.iterative import strongest
from path_patching.paths import Node, PathSet
from settings import Settings, flag, read_settings
from utils import UserError


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

# %% Which sentences? N of them, each with a twin whose YY is 01.
experiment = start_experiment("circuit_discovery", settings)
model, dataset, engine, run = experiment.model, experiment.dataset, experiment.engine, experiment.run
yy, YY, END = dataset.years_YY, dataset.yy, dataset.end
run.save("dataset.pt", dataset.as_artifact())
print(f"{dataset.good_sentences[0]!r}, corrupted: {dataset.bad_sentences[0]!r}")

# %% Does the model compute greater-than?
clean, corrupted = engine.probabilities(), engine.probabilities(inside="clean")
clean_differences = probability_difference(clean, yy)
run.save("probs.pt", collate(clean, yy))
run.note("clean probability difference", mean(clean_differences, settings.seed))
run.note("clean cutoff sharpness", mean(cutoff_sharpness(clean, yy), settings.seed))
run.note("corrupted probability difference", mean(probability_difference(corrupted, yy), settings.seed))

# %% Which circuit is followed? The paper's or a file's; or one found here by rule, from sweeps like those below.
metric = greater_than(yy)
effects = remembered_effects(engine, metric)
automatic = circuit_asked_for(settings, model) == "auto"
if settings.threshold is not None and not automatic:
    raise UserError("--threshold is for --circuit auto; leave it out, or find the circuit automatically")
found = find_circuit(engine, metric, YY, END, settings.threshold, effects) if automatic else None
circuit = found.circuit if found else choose_circuit(settings, experiment)
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
def sweep(artifact: str, receivers: PathSet, position: int, via: str = "all") -> None:
    """Patch receivers∘node for every node at a position; save the (12, 13) effects and name the strongest."""
    if not receivers.reachable(Node.head(0, 0, position), via):
        print(f"{artifact} is not made: no head and no MLP comes before what it asks about")
        return
    swept = effects(receivers, position, via)
    run.save(artifact, swept)
    run.note(f"strongest in {artifact}", strongest(swept))


sweep("ipp_logits.pt", PathSet.at(Node.logits(END)), END)

# %% Which nodes act through the late MLPs? Each MLP is reached by every chain of the circuit's later ones.
for mlp in reversed(mlps):
    sweep(f"ipp_{mlp.replace('m', 'mlp')}.pt", into_mlp(circuit, mlp, END), END)

# %% What do the circuit's most telling heads look at? A pattern is (query, key); those of all heads on 20 sentences.
for head in nodes(watched, END):
    pattern = engine.attention([(head.layer, head.index)])[0]
    run.save(f"attn_patterns_{head.name}.pt", pattern.mean(0))
    run.note(f"attention of {head.name} from END to YY", mean(pattern[:, END, YY], settings.seed))
    if head.name == studied[0]:
        run.save("attn_collated.pt", collate(pattern, yy))
        run.note("head of attn_collated.pt", head.name)

every_head = [(layer, index) for layer in range(sizes.n_layers) for index in range(sizes.n_heads)]
patterns = engine.attention(every_head)[:, :20].unflatten(0, (sizes.n_layers, sizes.n_heads))
run.save("attn_patterns_all.pt", {"patterns": patterns, "prompt": list(dataset.prompt)})

# %% What do heads and MLPs say of the end year by themselves?
lens_names = (*heads, *mlps)
writes = engine.writes(nodes(lens_names, END))
for name, logits in zip(lens_names, logit_lens(writes, model, engine.sentences.answers), strict=True):
    run.save(f"logit_lens_{name.replace('m', 'mlp')}.pt", collate(logits, yy))

# %% How much does the late half achieve alone, with everything else on 01 data? And what is lost without it?
late = late_half(circuit, END)


def evaluate(name: str, artifact: str, paths: PathSet) -> None:
    """Sufficiency and necessity of a circuit, and its share of the clean probability difference."""
    alone, without = engine.probabilities(paths, inside="clean"), engine.probabilities(paths)
    run.save(artifact, collate(alone, yy))
    differences = probability_difference(alone, yy)
    run.note(f"{name}: probability difference", mean(differences, settings.seed))
    run.note(f"{name}: cutoff sharpness", mean(cutoff_sharpness(alone, yy), settings.seed))
    run.note(f"{name}: share of clean", share(differences, clean_differences, settings.seed))
    run.note(f"{name}: probability difference without it", mean(probability_difference(without, yy), settings.seed))


evaluate("late half", "late_half_probs.pt", late)

# %% Where do the heads get their queries from at END, their keys and values at YY?
sweep("attn_q.pt", late, END, via="q")
sweep("attn_k.pt", late, YY, via="k")
sweep("attn_v.pt", late, YY, via="v")

# %% And the early MLPs at YY that the heads' values come from?
for mlp in nodes(lower, YY):
    if mlp.kind == "mlp" and late.reachable(mlp, "v"):
        sweep(f"results_mlp{mlp.layer}.pt", late.extend([mlp], via="v"), YY)

# %% How much does the full circuit achieve, down to the embeddings?
evaluate("full circuit", "full_circuit_probs.pt", full_circuit(circuit, YY, END))

# %% How much does each of its links matter? With that, and how it was found, the circuit is data for other scripts.
links = links_as_json(link_effects(engine, circuit, metric, YY, END))
run.save_json("circuit.json", as_json(circuit) | {"links": links} | ({"search": found.as_json()} if found else {}))

# %% Everything ran: publish it.
run.publish()
