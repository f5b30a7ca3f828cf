"""Is the circuit special? Its late half against random circuits of the same shape, by what each recovers alone.

python random_circuit_ablation.py [--model gpt2|standin|NAME|PATH] [--circuit paper|auto|FILE] [--circuits 200] [--help]
"""

# %% What is asked, of which model? In an interactive window, change the settings here.
import random

from reproduction.command_line import read_settings

from reproduction.settings import RandomCircuitSettings

settings = read_settings(__doc__, RandomCircuitSettings(n=194))

import torch

from path_patching.bootstrap import share
from path_patching.circuits.circuit import in_order, late_half
from path_patching.circuits.random_circuits import random_circuit
from path_patching.engine import Request
from path_patching.errors import UserError
from reproduction.circuit_choice import choose_circuit
from reproduction.evaluations import Evaluations
from reproduction.run import open_run
from utils import start_experiment, year_metrics

QUANTILES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}


# %% Which sentences, and which circuit? Two of each YY, by default.
experiment = start_experiment(settings)
run = open_run("random_circuit_ablation", experiment)
circuit = choose_circuit(experiment, run)
END = experiment.END

# %% Which random circuits? They have as many heads and MLPs at END, and these are linked alike.
rng = random.Random(settings.seed)
drawn = [random_circuit(circuit, experiment.model.architecture, rng) for _ in range(settings.circuits)]

# %% What does each recover alone, with everything else on 01 data? And what is there without any?
alone = [Request.isolate(late_half(each, END)) for each in (circuit, *drawn)]
keys = ["clean", "corrupted", "late_half", *(f"random_{number}" for number in range(settings.circuits))]
evaluations = Evaluations(run, experiment.dataset.as_table(), year_metrics())
for rows, probs in experiment.engine.evaluate_in_parts([Request.clean(), Request.corrupted(), *alone]):
    for key, of_key in zip(keys, probs, strict=True):
        evaluations.measure(key, of_key, rows)
differences = torch.stack([evaluations.column(key, "probability_difference") for key in keys])  # (3 + circuits, N)
clean, means = differences[0], differences.mean(1)
if not means[0]:
    raise UserError("the clean probability difference is zero, and nothing is a share of it: leave this experiment out")
shares = means / means[0]
nothing, own, random_ones = shares[1], shares[2], shares[3:]  # (circuits,)
run.save("random_circuits.pt", random_ones, kind="shares_of_clean")
run.note("clean/probability_difference", means[0].item(), "clean probability difference")
run.note("corrupted/probability_difference/share_of_clean", nothing.item(), "share of clean with all on 01 data")

# %% Where does the circuit fall among them?
run.note("circuit/nodes_at_end", [*in_order((*circuit.mlps, *circuit.heads))], "circuit's nodes at END")
own_share = share(differences[2], clean, settings.seed, evaluations.clusters)
run.note("late_half/probability_difference/share_of_clean", own_share, "circuit's share of clean")
less = (random_ones < own).double().mean().item()
run.note("random_circuits/recover_less", less, "random circuits that recover less")
quantiles = random_ones.quantile(torch.tensor(list(QUANTILES.values()), dtype=random_ones.dtype))
by_quantile = dict(zip(QUANTILES, quantiles.tolist(), strict=True))
run.note("random_circuits/share_of_clean", by_quantile, "random circuits' share of clean")
best = drawn[int(random_ones.argmax())]
of_best = [*in_order((*best.mlps, *best.heads))]
run.note("random_circuits/best/nodes_at_end", of_best, "nodes at END of the random circuit that recovers most")

# %% Everything ran: publish it.
evaluations.save()
run.publish()
