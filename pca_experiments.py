"""How do activations hold YY? The paper's PCA of four of them, and its causal tests: ablation and LEACE erasure.

python pca_experiments.py [--model gpt2|standin|NAME|PATH] [--nodes m8,a7.h10,a7.h8] [--help]

All of it uses --n sentences of the years 1702 ... 1798, in which only YY and the noun vary. Edits (ablation, erasure)
are fitted on every other sentence, and their effects are measured on the rest. pca_plots.py draws the figures.
"""

# %% What is asked, of which model? In an interactive window, change the settings here.

from reproduction.command_line import read_settings

from reproduction.settings import PcaSettings

settings = read_settings(__doc__, PcaSettings(n=970))

import torch
from torch.nn.functional import pad

from dataset import NOUNS_FILE, YearDataset, get_valid_years
from path_patching.circuits.circuit import Circuit, in_model, in_order, nodes
from path_patching.edits import EditedRuns, activation
from path_patching.errors import UserError
from path_patching.gpt2.tokenizer import load_tokenizer
from path_patching.paths import Node
from path_patching.subspaces import all_differ, fitted_edits, principal_components
from reproduction.circuit_choice import choose_circuit
from reproduction.evaluations import Evaluations
from reproduction.numbers import NO_CONTROL
from reproduction.paper import is_the_papers
from reproduction.run import open_run
from utils import collate, prob_diff, start_experiment

IN_THE_PAPER = ("m8", "a7.h10", "a7.h8")
RANKS = (1, 2, 3, 5, 10)  # how many dimensions are ablated
CONTROLS = 5  # of each edit


# %% Whose activations? What an MLP reads at END and what heads write there: the paper's, or those of another circuit.
experiment = start_experiment(settings)
model, run = experiment.model, open_run("pca_experiments", experiment)


def looked_at(circuit: Circuit) -> tuple[str, ...]:
    """The paper's nodes that the model has; for another circuit also its first MLP and its two most important heads."""
    own = () if is_the_papers(circuit) else (*in_order(circuit.mlps)[:1], *circuit.studied[:2])
    return tuple(dict.fromkeys((*own, *in_model(IN_THE_PAPER, model.architecture))))


names = looked_at(choose_circuit(experiment, run)) if settings.nodes is None else settings.nodes.split(",")
if len({*names}) < len(names):
    raise UserError(f"--nodes {settings.nodes}: name each node once")
run.note("looked_at/nodes", list(names), "inputs of MLPs and outputs of heads looked at")

# %% Which sentences? YY runs from 02 to 98 and again, within one century, with a noun drawn for each sentence.
tokenizer = load_tokenizer()
dataset = YearDataset(
    get_valid_years(tokenizer, 1700, 1800, settings.as_published), settings.n, NOUNS_FILE, tokenizer, seed=settings.seed
)
start_yy, END = dataset.years_YY, dataset.end
engine = experiment.engine_for(dataset)
what = {"mlp": "input of {} at END", "head": "output of {} at END"}
if unfit := [each.name for each in nodes(names, END) if each.kind not in what]:
    raise UserError(f"--nodes {unfit[0]}: give MLPs and heads, as m8,a7.h10; the embedding of YY is always looked at")
places = {what[each.kind].format(each.name): each for each in nodes(names, END)}
places["embedding of YY"] = Node.embeds(dataset.yy_position)
activations = {name: activation(engine, place) for name, place in places.items()}  # each (N, D)

# %% What do they look like in two dimensions? PCA of their means for each YY.
points, shares = [], []
for name, found in activations.items():
    components = principal_components(collate(found, start_yy)).first(2)
    absent = (0, 2 - len(components))  # a head with one dimension has no second component
    points.append(pad(components.coordinates(collate(found, start_yy)), absent))
    shares.append(pad(components.shares, absent))
    key = f"pca/{places[name].name}"
    words = f"{name}: share of the variance in two components"
    run.note(f"{key}/share_of_variance", shares[-1].tolist(), words)
    erased = len(start_yy.unique()) - 1
    varies_in = f"{name}: dimensions in which it varies; LEACE of classes erases up to {erased} of them"
    run.note(f"{key}/dimensions", len(principal_components(found)), varies_in)
