"""Does the circuit compute greater-than in other prompts? Section 5 of the paper: path patching on ten tasks.

python sequence_generalization.py [--model gpt2|standin|NAME|PATH] [--circuit paper|auto|FILE] [--help]

A task has one sentence for every YY from 02 to 98. --n is only the number of year-span sentences on which
--circuit auto finds its circuit.
"""

# %% What is asked, of which model? In an interactive window, change the settings here.
from dataclasses import replace

from reproduction.command_line import read_settings

from reproduction.settings import Settings

settings = read_settings(__doc__, Settings(n=490))

import torch

from path_patching.circuits.circuit import Circuit, in_order, into_mlp, late_half
from path_patching.circuits.papers_shape import varied
from path_patching.gpt2.tokenizer import load_tokenizer
from path_patching.sweeps import direct_effects_on, effects_on
from reproduction.circuit_choice import choose_circuit
from reproduction.evaluations import Evaluations, save_sweep
from reproduction.paper import PAPER, is_the_papers
from reproduction.run import open_run
from tasks.prompts import TASKS, TaskDataset, build
from utils import greater_than, start_experiment, year_metrics

# %% Which circuit? The paper's, or one found on the year-span sentences.
experiment = start_experiment(settings)
run = open_run("sequence_generalization", experiment)
circuit = choose_circuit(experiment, run)
run.note("circuit/nodes_at_end", [*in_order((*circuit.mlps, *circuit.heads))], "circuit's nodes at END")

# %% Which prompts? Each sentence has a twin that differs from it at YY alone.
tokenizer = load_tokenizer()
datasets = [build(task, tokenizer, settings.seed) for task in TASKS]
engines = [experiment.engine_for(dataset) for dataset in datasets]
metrics = [greater_than(dataset.years_YY, dataset.task.valid) for dataset in datasets]
evaluations = Evaluations(run, datasets[0].as_table(), year_metrics())


def evaluations_of(dataset: TaskDataset) -> Evaluations:
    """The run's evaluations, for the sentences of one task."""
    return replace(evaluations, sentences=dataset.as_table(), metrics=year_metrics(dataset.task.valid))


def save_effects(receiver: str, artifact: str, number: int, effects: torch.Tensor) -> None:
    """Save a task's effects (L, H + 1) of receivers∘node for every node at END."""
    about = {"task": number, "receiver": receiver, "position": "END"}
    save_sweep(run, f"generalization/{artifact}_{number}.pt", f"task_{number}/sweeps/{receiver}", effects, **about)


# %% Does the model do each task?
clean_differences = []
for dataset, engine in zip(datasets, engines, strict=True):
    task = dataset.task
    number, key, clean = task.number, f"task_{task.number}", engine.clean()
    about = {"kind": "probabilities", "task": number, "evaluation": "clean"}
    nan = "the row of a YY that the task leaves out" if task.left_out else None
    run.save(f"generalization/probs_{number}.pt", dataset.rows(clean), nan=nan, **about)
    run.note(f"{key}/prompt", task.prompt, f"task {number}: prompt")
    run.note(f"{key}/valid_end_years", task.valid, f"task {number}: valid end years")
    measured = evaluations_of(dataset).note(key, clean, f"task {number}")
    clean_differences.append(measured["probability_difference"])

# %% Which nodes act on the logits directly?
for number, effects in enumerate(direct_effects_on(engines, metrics)):
    save_effects("logits", "ipp", number, effects)


# %% Does the circuit do four of them? What reaches its first MLP, and how much does its late half achieve alone?
def sweep_mlp(mlp: str, number: int, of: Circuit) -> None:
    """Sweep what reaches an MLP of a circuit at END, in one task."""
    engine = engines[number]
    receivers = into_mlp(of, mlp, engine.sentences.end)
    save_effects(mlp, mlp, number, effects_on(engine, receivers, metrics[number], engine.sentences.end))


def evaluate_late_half(key: str, words: str, artifact: str, number: int, evaluated: Circuit) -> None:
    """What the late half of a circuit achieves with everything else on 01 data, and its share of the clean value."""
    dataset = datasets[number]
    alone = engines[number].isolate(late_half(evaluated, dataset.end))
    about = {"kind": "probabilities", "task": number, "evaluation": key}
    run.save(f"generalization/{artifact}_{number}.pt", dataset.rows(alone), **about)
    words, clean = f"task {number}, {words}", clean_differences[number]
    evaluations_of(dataset).note(f"task_{number}/{key}", alone, words, clean=clean)


for number in (0, 2, 8, 9):
    for first in in_order(circuit.mlps)[:1]:
        sweep_mlp(first, number, circuit)
    evaluate_late_half("late_half", "late half", "late_half_probs", number, circuit)

# %% The paper's circuit falls short in the list of years. What reaches m7, and do m7 and two heads make up for it?
if is_the_papers(circuit):
    larger = varied(
        PAPER,
        name="the paper's circuit with m7, a6.h1 and a7.h11",
        mlps=in_order((*PAPER.mlps, "m7")),
        heads=in_order((*PAPER.heads, "a6.h1", "a7.h11")),
        heads_feed=in_order((*PAPER.heads_feed, "m7")),
    )
    sweep_mlp("m7", 2, larger)
    words = "late half with m7, a6.h1 and a7.h11"
    evaluate_late_half("late_half_with_m7", words, "late_half_m7_probs", 2, larger)
else:
    print(f"left out: m7_2.pt; m7, a6.h1 and a7.h11 are what the paper's circuit lacks in task 2, not {circuit.name}")

# %% Everything ran: publish it.
evaluations.save()
run.publish()
