"""What every experiment leaves: numbers under keys, an index of its artifacts, a table of its sentences."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit_file import as_json
from reproduction.claims import read_claims
from reproduction.compare import compare
from reproduction.experiments import EXPERIMENTS, lacking, unknown
from reproduction.run import KEY, Artifacts, Run
from reproduction.settings import VALIDATION, ValidationSettings
from tests.helpers.engines import CLASSES, skip_without
from tests.helpers.experiments import made_by, random_gpt2

MORE_FLAGS = {
    "random_circuit_ablation": ("--circuits", "3"),
    "circuit_validation": ("--circuits", "3", "--bootstraps", "2", "--seeds", "2"),
}
NAMING_NODES = sorted({claim.script for claim in read_claims() if re.search(r"[/_][am]\d|^m\d", claim.key)})
SHARES = ("share_of_clean", "share_lost", "share_of_sum")  # of one mean in another


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A random model of two layers."""
    return random_gpt2(tmp_path_factory.mktemp("model") / "mine", strength=2.0, seed=1, n_positions=32)


@pytest.fixture(scope="module", params=EXPERIMENTS)
def noted_and_made(request, model) -> tuple[Counter[str], Artifacts]:
    """A run of a script by the torch engine: how often it noted each key, and what it left."""
    noted: Counter[str] = Counter()
    note = Run.note

    def counted(run: Run, key: str, *others: object, **named: object) -> None:
        noted[key] += 1
        note(run, key, *others, **named)

    script = request.param
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Run, "note", counted)
        made = made_by(script, model.parent / "torch", model, 97, "--engine", "torch", *MORE_FLAGS.get(script, ()))
    return noted, made


def test_keys_are_well_formed_and_noted_once(noted_and_made):
    noted, made = noted_and_made
    assert [*noted] == [*made.record["numbers"]]
    assert set(noted.values()) == {1}
    assert all(KEY.fullmatch(key) for key in noted)
    words = [number["words"] for number in made.record["numbers"].values()]
    assert len(set(words)) == len(words)


def test_it_leaves_what_the_table_says(noted_and_made):
    _, made = noted_and_made
    table, names = EXPERIMENTS[made.script].artifacts, made.record["artifacts"]
    assert unknown(table, names) == ()
    assert lacking(table, ValidationSettings(n=97), names) == ()


def test_a_run_that_evaluates_a_circuit_keeps_it_whole(noted_and_made):
    _, made = noted_and_made
    if not EXPERIMENTS[made.script].evaluates_circuit:
        assert made.circuit is None
    else:
        assert made.record["circuit"] == as_json(made.circuit)
        assert made.circuit.name == made.number("circuit/name")


def test_the_index_says_of_each_artifact_what_it_is(noted_and_made):
    _, made = noted_and_made
    index = made.record["index"]
    assert set(index) == set(made.record["artifacts"])
    assert all(entry["kind"] for entry in index.values())
    assert all(entry["cell"].startswith(f"{made.script}.py:") for entry in index.values())
    told_apart = [{key: said for key, said in entry.items() if key != "cell"} for entry in index.values()]
    assert all(told_apart.count(each) == 1 for each in told_apart)


def test_every_mean_is_that_of_a_column_of_the_sentences(noted_and_made):
    _, made = noted_and_made
    (name,) = made.find(kind="sentences_evaluated")
    assert name == f"{made.script}_sentences.csv"
    table = made.load(name)
    evaluations, checked = dict([*table.groupby("evaluation")]), 0
    for key in made.record["numbers"]:
        number = made.number(key)
        evaluation, _, column = key.rpartition("/")
        of_a_test = made.script == "circuit_validation" and key.partition("/")[0] in VALIDATION  # F, and the like
        if isinstance(number, Estimate) and column not in SHARES and not of_a_test:
            rows = evaluations[evaluation]
            assert number.value == pytest.approx(rows[column].mean(), abs=1e-12)
            assert number.n == len(rows)
            checked += 1
    assert checked or made.script == "random_circuit_ablation", "it records shares and no mean with an interval"


