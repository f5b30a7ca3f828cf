"""Everything in one command: the model, every experiment, every figure, the results table and the report.

python reproduce.py [--model gpt2|standin|PATH] [--only STEP ...] [--skip STEP ...] [--force] [--help]

Without --model this is GPT-2 small where it can be had. Where it cannot, it is the stand-in, and a banner says so.
A step that is done already, with the same settings, model and code, is skipped. Interrupted in any way and run again,
it goes on with the first step that is not done.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from gpt2 import Model
from publication import lock_folder, wait_for, writing_to
from settings import ENGINES, PlotSettings, Settings
from steps import STEPS, Step, is_done, steps_of, time_left
from tensor_cache import ModelUnavailable, load_model
from utils import ROOT, UserError, exit_on_user_error

BANNER = """
{line}
  NOT GPT-2. This run uses the stand-in, a small model that comes with the repository.
  Its numbers and figures are its own and say nothing of the paper's.
  Why: {reason}
{line}
"""


def choose_model(asked: str | None, as_published: bool = False) -> tuple[str, Model]:
    """The model asked for, else gpt2 where it can be had, else the stand-in after a banner that says why."""
    if asked is not None:
        return asked, load_model(asked, as_published)
    try:
        return "gpt2", load_model("gpt2", as_published)
    except ModelUnavailable as reason:
        print(BANNER.format(line="!" * 100, reason=reason), flush=True)
        return "standin", load_model("standin", as_published)


class Display:
    """Says which step runs, and how much time is left: in a line at each step and, on a terminal, in one that stays."""

    def __init__(self, n_steps: int) -> None:
        self.started, self.step_started = time.monotonic(), time.monotonic()
        self.done: list[str] = []
        self.ahead: list[str] = []
        # A bar that is no terminal's writes nothing, and `write` then prints lines as they are.
        self.bar = tqdm(total=n_steps, disable=None, bar_format="{n}/{total} steps |{bar:30}| {elapsed}{postfix}")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def begin(self, ahead: list[Step]) -> None:
        """Say that the first of the steps ahead begins."""
        self.ahead, self.step_started = [step.script for step in ahead], time.monotonic()
        left = self._left()
        self.say(f"\n== {ahead[0].command}" + (f"   ({left})" if left else ""))

    def tick(self) -> None:
        """Bring the bar up to date."""
        self.bar.set_postfix_str(", ".join(filter(None, (self.ahead[0], self._left()))))

    def end(self) -> None:
        """Say that the step is done."""
        spent = time.monotonic() - self.step_started
        self.say(f"== {self.ahead[0]}.py took {spent:.0f} s")
        self.done.append(self.ahead[0])
        self.bar.update()

    def _left(self) -> str:
        running = time.monotonic() - self.step_started
        left = time_left(self.step_started - self.started, self.done, self.ahead, running)
        return "" if left is None else f"about {left / 60:.0f} min left" if left >= 60 else "less than a minute left"


def run_step(step: Step, display: Display) -> None:
    """Run a script as a user would, its lines above the bar. Raises `UserError` if it fails; it has said why."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / f"{step.script}.py"), *step.arguments],
        stdout=subprocess.PIPE, text=True, encoding="utf-8", errors="replace",
        env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", "TQDM_DISABLE": "1"},
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )  # fmt: skip
    try:
        for line in _lines(process):
            if line is not None:
                display.say(line)
            display.tick()
    except BaseException:
        process.terminate()
        raise
    finally:
        code = process.wait()
    if code != 0:
        raise UserError(f"{step.script}.py failed (exit {code}); what earlier steps made is in place")


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, even if that was killed itself.

    Elsewhere such a step goes on by itself, and the next run waits for it.
    """
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _lines(process: subprocess.Popen[str]) -> Iterator[str | None]:
    """The lines that a process prints as they come, and `None` in every second without one."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in process.stdout:
            lines.put(line.rstrip("\n"))
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=1)
        except queue.Empty:
            yield None
            continue
        if line is None:
            return
        yield line


def run_all(steps: list[Step], fingerprint: str, force: bool) -> None:
    """Run the steps that are not done, in order; the first that fails ends the run."""
    display = Display(len(steps))
    ahead = [step for step in steps if force or not is_done(step, fingerprint)]  # as it looks now, for the time left
    for number, step in enumerate(steps):
        wait_for(step.script, step.published)
        if not force and is_done(step, fingerprint):
            display.say(f"== {step.script}.py is done already, and nothing that it depends on has changed")
            display.bar.update()
            continue
        display.begin([step, *(later for later in steps[number + 1 :] if later in ahead)])
        run_step(step, display)
        display.end()
    display.bar.close()


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="gpt2, standin, or a folder with a GPT-2 checkpoint")
    parser.add_argument("--engine", default="auto", choices=ENGINES)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    parser.add_argument("--n", type=int, help="sentences of each experiment, instead of its own number")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random draw")
    parser.add_argument("--as-published", action="store_true", help="the published erf GELU and 768 years")
    parser.add_argument("--out", type=Path, help="folder for paper-cache and paper-plots; the repository by default")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=STEPS, metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--skip", nargs="+", choices=STEPS, default=(), metavar="STEP", help="steps to leave out")
    parser.add_argument("--force", action="store_true", help="run also the steps that are done already")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run everything that was asked for."""
    sys.excepthook = exit_on_user_error
    options = read_options(arguments)
    name, model = choose_model(options.model, options.as_published)
    flags = ["--engine", options.engine, "--device", options.device, "--seed", str(options.seed)]
    flags += ["--n", str(options.n)] if options.n is not None else []
    flags += ["--as-published"] if options.as_published else []
    out = options.out and options.out.resolve()
    artifacts = out / "paper-cache" if out else Settings(model=name).artifact_folder()
    plots = out / "paper-plots" if out else PlotSettings(model=name).plot_folder(name)
    with writing_to(artifacts):
        lock = lock_folder("reproduce", artifacts)
    steps = steps_of(name, flags, artifacts, plots, out)
    asked = [step for step in steps if step.script in options.only and step.script not in options.skip]
    run_all(asked, model.fingerprint, options.force)
    lock.release()
    report = plots / "report.html"
    if report.is_file():
        print(f"\nThe report: {report}")


if __name__ == "__main__":
    main()
