"""Do the tests notice a fault? Plausible ones are put into the code, one at a time: which live?

python benchmarks/mutations.py [--area AREA ...] [--only TEXT ...] [--every N] [--jobs N] [--near | --slow] [--check]

`mutations.txt` beside this file is the table. `# plotting scripts` begins an area; a fault has three lines, the file
and what goes wrong, the code as it stands, and the code with the fault:

    circuit_discovery_plotting.py: the slice labelled 41 is that of 43
    - probs[41 - YY.values[0]]
    + probs[43 - YY.values[0]]

What stands behind `- ` has to be in its file exactly once; `--check` asks for no more than that, and the tests do, too.
For each fault the repository, as it lies there, is copied to a temporary folder, the fault put in, and tests are run
until one fails: those of the files called like the module, then the fast ones of the files that name it, and then, but
for `--near`, all other fast ones; with `--slow` the slow ones, too, before a fault is said to live. A test that fails
without the fault as well counts for nothing. A run in which no test ends for a long time hangs, which counts as
noticed.

Whoever writes a fault should not have written the tests that are to see it.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

# This file's folder, where Python looks first, would hide the package `path_patching` behind a file of its own.
sys.path.insert(0, str(Path(__file__).parents[1]))

from reproduction.command_line import prepare

from benchmarks.tables import table
from path_patching.errors import UserError, one_line
from path_patching.files import ROOT

TABLE = Path(__file__).with_suffix(".txt")
AREA, BEFORE, AFTER = "# ", "- ", "+ "
SILENCE = 900.0  # seconds in which no test ends: far more than any takes, on however busy a machine
PATIENCE = 0.2  # seconds between two looks at a run
OWN_TESTS = "test_mutations.py"  # they ask whether the table fits the code, which no copy with a fault does
FAST, SLOW = "not slow", "slow"
# Exit statuses of pytest: 2 is of a file that cannot be imported, 4 of a conftest.py that cannot be.
PASSED, FAILED, NONE_STARTS, NONE_CHOSEN = (0,), (1, 2), 4, 5


@dataclass(frozen=True)
class Fault:
    """One place of a file as it stands, and with a mistake in it."""

    area: str
    file: str
    what: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


@dataclass(frozen=True)
class Outcome:
    """Whether a fault was noticed, by which test or why not, and after how many seconds."""

    fault: Fault
    noticed: bool
    by: str
    seconds: float

    def __str__(self) -> str:
        return f"{'noticed' if self.noticed else 'LIVES  '}  {self.fault}  ({self.by}, {self.seconds:.0f} s)"


def read_faults(path: Path = TABLE) -> tuple[Fault, ...]:
    """The faults of a table, in order. Raises `UserError` with the line that is not as this module describes it."""
    faults, area = [], ""
    lines = [(number, line) for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)]
    written = iter([(number, line) for number, line in lines if line.strip()])
    for number, line in written:
        if line.startswith(AREA):
            area = line.removeprefix(AREA)
            continue
        (file, _, what), (_, before), (_, after) = line.partition(": "), next(written, (0, "")), next(written, (0, ""))
        if not (area and what and before.startswith(BEFORE) and after.startswith(AFTER)):
            raise UserError(f"{path.name}, line {number}: write an area above, then file: what, - before and + after")
        faults.append(Fault(area, file, what, before.removeprefix(BEFORE), after.removeprefix(AFTER)))
    return tuple(faults)


def complaints(faults: Iterable[Fault], root: Path = ROOT) -> Iterator[str]:
    """What is wrong with faults, a line each: code that is not there exactly once, and faults that are none."""
    seen: set[tuple[str, str, str]] = set()
    for each in faults:
        path = root / each.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        times = text.count(each.before)
        if not path.is_file():
            yield f"{each}: there is no such file; mend the line or take it out"
        elif times != 1:
            found = f"{each.before!r} is in the file {times} times and not once{_moved_to(each, root)}"
            yield f"{each}: {found}; mend the line or take it out"
        elif each.before == each.after or (each.file, each.before, each.after) in seen:
            yield f"{each}: this changes nothing, or is in the table twice; take it out"
        seen.add((each.file, each.before, each.after))


def _moved_to(fault: Fault, root: Path) -> str:
    """Where the code of a fault may have gone to: the one other source file that has it; nothing if it is not one."""
    sources = [path for path in root.rglob("*.py") if not {"tests", ".venv"} & {*path.relative_to(root).parts}]
    others = [path for path in sources if path != root / fault.file]
    having = [path for path in others if fault.before in path.read_text(encoding="utf-8")]
    return f", but in {having[0].relative_to(root).as_posix()}" if len(having) == 1 else ""


def not_python(faults: Iterable[Fault], root: Path = ROOT) -> Iterator[str]:
    """The faults that fit the code but leave no Python, which any test would notice: a line each."""
    for each in faults:
        try:
            ast.parse((root / each.file).read_text(encoding="utf-8").replace(each.before, each.after))
        except SyntaxError as error:
            yield f"{each}: with it the file is no Python ({error.msg}); write another"


def files_of_tests(file: str, root: Path) -> tuple[list[str], list[str], list[str]]:
    """All test files in three parts: those called like a source file or its folder, those that name it, all others."""
    source = Path(file)
    called = {f"test_{source.stem}", f"test_{source.parent.name}"}
    names = (".".join(source.with_suffix("").parts), f"{source.stem}.py", f'"{source.stem}"')
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    for path in sorted(path for path in (root / "tests").rglob("test_*.py") if path.name != OWN_TESTS):
        text = path.read_text(encoding="utf-8")
        place = 0 if path.stem in called else 1 if any(name in text for name in names) else 2
        parts[place].append(path.relative_to(root).as_posix())
    return parts


@dataclass
class Runner:
    """Runs the tests of copies of a repository that nobody changes meanwhile, each in a folder below `folder`."""

    root: Path
    folder: Path
    slow: bool = False
    near: bool = False
    silence: float = SILENCE
    running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    passes_clean: dict[str, bool] = field(default_factory=dict)
    """By test that failed with a fault: whether it passes without one."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def outcome(self, fault: Fault) -> Outcome:
        """Put a fault into a copy, and run tests until one notices it."""
        started = time.monotonic()
        with self._copy() as copy:
            path = copy / fault.file
            path.write_text(path.read_text(encoding="utf-8").replace(fault.before, fault.after), encoding="utf-8")
            noticed, by = self._noticed(copy, fault)
        return Outcome(fault, noticed, by, time.monotonic() - started)

    def _noticed(self, copy: Path, fault: Fault) -> tuple[bool, str]:
        """Whether a test notices the fault in a copy, and which."""
        mirrored, naming, others = files_of_tests(fault.file, copy)
        unsound: set[str] = set()  # seen in this copy
        stages = [(mirrored, ""), (naming, FAST)]
        stages += [] if self.near else [(others, FAST)]
        stages += [([*naming, *others], SLOW)] if self.slow else []
        for files, marked in stages:
            while files:
                status = self._tests(copy, files, marked)
                if status is None:
                    return True, f"no test ended for {self.silence:.0f} s"
                if status in (*PASSED, NONE_CHOSEN):
                    break
                if status == NONE_STARTS and self._passes_clean(files[0]):
                    return True, "no test starts"
                failed = _failed(copy)
                if status not in FAILED or unsound.issuperset(failed):
                    return False, f"unclear: pytest ended with {status}"
                if noticing := [test for test in failed if self._passes_clean(test)]:
                    return True, noticing[0]
                unsound.update(failed)
        return False, f"all {'' if self.slow else 'near and fast ' if self.near else 'fast '}tests passed"

    def _passes_clean(self, test: str) -> bool:
        """Whether a test passes without a fault; one that does not is not run again."""
        with self.lock:
            if test not in self.passes_clean:
                with self._copy() as clean:
                    self.passes_clean[test] = self._tests(clean, [test], "") in PASSED
                if not self.passes_clean[test]:
                    print(f"left out: {test}, which fails without a fault", flush=True)
            return self.passes_clean[test]

    def _tests(self, copy: Path, chosen: Sequence[str], marked: str) -> int | None:
        """Pytest's exit status for the tests chosen, the first failure ending it; None if it hangs."""
        unsound = [f"--deselect={test}" for test, passes in self.passes_clean.copy().items() if not passes]
        command = [sys.executable, "-m", "pytest", "-x", "-v", f"--basetemp={copy.parent / 'tmp'}", "-m", marked]
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",  # a line when a test ends, by which a run is known to be alive
            "TENSORS_CACHE_DIR": str(copy.parent / "tensors"),  # a fault's tensors are nobody else's
        }
        printed = copy.parent / "printed"
        with printed.open("wb") as file:
            run = subprocess.Popen(
                [*command, *unsound, *chosen],
                cwd=copy, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            self.running.add(run)
            try:
                return self._status(run, printed)
            finally:
                _end(run)
                self.running.discard(run)

    def _status(self, run: subprocess.Popen[bytes], printed: Path) -> int | None:
        """The exit status of a run; None if it prints nothing for too long."""
        size, since = -1, time.monotonic()
        while run.poll() is None:
            if (now := printed.stat().st_size) != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > self.silence:
                return None
            time.sleep(PATIENCE)
        return run.returncode

    @contextmanager
    def _copy(self) -> Iterator[Path]:
        """A copy of the repository in a folder that is removed afterwards."""
        with tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True) as folder:
            yield shutil.copytree(self.root, Path(folder) / "copy")

    def end_all(self) -> None:
        """End every run."""
        for run in [*self.running]:
            _end(run)