pca = {"activations": list(activations), "points": torch.stack(points), "shares": torch.stack(shares)}
run.save("pca.pt", pca, kind="pca")

# %% Does the model need those dimensions, or the linear trace of YY? What is fitted on one half edits the other, where
# controls show what any such edit does.
WORDS = {  # of the edits
    **{f"pca_top_{rank}": f"PCA, top {rank}" for rank in RANKS},
    "leace_number": "LEACE, YY as a number",
    "leace_classes": "LEACE, YY as classes",
    "by_mean": "all, by its mean",
    "by_01_data": "all, by 01 data",
}
fitted = torch.arange(len(dataset)) % 2 == 0
generator = torch.Generator().manual_seed(settings.seed)
n_fitted = int(fitted.sum())
control = f"the YYs of the {n_fitted} sentences that it is fitted on, shuffled"
if all_differ(start_yy[fitted]):
    control = (
        f"{NO_CONTROL}Each YY is there once in the {n_fitted} sentences that it is fitted on, so that it erases these "
        "sentences, and the change says nothing of YY; that of more sentences would"
    )
run.note("leace_classes/control", control, "control of LEACE, YY as classes")

# %% What does each edit cost? The edited activation is put back, and what reads it is computed anew.
held_out = start_yy[~fitted]
clean = prob_diff(engine.clean()[~fitted], held_out)  # (n,)
evaluations = Evaluations(run, dataset.as_table()[(~fitted).numpy()])
evaluations.note_mean("clean", "probability_difference", clean, "clean probability difference")
runs = EditedRuns(model, dataset.good_toks[~fitted], engine.sentences.answers, engine.device)


def edits_of(place: Node, clean_activation: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each edit of an activation (N, D), and each of its controls, changes in it: (versions, n, D)."""
    rest, corrupted = clean_activation[~fitted], activation(engine, place, "corrupted")[~fitted]
    known = clean_activation[fitted]
    edits = fitted_edits(known, start_yy[fitted], RANKS, CONTROLS, generator) | {"by_01_data": [lambda _: corrupted]}
    return {name: torch.stack([edit(rest) - rest for edit in versions]) for name, versions in edits.items()}


edits = {place: edits_of(place, activations[name]) for name, place in places.items()}
edited = runs.probabilities_of_each({place: torch.cat([*of_place.values()]) for place, of_place in edits.items()})
differences: dict[str, dict[str, list[torch.Tensor]]] = {}
for name, place in places.items():
    by_edit = zip(edits[place], edited[place].split([len(each) for each in edits[place].values()]), strict=True)
    differences[name] = {edit: [prob_diff(probs, held_out) for probs in versions] for edit, versions in by_edit}
for name, of_edits in differences.items():
    for edit, (own, *controls) in of_edits.items():
        key = f"edited/{places[name].name}/{edit}"
        evaluations.add(key, "probability_difference", own)
        words = f"{name}: change in probability difference, {WORDS[edit]}"
        evaluations.note_mean(key, "change", own - clean, words)
        if controls:
            words = f"{name}: the same of controls, {WORDS[edit]}"
            evaluations.note_mean(f"{key}/controls", "change", torch.stack(controls).mean(0) - clean, words)
means: dict[str, dict[str, list[float]]] = {}
for name, of_edits in differences.items():
    means[name] = {WORDS[edit]: [each.mean().item() for each in versions] for edit, versions in of_edits.items()}
run.save("pca_ablation.pt", {"differences": means, "clean": clean.mean().item()}, kind="edits")

# %% Everything ran: publish it.
evaluations.save()
run.publish()
