"""A circuit for a task of your own: python examples/own_task.py [--model gpt2|PATH] [--help]

The task here is to repeat a colour: “The ball is red, so its color is” → “ red”. docs/own-task.md explains each step.
Without --model, a small model that can do it is trained first, in a minute.
"""

# %% Which model? In an interactive window, change the settings here.
import itertools
import random
import sys
from dataclasses import replace
from pathlib import Path

# The repository's modules are one folder above; they are not installed. (A cell has no file; its kernel runs here.)
sys.path.insert(0, str(Path(globals().get("__file__", Path.cwd() / "cell")).parents[1]))

from reproduction.command_line import read_settings

import torch

from colour_model import COLOURS, THINGS, sentence, train
from path_patching import (
    Scale,
    Sentences,
    completeness,
    faithfulness,
    find_circuit,
    full_circuit,
    late_half,
    link_effects,
    load_model,
    load_tokenizer,
    make_engine,
    matched,
    minimality,
)
from path_patching.circuits.circuit_file import table
from path_patching.files import ROOT, written_whole
from path_patching.numbers import with_unit
from reproduction.circuit_drawing import Measure, circuit_figure
from reproduction.settings import Settings

TRAINED = "colour-model"
RANDOM_CIRCUITS = 100  # to compare with; with fewer than 99, none is judged by them
settings = read_settings(__doc__, Settings(model=TRAINED, n=98))
folder = settings.out or ROOT / "paper-cache" / "own-task"
if settings.model == TRAINED:
    settings = replace(settings, model=str(folder / TRAINED))
    if not (folder / TRAINED).is_dir():
        train(folder / TRAINED)

# %% Which prompts, and which twins? A twin differs at one token alone: its colour is always white.
CORRUPTED = "white"
pairs = list(itertools.product(THINGS, [colour for colour in COLOURS if colour != CORRUPTED]))
drawn = random.Random(settings.seed).sample(pairs, min(settings.n, len(pairs)))
tokenizer = load_tokenizer()
clean = torch.tensor([tokenizer(sentence(thing, colour)).input_ids for thing, colour in drawn])
twins = torch.tensor([tokenizer(sentence(thing, CORRUPTED)).input_ids for thing, _ in drawn])
[differing] = (clean != twins).any(0).nonzero().flatten().tolist()  # fails if there is more than one such position
END = clean.shape[1] - 1
print(f"{sentence(*drawn[0])!r}, corrupted: {sentence(drawn[0][0], CORRUPTED)!r}")

# %% What is measured? The logit of the right colour, minus that of the corrupted one: a probability would hardly move.
answers = torch.tensor([tokenizer(f" {colour}").input_ids[0] for colour in COLOURS])
right = torch.tensor([COLOURS.index(colour) for _, colour in drawn])


def metric(probabilities: torch.Tensor) -> torch.Tensor:
    """Answer probabilities (N, A) to one number for each sentence, (N,)."""
    logits = probabilities.log()  # up to a constant for each sentence
    return logits.gather(1, right[:, None]).squeeze(1) - logits[:, COLOURS.index(CORRUPTED)]


# %% Can the model do it? If the first number is not far above the second, it has no circuit to be found.
model = load_model(settings.model, settings.as_published)
sentences = Sentences(clean, twins, answers)
engine = make_engine(settings.engine, settings.device, model, sentences, settings.memory_gb)
whole = metric(engine.clean()).mean().item()
print(f"{model.name}: clean {whole:.3f}, corrupted {metric(engine.corrupted()).mean().item():.3f}")

# %% Which circuit does it? YY in the table is the position at which twins differ.
circuit = find_circuit(engine, metric, differing, END).circuit
print(table(circuit))
late, full = late_half(circuit, END), full_circuit(circuit, differing, END)
for name, paths in {"late half": late, "full circuit": full}.items():
    alone = metric(engine.isolate(paths)).mean().item()
    print(f"{name} alone: {alone:.3f}, {with_unit(alone / whole, '%')} of clean")

# %% Is it a circuit? Each line is a test, what it measured, and its bar; docs/validation.md says what each asks.
things = torch.tensor([THINGS.index(thing) for thing, _ in drawn])
scale = Scale.of(engine, metric, clusters=[things, right])  # sentences cross things with colours; intervals draw both
for test in (
    faithfulness(engine, scale, full, "full circuit"),
    minimality(engine, scale, full, differing, END, "full circuit"),
    completeness(engine, scale, full, differing, END, "full circuit", settings.seed),
    matched(engine, scale, circuit, lambda other: late_half(other, END), "any layers", "late half", RANDOM_CIRCUITS),
):
    print(*test.verdicts(), sep="\n")

# %% What does it look like?
MEASURE = Measure("difference of logits", "nats", 1)
figure = circuit_figure(
    link_effects(engine, circuit, metric, differing, END), f"Repeating a colour, {model.name}", MEASURE
)
with written_whole(folder / "own-task.html") as page:
    figure.write_html(page)
print(f"the circuit is drawn in {folder / 'own-task.html'}")
