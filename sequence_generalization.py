"""Does the circuit compute greater-than in other prompts? Section 5 of the paper: path patching on ten tasks.

python sequence_generalization.py [--model gpt2|standin|PATH] [--circuit paper|auto|FILE] [--help]

A task has one sentence for every YY from 02 to 98, whatever --n is: that is the number of year-span sentences on which
--circuit auto finds its circuit.
"""

# %% What is asked, of which model? In an interactive window, change the settings here.
from dataclasses import replace

import torch

from dataset import TASKS, TaskDataset, build, year_indices
from path_patching.bootstrap import share
from path_patching.circuits.circuit import Circuit, in_order, into_mlp, late_half
from path_patching.engine import Engine, Request, Sentences
from path_patching.gpt2.tokenizer import load_tokenizer
from path_patching.paths import Node, PathSet
from path_patching.sweeps import effects_on
from reproduction.paper import PAPER
from reproduction.settings import Settings, read_settings
from utils import (
    choose_circuit,
    greater_than,
    note_greater_than,
    open_run,
    prob_diff,
    save_sweep,
    start_experiment,
)

settings = read_settings(__doc__, Settings(n=490), evaluates_circuit=True)

# %% Which circuit? The paper's, or one found on the year-span sentences.
experiment = start_experiment(settings)
run = open_run("sequence_generalization", experiment)
circuit = choose_circuit(experiment, run)
run.note("circuit", circuit.name)
run.note("circuit's nodes at END", ", ".join(in_order((*circuit.mlps, *circuit.heads))))

# %% Which prompts? Each sentence has a twin that differs from it at YY alone.
tokenizer = load_tokenizer()
datasets = [build(task, tokenizer, settings.seed) for task in TASKS]


def engine_for(dataset: TaskDataset) -> Engine:
    """An engine for a task's sentences, like that of the year-span sentences, which was checked."""
    return experiment.engine.like(Sentences(dataset.good_toks, dataset.bad_toks, year_indices()))


def sweep_task(artifact: str, dataset: TaskDataset, engine: Engine, receivers: PathSet) -> None:
    """Patch receivers∘node for every node at END; save the (L, H + 1) effects."""
    effects = effects_on(engine, receivers, greater_than(dataset.years_YY, dataset.task.valid), dataset.end)
    save_sweep(run, f"generalization/{artifact}.pt", effects)


def note_task(name: str, found: torch.Tensor, dataset: TaskDataset) -> None:
    """Record how well year probabilities (N, 100) do a task."""
    note_greater_than(run, name, found, dataset.years_YY, settings.seed, dataset.task.valid)


# %% Does the model do each task? And which nodes act on the logits directly?
for dataset in datasets:
    task, engine = dataset.task, engine_for(dataset)
    clean = engine.clean()
    run.save(f"generalization/probs_{task.number}.pt", dataset.rows(clean))
    run.note(f"task {task.number}: prompt", task.prompt)
    run.note(f"task {task.number}: valid end years", task.valid)
    note_task(f"task {task.number}", clean, dataset)
    sweep_task(f"ipp_{task.number}", dataset, engine, PathSet.at(Node.logits(dataset.end)))


# %% Does the circuit do four of them? What reaches its first MLP, and how much does its late half achieve alone?
def evaluate_late_half(artifact: str, name: str, dataset: TaskDataset, engine: Engine, evaluated: Circuit) -> None:
    """What the late half of a circuit achieves with everything else on 01 data, and its share of the clean value."""
    task, yy = dataset.task, dataset.years_YY
    late = late_half(evaluated, dataset.end)
    clean, alone = engine.evaluate([Request.clean(), Request.isolate(late)])
    whole, part = (prob_diff(probs, yy, task.valid) for probs in (clean, alone))
    run.save(f"generalization/{artifact}.pt", dataset.rows(alone))
    note_task(f"task {task.number}, {name}", alone, dataset)
    run.note(f"task {task.number}, {name}: share of clean", share(part, whole, settings.seed))


for dataset in (datasets[number] for number in (0, 2, 8, 9)):
    number, engine = dataset.task.number, engine_for(dataset)
    for first in in_order(circuit.mlps)[:1]:
        sweep_task(f"{first}_{number}", dataset, engine, into_mlp(circuit, first, dataset.end))
    evaluate_late_half(f"late_half_probs_{number}", "late half", dataset, engine, circuit)

# %% The paper's circuit falls short in the list of years. What reaches m7, and do m7 and two heads make up for it?
if circuit == PAPER:
    dataset = datasets[2]
    engine = engine_for(dataset)
    larger = replace(
        PAPER,
        name="the paper's circuit with m7, a6.h1 and a7.h11",
        mlps=in_order((*PAPER.mlps, "m7")),
        heads=in_order((*PAPER.heads, "a6.h1", "a7.h11")),
        heads_feed=(*PAPER.heads_feed, "m7"),
    )
    sweep_task("m7_2", dataset, engine, into_mlp(larger, "m7", dataset.end))
    evaluate_late_half("late_half_m7_probs_2", "late half with m7, a6.h1 and a7.h11", dataset, engine, larger)
else:
    print(f"m7_2.pt is not made: m7, a6.h1 and a7.h11 are what the paper's circuit lacks in task 2, not {circuit.name}")

# %% Everything ran: publish it.
run.publish()
