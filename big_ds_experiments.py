"""How much does the circuit do on 10,000 sentences? Section 3's evaluations, with intervals.

python big_ds_experiments.py [--model gpt2|standin|PATH] [--circuit paper|auto|FILE] [--help]
"""

# %% What is asked, of which model? In an interactive window, change the settings here.
from dataset import COLLATED_YY
from path_patching.bootstrap import mean, share
from path_patching.circuits.circuit import full_circuit, late_half
from path_patching.engine import Request
from path_patching.paths import Node
from reproduction.settings import Settings, read_settings
from utils import choose_circuit, collate, cutoff_sharpness, open_run, prob_diff, start_experiment

settings = read_settings(__doc__, Settings(n=10_000), evaluates_circuit=True)

# %% Which sentences, and which circuit? Years are drawn uniformly, so that means are those of years as they are.
experiment = start_experiment(settings, balanced=False)
run = open_run("big_ds_experiments", experiment)
circuit, dataset = choose_circuit(experiment, run), experiment.dataset
run.note("circuit", circuit.name)
yy, YY, END = dataset.years_YY, dataset.yy, dataset.end

# %% What is asked? What the paths achieve alone (isolate), and what breaks without them (patch).
late = late_half(circuit, END)
values = late.extend([Node.residual(position) for position in range(END + 1)], via="v")
requests = {
    "clean": Request.clean(),
    "all on 01 data": Request.corrupted(),
    "late half alone": Request.isolate(late),
    "all but the late half": Request.patch(late),
    "full circuit alone": Request.isolate(full_circuit(circuit, YY, END)),
    "late half alone, its heads' queries and keys on 01 data": Request.isolate(values),
}
probs = dict(zip(requests, experiment.engine.evaluate(list(requests.values())), strict=True))

# %% How well does each compute greater-than, and what share is that of the clean run?
metrics = {"probability difference": prob_diff, "cutoff sharpness": cutoff_sharpness}
measured = {metric: {name: measure(found, yy) for name, found in probs.items()} for metric, measure in metrics.items()}
for name in requests:
    for metric, of in measured.items():
        run.note(f"{name}: {metric}", mean(of[name], settings.seed))
        run.note(f"{name}: {metric}, standard deviation", of[name].std(correction=0).item())
        if name != "clean":
            run.note(f"{name}: {metric}, share of clean", share(of[name], of["clean"], settings.seed))

# %% What does the late half lose with its heads' queries and keys? About 15 % of what it achieves, in the paper.
differences = measured["probability difference"]
lost = differences["late half alone"] - differences["late half alone, its heads' queries and keys on 01 data"]
loss = share(lost, differences["late half alone"], settings.seed)
run.note("queries and keys on 01 data cost, as a share of the late half", loss)

# %% What do they predict for each YY? With few sentences some YY has none, and there are no heatmaps.
heatmaps = {
    "clean_probs.pt": "clean",
    "patched_probs.pt": "late half alone",
    "complement_probs.pt": "all but the late half",
    "full_patched_probs.pt": "full circuit alone",
}
if absent := sorted(set(COLLATED_YY) - set(yy.tolist())):
    print(f"left out: the heatmaps; of {len(dataset)} sentences none has YY = {absent[0]:02d}. Give a larger --n")
    heatmaps = {}
for artifact, name in heatmaps.items():
    run.save(artifact, collate(probs[name], yy))

# %% Everything ran: publish it.
run.publish()