def test_every_share_of_clean_is_that_of_two_columns(noted_and_made):
    _, made = noted_and_made
    table = made.load(f"{made.script}_sentences.csv")
    for key in made.record["numbers"]:
        number = made.number(key)
        evaluation, _, column = key.removesuffix("/share_of_clean").rpartition("/")
        if key.endswith("/share_of_clean") and column in table and isinstance(number, Estimate):
            means = table.groupby("evaluation")[column].mean()
            clean = means[evaluation.partition("/")[0] if evaluation.startswith("task") else "clean"]
            assert number.value == pytest.approx(means[evaluation] / clean, abs=1e-9)


def test_both_engines_make_the_same_artifacts(noted_and_made, model):
    """Artifacts alone: the model does not compute greater-than, and shares of next to nothing are not comparable."""
    _, by_torch = noted_and_made
    found = by_torch.folder / "circuit.json"  # searched for by each engine, two nodes of nearly one effect may differ
    of_circuit = EXPERIMENTS[by_torch.script].evaluates_circuit and by_torch.script != "circuit_discovery"
    skip_without("rust_circuit")
    if by_torch.record["engine"] == "transformers":
        pytest.skip("the script patches nothing, and needs no engine")
    if by_torch.script == "circuit_validation":
        pytest.skip("all are shares of a span that this model hardly has; see validation/test_engines_agree.py")
    circuit = ("--circuit", str(found)) if of_circuit else ()
    flags = ("--engine", "rust_circuit", *MORE_FLAGS.get(by_torch.script, ()), *circuit)
    differences = compare(by_torch, made_by(by_torch.script, model.parent / "rust", model, 97, *flags))
    of_artifacts = differences[differences["kind"] == "artifact"]
    assert of_artifacts[~(of_artifacts["difference"] < 1e-5)].empty


@pytest.mark.parametrize(("script", "n"), [("circuit_discovery", 8), ("neuron_investigations", 97)])
def test_a_script_runs_on_the_reference_and_makes_what_torch_makes(script, n, model, tmp_path):
    made = [made_by(script, tmp_path / name, model, n, "--engine", name) for name in ("torch", "reference")]
    assert made[1].record["engine"] == "reference"
    of_artifacts = compare(*made).query("kind == 'artifact'")
    assert len(of_artifacts) > 1
    assert of_artifacts[~(of_artifacts["difference"] < 1e-5)].empty


NEEDS_MORE_SENTENCES = {"edited/m8/leace_classes/controls/change"}  # each YY is there once in those of the tests


def claims_measured(made: Artifacts) -> dict[str, bool]:
    """Whether a run measured what the paper claims of it, by key."""
    return {claim.key: claim.measure(made) is not None for claim in read_claims() if claim.script == made.script}


def test_all_that_the_paper_claims_is_measured(noted_and_made):
    """But for what is of nodes that a small model lacks."""
    _, made = noted_and_made
    measured = claims_measured(made)
    assert made.script in NAMING_NODES or all(measured.values()), measured


@pytest.mark.slow
@pytest.mark.parametrize("script", NAMING_NODES)
def test_all_that_the_paper_claims_of_its_nodes_is_measured(standin_made, script):
    """The stand-in has all of them, so that the paper's circuit runs in it."""
    measured = claims_measured(standin_made(script))
    assert {key for key, is_measured in measured.items() if not is_measured} <= NEEDS_MORE_SENTENCES


@pytest.mark.slow
def test_both_engines_measure_the_same_with_the_papers_circuit(tmp_path):
    skip_without("rust_circuit")
    few = ("standin", 3, "--circuit", "paper", "--engine")
    differences = compare(*(made_by("big_ds_experiments", tmp_path / name, *few, name) for name in CLASSES))
    assert len(differences) > 20
    assert differences[~(differences["difference"] < 1e-5)].empty