def _end(run: subprocess.Popen[bytes]) -> None:
    """End a run and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()


def snapshot(root: Path, folder: Path) -> Path:
    """Copy a checkout's files as they lie there, new ones among them, without what git ignores; where the copy is.

    Raises `UserError` if it is no checkout.
    """
    asked = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"{root} is no git checkout, or there is no git; faults are put into copies of one") from error
    for name in (name for name in dict.fromkeys(listed.split("\0")) if name and (root / name).is_file()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, folder / name)
    return folder


def _failed(copy: Path) -> list[str]:
    """The tests that failed in the last run in a copy, or the files that could not be imported."""
    path = copy / ".pytest_cache" / "v" / "cache" / "lastfailed"
    return [*json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []


def run_all(faults: Sequence[Fault], runner: Runner, jobs: int) -> list[Outcome]:
    """The outcome of every fault, some at a time; a line for each as it is known."""
    pool, found = ThreadPoolExecutor(jobs), {}
    try:
        waiting: dict[Future[Outcome], int] = {
            pool.submit(runner.outcome, fault): place for place, fault in enumerate(faults)
        }
        for future in as_completed(waiting):
            found[waiting[future]] = future.result()
            print(f"{len(found)} of {len(faults)}  {future.result()}", flush=True)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        runner.end_all()
    return [found[place] for place in sorted(found)]


def report(outcomes: Sequence[Outcome]) -> str:
    """How many faults were noticed, by area and in all, and those that live."""
    areas = [*dict.fromkeys(each.fault.area for each in outcomes)]
    rows = [_row(area, [each for each in outcomes if each.fault.area == area]) for area in areas]
    lines = [table(["area", "faults", "noticed", "live", "share noticed"], [*rows, _row("all", outcomes)])]
    live = [f"- {one_line(str(each.fault))} ({each.by})" for each in outcomes if not each.noticed]
    return "\n".join([*lines, "", "What lives:", "", *(live or ["nothing"])])


def _row(area: str, outcomes: Sequence[Outcome]) -> list[str]:
    noticed = sum(each.noticed for each in outcomes)
    return [area, f"{len(outcomes)}", f"{noticed}", f"{len(outcomes) - noticed}", f"{noticed / len(outcomes):.0%}"]


def _chosen(faults: Sequence[Fault], options: argparse.Namespace) -> list[Fault]:
    """The faults that the flags ask for. Raises `UserError` if there is none."""
    areas = [*dict.fromkeys(each.area for each in faults)]
    if unknown := [area for area in options.area or () if area not in areas]:
        raise UserError(f"--area {unknown[0]}: the areas are {'; '.join(areas)}")
    of_areas = [each for each in faults if each.area in (options.area or areas)]
    texts = options.only or [""]
    if absent := [text for text in texts if not any(text in str(each) for each in of_areas)]:
        raise UserError(f"--only {absent[0]}: no fault's file or words hold this text")
    return [each for each in of_areas if any(text in str(each) for text in texts)][:: options.every]


def main(arguments: list[str] | None = None) -> None:
    """Print which faults the tests notice, or with --check what is wrong with the table."""
    prepare()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--area", nargs="+", help="of these areas alone")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="only faults whose file or words hold one of these")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only one in N of these, spread over all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many faults at a time")
    how_far = parser.add_mutually_exclusive_group()
    how_far.add_argument("--near", action="store_true", help="ask only tests that are called like a file or name it")
    how_far.add_argument("--slow", action="store_true", help="let what survives meet the slow tests as well")
    parser.add_argument("--check", action="store_true", help="only look whether the table still fits the code")
    options = parser.parse_args(arguments)
    for name in ("jobs", "every"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: give at least one")
    faults = _chosen(read_faults(), options)
    if wrong := [*complaints(faults)] or [*not_python(faults)]:
        print(*wrong, sep="\n", file=sys.stderr)
        sys.exit(1)
    if options.check:
        print(f"{len(faults)} faults fit the code")
        return
    with tempfile.TemporaryDirectory(prefix="mutations-", ignore_cleanup_errors=True) as folder:
        runner = Runner(snapshot(ROOT, Path(folder) / "repository"), Path(folder), options.slow, options.near)
        print(f"\n{report(run_all(faults, runner, options.jobs))}")


if __name__ == "__main__":
    main()
