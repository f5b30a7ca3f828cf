"""Is the circuit special? Its late half against random circuits of the same shape, by what each recovers alone.

python random_circuit_ablation.py [--model gpt2|standin|PATH] [--circuit paper|auto|FILE] [--circuits 200] [--help]
"""

# %% What is asked, of which model? In an interactive window, change the settings here.
import random
from dataclasses import dataclass

import torch

from path_patching.bootstrap import share
from path_patching.circuits.circuit import in_order, late_half
from path_patching.circuits.random_circuits import random_circuit
from path_patching.engine import Request
from path_patching.errors import UserError
from reproduction.settings import Settings, flag, read_settings
from utils import choose_circuit, open_run, prob_diff, start_experiment

QUANTILES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}


@dataclass(frozen=True)
class RandomCircuitSettings(Settings):
    """The settings of every experiment, and how many random circuits to draw."""

    circuits: int = flag(200, "number of random circuits", int)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.circuits < 1:
            raise UserError(f"--circuits {self.circuits}: give at least one random circuit")


settings = read_settings(__doc__, RandomCircuitSettings(n=194), evaluates_circuit=True)

# %% Which sentences, and which circuit? Two of each YY, by default.
experiment = start_experiment(settings)
run = open_run("random_circuit_ablation", experiment)
circuit = choose_circuit(experiment, run)
yy, END = experiment.dataset.years_YY, experiment.END

# %% Which random circuits? They have as many heads and MLPs at END, and these are linked alike.
rng = random.Random(settings.seed)
drawn = [random_circuit(circuit, experiment.model.architecture, rng) for _ in range(settings.circuits)]

# %% What does each recover alone, with everything else on 01 data? And what is there without any?
alone = [Request.isolate(late_half(each, END)) for each in (circuit, *drawn)]
found = experiment.engine.evaluate([Request.clean(), Request.corrupted(), *alone])  # (3 + circuits, N, 100)
differences = torch.stack([prob_diff(probabilities, yy) for probabilities in found])
clean, shares = differences[0], differences.mean(1) / differences[0].mean()
nothing, own, random_ones = shares[1], shares[2], shares[3:]  # (circuits,)
run.save("random_circuits.pt", random_ones)
run.note("clean probability difference", clean.mean().item())
run.note("share of clean with all on 01 data", nothing.item())

# %% Where does the circuit fall among them?
run.note("circuit", circuit.name)
run.note("circuit's nodes at END", ", ".join(in_order((*circuit.mlps, *circuit.heads))))
run.note("circuit's share of clean", share(differences[2], clean, settings.seed))
run.note("random circuits that recover less", (random_ones < own).double().mean().item())
quantiles = random_ones.quantile(torch.tensor(list(QUANTILES.values()), dtype=random_ones.dtype))
run.note("random circuits' share of clean", dict(zip(QUANTILES, quantiles.tolist(), strict=True)))
best = drawn[int(random_ones.argmax())]
run.note("nodes at END of the random circuit that recovers most", ", ".join(in_order((*best.mlps, *best.heads))))

# %% Everything ran: publish it.
run.publish()
