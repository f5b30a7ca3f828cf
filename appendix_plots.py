"""The figures of the ten other prompts, and of random circuits, from artifacts: python appendix_plots.py --model gpt2

Run sequence_generalization.py and random_circuit_ablation.py first. Figures go to paper-plots/appendix, as interactive
HTML, PDF and PNG: tasks side by side, as the paper compares them, and each task's own. A figure whose artifacts were
not made is left out, and one line says so.
"""

# %% Whose artifacts? In an interactive window, change the settings below.
from reproduction.command_line import read_settings

from reproduction.settings import PlotSettings

settings = read_settings(__doc__, PlotSettings())

import plotly.graph_objects as go

from path_patching.errors import UserError
from reproduction.figures import escaped, probability_heatmap, probability_heatmaps, share_histogram, sweeps
from reproduction.plots import start_plots
from reproduction.run import read_if_run

# %% Which run is drawn? All of it is read and checked before the first figure replaces an earlier one.
folder = settings.artifact_folder()
SCRIPTS = ("sequence_generalization", "random_circuit_ablation")
tasks_run, random_run = (read_if_run(folder, script) for script in SCRIPTS)
sources = [run for run in (tasks_run, random_run) if run is not None]
if not sources:
    raise UserError(f"neither has artifacts in {folder}; run python {SCRIPTS[0]}.py, or give --artifacts")
made = tasks_run.load_all() if tasks_run else {}
random_made = random_run.load_all() if random_run else {}
plots = start_plots("appendix_plots", settings, *sources, might_read=SCRIPTS)
titled = plots.titled


def write(figure: go.Figure, name: str, shows: dict[str, str] | None = None) -> None:
    """All figures of this script belong to the paper's appendix."""
    plots.write(figure, f"appendix/{name}", shows)


def by_task(what: str, **about: object) -> dict[int, str]:
    """The names of the artifacts that match all of `about`, by task; if there are none, a line says so."""
    found = tasks_run.find(**about) if tasks_run else {}
    if tasks_run and not found:
        print(f"left out: the figures of {what}, which this run of sequence_generalization.py did not make")
    return {entry["task"]: name for name, entry in found.items()}


def prompt(task: int) -> str:
    """A task's prompt in words."""
    return escaped(tasks_run.number(f"task_{task}/prompt"))


def note(*tasks: int) -> str:
    """For figures of tasks: which end years are valid, if not those above YY."""
    less = [str(task) for task in tasks if tasks_run.number(f"task_{task}/valid_end_years") == "less"]
    which = "" if len(less) == len(tasks) else f" in task {' and '.join(less)}"
    return f"; valid end years lie below YY{which}" if less else ""


def grey(*tasks: int) -> str:
    """For figures of tasks: what grey rows mean, if there are any."""
    return "; grey: YYs left out" if any(made[probs[task]].isnan().any() for task in tasks) else ""


probs = by_task("year probabilities", kind="probabilities", evaluation="clean")
ipps = by_task("what acts on the logits", kind="sweep", receiver="logits")

# %% Which tasks does the model do, and by which nodes? As the paper compares them: alike, failing, less-than.
for name, tasks in {"success": (0, 8, 2), "failure": (3, 4, 5), "bc": (6, 7)}.items() if probs else ():
    listed = ", ".join(map(str, tasks))
    title, shows = titled(f"Probability heatmaps of tasks {listed}"), {prompt(task): probs[task] for task in tasks}
    subtitle = f"a sentence for each YY{note(*tasks)}{grey(*tasks)}"
    panels = {words: made[file] for words, file in shows.items()}
    write(probability_heatmaps(panels, title, subtitle), f"{name}-probs", shows)
    title, shows = (
        titled(f"Path patching: node → logits, tasks {listed}"),
        {prompt(task): ipps[task] for task in tasks},
    )
    panels = {words: made[file] for words, file in shows.items()}
    figure = sweeps(panels, title, f"every head and MLP at END, patched one by one{note(*tasks)}")
    write(figure.update_annotations(font_size=12), f"{name}-ipps", shows)

# %% And task by task?
for task in probs:
    subtitle = f"“{prompt(task)}”{note(task)}"
    title = titled(f"Probability heatmap of task {task}")
    figure = probability_heatmap(made[probs[task]], title, subtitle + grey(task))
    write(figure, f"generalization-probs-{task}", {"": probs[task]})
    figure = sweeps({"": made[ipps[task]]}, titled(f"Path patching: node → logits, task {task}"), subtitle)
    write(figure, f"generalization-ipp-{task}", {"": ipps[task]})

# %% What reaches the first MLP of the circuit? And what does the circuit's late half achieve alone?
nodes_at_end = (tasks_run.number("circuit/nodes_at_end") if tasks_run else None) or []
first_mlp = next((name for name in nodes_at_end if name.startswith("m")), None)
for task, sweep in by_task("what reaches the circuit's first MLP", kind="sweep", receiver=first_mlp).items():
    title = titled(f"Path patching: node → {first_mlp} → logits, task {task}")
    figure = sweeps({"": made[sweep]}, title, f"“{prompt(task)}”{note(task)}")
    write(figure, f"generalization-first-mlp-{task}", {"": sweep})
for task, alone in by_task("the late half alone", kind="probabilities", evaluation="late_half").items():
    title = titled(f"Probability heatmap of task {task}, late half alone")
    subtitle = f"“{prompt(task)}”; late half of {escaped(tasks_run.number('circuit/name'))}"
    figure = probability_heatmap(made[alone], title, subtitle, like=made[probs[task]])
    write(figure, f"generalization-late-half-{task}", {"": alone})

# %% In the list of years, what reaches m7, beside m8? And what is achieved with m7 and two heads more?
with_m7 = by_task("the late half with m7 alone", kind="probabilities", evaluation="late_half_with_m7")
for task, alone in with_m7.items():
    title = titled(f"Path patching: node → m8 or m7 → logits, task {task}")
    shows = {mlp: by_task(f"what reaches {mlp}", kind="sweep", receiver=mlp)[task] for mlp in ("m8", "m7")}
    panels = {mlp: made[file] for mlp, file in shows.items()}
    write(sweeps(panels, title, f"“{prompt(task)}”{note(task)}"), "m7m8-ipps", shows)
    title = titled(f"Probability heatmap of task {task}, late half with m7, a6.h1 and a7.h11 alone")
    figure = probability_heatmap(made[alone], title, f"“{prompt(task)}”", like=made[probs[task]])
    write(figure, f"generalization-late-half-m7-{task}", {"": alone})

# %% How much do random circuits of the circuit's shape recover?
if random_run:
    recovered, share_of_clean = random_made["random_circuits.pt"], "probability_difference/share_of_clean"
    own = random_run.number(f"late_half/{share_of_clean}")
    marks = {escaped(random_run.number("circuit/name")): own.value} if own else {}
    marks["all on 01 data"] = random_run.number(f"corrupted/{share_of_clean}")
    title = titled(f"{len(recovered)} random circuits of the same shape")
    write(share_histogram(recovered, marks, title, "late halves, all else on 01 data"), "random-circuits")

# %% Everything is drawn: publish it.
plots.publish()
