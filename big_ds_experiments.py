"""How much does the circuit do on 10,000 sentences? Section 3's evaluations, with intervals.

python big_ds_experiments.py [--model gpt2|standin|NAME|PATH] [--circuit paper|auto|FILE] [--help]
"""

# %% What is asked, of which model? In an interactive window, change the settings here.
from reproduction.command_line import read_settings

from reproduction.settings import Settings

settings = read_settings(__doc__, Settings(n=10_000))

from path_patching.bootstrap import share
from path_patching.circuits.circuit import (
    full_circuit,
    in_order,
    indirect_into_mlp,
    late_half,
    late_half_by_values,
)
from path_patching.engine import Request
from path_patching.paths import Node, PathSet
from reproduction.circuit_choice import choose_circuit
from reproduction.evaluations import Evaluations
from reproduction.run import open_run
from utils import Collated, has_every_yy, start_experiment, year_metrics

# %% Which sentences, and which circuit? Years are drawn uniformly, so means count every year alike.
experiment = start_experiment(settings, balanced=False)
run = open_run("big_ds_experiments", experiment)
circuit, dataset = choose_circuit(experiment, run), experiment.dataset
start_yy, YY, END = dataset.years_YY, dataset.yy_position, dataset.end

# %% What is asked? What the paths achieve alone (isolate), and what breaks without them (patch).
late = late_half(circuit, END)
by_values = late_half_by_values(circuit, END)
requests = {
    "clean": Request.clean(),
    "corrupted": Request.corrupted(),
    "late_half": Request.isolate(late),
    "late_half/without": Request.patch(late),
    "full_circuit": Request.isolate(full_circuit(circuit, YY, END)),
}
if by_values is None:
    print(f"left out: what queries and keys cost; the late half of {circuit.name} has no heads")
else:
    requests["late_half/values_alone"] = Request.isolate(by_values)
WORDS = {
    "clean": "clean",
    "corrupted": "all on 01 data",
    "late_half": "late half alone",
    "late_half/without": "all but the late half",
    "full_circuit": "full circuit alone",
    "late_half/values_alone": "late half alone, its heads' queries and keys on 01 data",
}

# %% And what of each late MLP? Its direct edge to the logits, and every chain of later MLPs, the direct edge left out.
for mlp in in_order(circuit.mlps):
    direct, indirect = PathSet.at(Node.logits(END)).through(Node.named(mlp, END)), indirect_into_mlp(circuit, mlp, END)
    requests[f"mlps/{mlp}/direct"] = Request.patch(direct)
    if indirect is not None:
        requests[f"mlps/{mlp}/indirect"] = Request.patch(indirect)

# %% What does the model predict with each? Some sentences at a time, so that memory does not grow with their number.
heatmaps = {
    "clean_probs.pt": "clean",
    "patched_probs.pt": "late_half",
    "complement_probs.pt": "late_half/without",
    "full_patched_probs.pt": "full_circuit",
}
evaluations, collated = (
    Evaluations(run, dataset.as_table(), year_metrics()),
    {key: Collated() for key in heatmaps.values()},
)
for rows, probs in experiment.engine.evaluate_in_parts(list(requests.values())):
    for key, of_key in zip(requests, probs, strict=True):
        evaluations.measure(key, of_key, rows)
        if key in collated:
            collated[key].add(of_key, start_yy[rows])

# %% How well does each compute greater-than, and what share is that of the clean run?
measured, seed, clusters = {}, settings.seed, evaluations.clusters
for key, words in ((key, words) for key, words in WORDS.items() if key in requests):
    measured[key] = evaluations.note_measured(key, words)
    for metric, values in measured[key].items():
        named = f"{words}: {metric.replace('_', ' ')}"
        run.note(f"{key}/{metric}/standard_deviation", values.std(correction=0).item(), f"{named}, standard deviation")
        if key != "clean":
            of_clean = share(values, measured["clean"][metric], seed, clusters)
            run.note(f"{key}/{metric}/share_of_clean", of_clean, f"{named}, share of clean")

# %% What does the late half lose with its heads' queries and keys? About 15 % of what it achieves, in the paper.
if by_values is not None:
    late_alone = measured["late_half"]["probability_difference"]
    lost = late_alone - measured["late_half/values_alone"]["probability_difference"]
    words = "queries and keys on 01 data cost, as a share of the late half"
    run.note("late_half/queries_and_keys/share_lost", share(lost, late_alone, seed, clusters), words)

# %% What share of the clean probability difference is lost with each MLP's direct effect, and with its indirect one?
clean = measured["clean"]["probability_difference"]
for mlp in in_order(circuit.mlps):
    for effect in ("direct", "indirect"):
        key = f"mlps/{mlp}/{effect}"
        if key in requests:
            lost = clean - evaluations.column(key, "probability_difference")
            of_clean = share(lost, clean, seed, clusters)
            run.note(f"{key}/share_of_clean", of_clean, f"{effect} effect of {mlp}, share of clean")

# %% What do they predict for each YY? With few sentences some YY has none, and there are no heatmaps.
if has_every_yy(start_yy):
    for artifact, key in heatmaps.items():
        run.save(artifact, collated[key].means(), kind="probabilities", evaluation=key)

# %% Everything ran: publish it.
evaluations.save()
run.publish()
