"""Which circuit computes greater-than? Section 3 of the paper: path patching, logit lens, attention, evaluation.

python circuit_discovery.py [--model gpt2|standin|PATH] [--circuit paper|auto|FILE] [--help]
"""

# %% What is asked, of which model? In an interactive window, change the settings here.
from dataclasses import dataclass

from auto_circuit import THRESHOLDS, find_circuit
from circuit import full_circuit, into_mlp, late_half, nodes
from circuit_choice import choose_circuit, circuit_asked_for
from circuit_effects import link_effects, remembered_effects
from circuit_file import as_json, links_as_json, table
from experiment import start_experiment
from logit_lens import logit_lens
from metrics import collate, cutoff_sharpness, probability_difference
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
clean = engine.probabilities()
clean_difference = probability_difference(clean, yy).mean().item()
run.save("probs.pt", collate(clean, yy))
run.note("clean probability difference", clean_difference)
run.note("clean cutoff sharpness", cutoff_sharpness(clean, yy).mean().item())
corrupted_difference = probability_difference(engine.probabilities(inside="clean"), yy).mean().item()
run.note("corrupted probability difference", corrupted_difference)

# %% Which circuit is followed? The paper's or a file's; or one found here by rule, from sweeps like those below.
effects = remembered_effects(engine, yy)
automatic = circuit_asked_for(settings, model) == "auto"
if settings.threshold is not None and not automatic:
    raise UserError("--threshold is for --circuit auto; leave it out, or find the circuit automatically")
found = find_circuit(engine, yy, YY, END, settings.threshold, effects) if automatic else None
circuit = found.circuit if found else choose_circuit(settings, experiment)
run.note("circuit", circuit.name)
print(table(circuit))


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

# %% Which nodes act through the circuit's MLPs? Each MLP is reached by every chain of the later ones.
for mlp in reversed(circuit.mlps):
    sweep(f"ipp_{mlp.replace('m', 'mlp')}.pt", into_mlp(circuit, mlp, END), END)

# %% What do the circuit's most telling heads look at? A pattern is (query, key); those of all heads on 20 sentences.
studied = circuit.studied or circuit.heads[:3]
for head in nodes(studied[:2], END):
    pattern = engine.attention([(head.layer, head.index)])[0]
    run.save(f"attn_patterns_{head.name}.pt", pattern.mean(0))
    run.note(f"attention of {head.name} from END to YY", pattern[:, END, YY].mean().item())
    if head.name == studied[0]:
        run.save("attn_collated.pt", collate(pattern, yy))
        run.note("head of attn_collated.pt", head.name)

n_layers, n_heads = model.architecture.n_layers, model.architecture.n_heads
every_head = [(layer, index) for layer in range(n_layers) for index in range(n_heads)]
patterns = engine.attention(every_head)[:, :20].unflatten(0, (n_layers, n_heads))
run.save("attn_patterns_all.pt", {"patterns": patterns, "prompt": list(dataset.prompt)})

# %% What do heads and MLPs say of the end year by themselves?
lens_names = (*studied, *circuit.mlps)
writes = engine.writes(nodes(lens_names, END))
for name, logits in zip(lens_names, logit_lens(writes, model, engine.sentences.answers), strict=True):
    run.save(f"logit_lens_{name.replace('m', 'mlp')}.pt", collate(logits, yy))

# %% How much does the late half achieve alone, with everything else on 01 data? And what is lost without it?
late = late_half(circuit, END)


def evaluate(name: str, artifact: str, paths: PathSet) -> None:
    """Sufficiency and necessity of a circuit, and its share of the clean probability difference."""
    alone = engine.probabilities(paths, inside="clean")
    run.save(artifact, collate(alone, yy))
    difference = probability_difference(alone, yy).mean().item()
    run.note(f"{name}: probability difference", difference)
    run.note(f"{name}: cutoff sharpness", cutoff_sharpness(alone, yy).mean().item())
    run.note(f"{name}: share of clean", difference / clean_difference)
    without = probability_difference(engine.probabilities(paths, inside="corrupted"), yy).mean().item()
    run.note(f"{name}: probability difference without it", without)


evaluate("late half", "late_half_probs.pt", late)

# %% Where do the heads get their queries from at END, their keys and values at YY?
sweep("attn_q.pt", late, END, via="q")
sweep("attn_k.pt", late, YY, via="k")
sweep("attn_v.pt", late, YY, via="v")

# %% And the early MLPs at YY that the heads' values come from?
for mlp in nodes(circuit.lower, YY):
    if mlp.kind == "mlp":
        sweep(f"results_mlp{mlp.layer}.pt", late.extend([mlp], via="v"), YY)

# %% How much does the full circuit achieve, down to the embeddings?
evaluate("full circuit", "full_circuit_probs.pt", full_circuit(circuit, YY, END))

# %% How much does each of its links matter? With that, and how it was found, the circuit is data for other scripts.
links = links_as_json(link_effects(engine, circuit, yy, YY, END))
run.save_json("circuit.json", as_json(circuit) | {"links": links} | ({"search": found.as_json()} if found else {}))

# %% Everything ran: publish it.
run.publish()
