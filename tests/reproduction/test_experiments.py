"""All that is said of an experiment is said in the table: what is added there is found everywhere."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from path_patching.files import ROOT
from reproduce import COMMANDS
from reproduction.experiments import (
    EXPERIMENTS,
    PAGES,
    PLOTS,
    TABLE,
    WORDS,
    lacking,
    unknown,
)
from reproduction.pace import UNMEASURED
from reproduction.provenance import code_sha256
from reproduction.settings import NeuronSettings, Settings, ValidationSettings
from tests.helpers.scripts import output, run_python

NEW = """
    Experiment(
        "new_question",
        "is anything new?",
        {"new.pt": always},
        evaluates_circuit=True,
        drawn_by="new_plots",
        figures={"all that is new": {"new-figure": always}},
    ),
)
EXPERIMENTS = {"""
FOUND = """
import json
from pathlib import Path
import reproduce
from reproduction import experiments, pace, provenance, steps, story

def steps_of(*circuit):
    return steps.steps_of("standin", [], Path("a"), Path("p"), None, *circuit)

print(json.dumps({
    "steps": [step.script for step in steps_of()],
    "with a circuit": [step.script for step in steps_of("auto") if "auto" in step.arguments],
    "only": reproduce.read(["--only", "new_question", "new_plots"])[1].only,
    "seconds": pace.usual_seconds([step for step in steps_of() if step.script == "new_question"], "gpt2"),
    "sections": [vars(each) for each in story.questions() if each.of(["new-figure"])],
    "tables": [Path(page).read_text() for page in experiments.PAGES],
    "code": {name: provenance.code_sha256(name) for name in ("random_years", "report")},
}))
"""


def test_pages_have_the_tables():
    for page, table in PAGES.items():
        assert table() in (ROOT / page).read_text(), f"{page}: run python -m reproduction.experiments"
    options = (ROOT / "docs" / "options.md").read_text()
    of_commands = options[options.index("| command | asks | makes |") :].split("\n\n")[0]
    assert {name for name in COMMANDS if f"`reproduce.py {name}" in of_commands} == {*COMMANDS}


def test_every_script_is_there_and_named_once():
    scripts = [*(each.script for each in TABLE), *PLOTS]
    assert len({*scripts, *WORDS}) == len(scripts) + len(WORDS)
    assert [name for name in scripts if not (ROOT / f"{name}.py").is_file()] == []
    assert [name for name in WORDS if name not in COMMANDS] == []
    assert all(bool(each.figures) == (each.drawn_by is not None) for each in TABLE)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The repository's code, to be changed."""
    for name in ("path_patching", "reproduction", "tasks", "cache"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for path in (*ROOT.glob("*.py"), ROOT / "README.md"):
        shutil.copy(path, tmp_path)
    return tmp_path


def test_an_experiment_that_is_added_to_the_table_is_found_everywhere(copy):
    path = copy / "reproduction" / "experiments.py"
    whole, text = "\n)\nEXPERIMENTS = {", path.read_text()
    assert text.count(whole) == 1
    path.write_text(text.replace(whole, NEW))
    run_python("-m", "reproduction.experiments", cwd=copy).check_returncode()
    found = json.loads(output(run_python("-c", FOUND, cwd=copy)))
    assert found["steps"] == [*EXPERIMENTS, "new_question", *PLOTS, "new_plots", *WORDS]
    assert found["with a circuit"] == [*(each.script for each in TABLE if each.evaluates_circuit), "new_question"]
    assert found["only"] == ["new_question", "new_plots"]
    assert found["seconds"] == {"new_question": UNMEASURED}
    [section] = found["sections"]
    assert section["question"] == "Is anything new?"
    assert section["sentences"] == ["Measured:{new_question:*}"]
    for page, line in zip(
        found["tables"],
        (
            "| `new_question.py` | is anything new? | `new_plots.py` |",
            "| `new_question.py` | `new.pt` |",
            "| all that is new | `new_plots.py` | `new-figure` |",
        ),
        strict=True,
    ):
        assert f" |\n{line}\n" in page
    assert found["code"]["random_years"] == code_sha256("random_years")  # which stays done
    assert found["code"]["report"] != code_sha256("report")


def test_what_a_whole_run_has_depends_on_its_settings():
    discovery, names = EXPERIMENTS["circuit_discovery"], ("dataset.pt", "ipp_logits.pt", "ipp_mlp9.pt", "other.pt")
    few = lacking(discovery.artifacts, Settings(n=96), names)
    assert few == ("attn_patterns_all.pt", "sweep_intervals.pt", "circuit.json", "circuit_discovery_sentences.csv")
    of_each_yy = {"probs.pt", "late_half_probs.pt", "full_circuit_probs.pt"}
    assert {*lacking(discovery.artifacts, Settings(n=97), names)} == {*few, *of_each_yy}
    assert unknown(discovery.artifacts, names) == ("other.pt",)
    assert "clean_probs.pt" not in lacking(EXPERIMENTS["big_ds_experiments"].artifacts, Settings(n=97), ())
    assert "clean_probs.pt" in lacking(EXPERIMENTS["big_ds_experiments"].artifacts, Settings(n=10_000), ())
    validation, one = EXPERIMENTS["circuit_validation"], ValidationSettings(only=("sizes",))
    assert lacking(validation.artifacts, one, ()) == ("validation_sizes.csv", "circuit_validation_sentences.csv")
    assert lacking(validation.drawn, one, ()) == ("validation/sizes",)
    neurons, ranking = EXPERIMENTS["neuron_investigations"].drawn, "appendix/neuron-ranking"
    assert ranking in lacking(neurons, NeuronSettings(layer=10), ())
    assert lacking(neurons, replace(NeuronSettings(), layer=8), ()) == ()
    assert unknown(neurons, ("appendix/m8-neuron-ranking", "appendix/m8-top3-neurons")) == ()
