from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from path_patching.bootstrap import Estimate
from path_patching.circuits.validation.verdicts import BARS
from path_patching.errors import UserError
from reproduction.compare import compare
from reproduction.run import Artifacts, read_artifacts
from reproduction.settings import VALIDATION, ValidationSettings
from reproduction.verdicts import as_key, read_left_out, read_verdicts
from tests.helpers.engines import skip_without
from tests.helpers.experiments import made_by, random_gpt2, run_experiment
from tests.helpers.scripts import error_line, output

SCRIPT = "circuit_validation"
FEW = ("--circuits", "3", "--bootstraps", "2", "--seeds", "2", "--engine", "torch")
CIRCUIT = {
    "name": "mine",
    "mlps": ["m1"],
    "heads": ["a0.h0", "a1.h1"],
    "heads_feed": ["logits", "m1"],
    "first_below": ["m0"],
    "further_below": ["a0.h1"],
}
HEADS_ALONE = {"name": "heads alone", "mlps": [], "heads": ["a1.h0", "a1.h1"], "heads_feed": ["logits"]}
NO_LOWER = {"first_below": [], "further_below": [], "followed": [], "whole": ["q", "k", "v"]}
HARDLY_A_SPAN = "by_sentence|share_of_clean|another_yy|mean_ablation|specificity/century_copying"
TABLES = {"random", "nodes", "links", "completeness", "counterfactuals", "sizes", "membership", "strength",
          "specificity", "interactions"}  # fmt: skip


def circuit_file(folder: Path, circuit: dict[str, object]) -> tuple[str, str]:
    file = folder / "mine.json"
    file.write_text(json.dumps(circuit))
    return "--circuit", str(file)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A random model that the corrupted twins change: shares of its span mean something."""
    return random_gpt2(tmp_path_factory.mktemp("model") / "mine", strength=2.0, seed=2)


@pytest.fixture(scope="module")
def made(model) -> Artifacts:
    """All tests of a circuit of a random model, with 97 sentences and few draws."""
    return made_by(SCRIPT, model.parent / "all", model, 97, *FEW, *circuit_file(model.parent, CIRCUIT))


def test_every_table_is_there_and_finite(made):
    kinds = {entry["kind"] for entry in made.record["index"].values()}
    assert kinds >= {"verdicts", "sentences_evaluated", *(f"validation_{name}" for name in TABLES)}
    for name in TABLES:
        table = made.load(f"validation_{name}.csv")
        assert len(table)
        numbers = table.select_dtypes("number")
        finite = numbers.map(math.isfinite).to_numpy()
        assert finite.all() or "nan" in made.record["index"][f"validation_{name}.csv"], name


def test_a_verdict_has_a_line_a_key_an_interval_and_n(made):
    table = read_verdicts(made)
    assert set(table["test"]) == set(VALIDATION)
    keys = [f"{line.test}/{as_key(line.subject)}/" for line in table.itertuples()]
    bars = {bar.asked: name for name, bar in BARS.items()}
    keys = [key + bars[asked] for key, asked in zip(keys, table["asked"], strict=True)]
    assert len(set(keys)) == len(keys), "no verdict takes the key of another"
    for key, line in zip(keys, table.itertuples(), strict=True):
        number = made.number(key)
        assert line.value == pytest.approx(number.value if isinstance(number, Estimate) else number)
        if isinstance(number, Estimate):
            assert (line.low, line.high, line.n) == (pytest.approx(number.low), pytest.approx(number.high), number.n)
            assert number.low <= number.high
            assert number.n == (49 if line.test == "sizes" else 97), "one half of the sentences ranks nodes"
    counts = table["verdict"].value_counts()
    for outcome in ("passed", "failed", "not judged"):
        assert made.number(f"verdicts/{as_key(outcome)}") == counts.get(outcome, 0)


def test_every_node_of_the_circuit_is_asked_about(made):
    nodes = made.load("validation_nodes.csv")
    late = set(nodes[nodes["part"] == "late half"]["node"])
    full = set(nodes[nodes["part"] == "full circuit"]["node"])
    assert late == {"m1@END", "a0.h0@END", "a1.h1@END"}
    assert full == late | {"m0@YY", "a0.h1@YY"}
    assert set(made.load("validation_interactions.csv")["one"]) == late
    assert set(made.load("validation_strength.csv")["subject"]) == {"late half", *late}


def test_both_engines_make_the_same_numbers(made, model):
    """Where they are no shares, nor ends of intervals of shares, of a span that a random model hardly has."""
    skip_without("rust_circuit")
    flags = (*FEW[:-1], "rust_circuit", *circuit_file(model.parent, CIRCUIT))
    other = made_by(SCRIPT, model.parent / "rust", model, 97, *flags)
    tables = [each.load("validation_counterfactuals.csv").set_index("scheme") for each in (made, other)]
    rows, columns = ["01", "mean ablation", "zero ablation"], ["span", "late_half", "full_circuit"]
    shares = [table.loc[rows, columns] for table in tables]
    pd.testing.assert_frame_equal(*shares, rtol=0, atol=1e-5)
    differences = compare(made, other)
    numbers = differences[(differences["kind"] == "number") & ~differences["name"].str.contains(HARDLY_A_SPAN)]
    assert len(numbers) > 70
    assert numbers[~(numbers["difference"] < 1e-5)].empty


def test_tests_that_are_not_asked_for_are_not_made(made, tmp_path, model):
    flags = (*FEW, *circuit_file(model.parent, CIRCUIT), "--only", "faithfulness", "random")
    some = made_by(SCRIPT, tmp_path, model, 97, *flags)
    table = read_verdicts(some)
    assert set(table["test"]) == {"faithfulness", "random"}
    of_both = read_verdicts(made)
    expected = of_both[of_both["test"].isin(["faithfulness", "random"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(table, expected, rtol=1e-5, atol=1e-6)
    assert {entry["kind"] for entry in some.record["index"].values()} == {
        "verdicts", "sentences_evaluated", "validation_random",
    }  # fmt: skip


def test_a_first_look_draws_a_tenth():
    quick = ValidationSettings(quick=True).thinned()
    assert (quick.n, quick.circuits, quick.bootstraps, quick.seeds) == (97, 20, 2, 2)
    assert ValidationSettings(n=12, quick=True).thinned().n == 12
    assert ValidationSettings(n=5000, quick=True).thinned().n == 500
    assert ValidationSettings().thinned() == ValidationSettings()
    assert ValidationSettings().chosen() == ValidationSettings(engine="torch")
    assert ValidationSettings(engine="rust_circuit").chosen() == ValidationSettings(engine="rust_circuit")


def test_a_first_look_is_what_the_thinned_settings_make(tmp_path, model):
    flags = (*circuit_file(model.parent, CIRCUIT), "--engine", "torch", "--only", "seeds", "--quick")
    quick = made_by(SCRIPT, tmp_path, model, 490, *flags)
    assert len(quick.number("seeds/late_half")) == 2
    assert quick.record["settings"]["n"] == 97


@pytest.mark.parametrize(
    ("layers", "n", "circuit", "left_out"),
    [
        (
            1,
            97,
            {"name": "one", "mlps": ["m0"], "heads": ["a0.h0"], "heads_feed": ["logits", "m0"]} | NO_LOWER,
            "indirect objects",
        ),
        (2, 97, HEADS_ALONE | NO_LOWER, "layers of 2 heads have no other circuit"),
        (2, 20, CIRCUIT, "indirect objects"),
    ],
    ids=["a model of one layer", "a circuit of heads alone", "few sentences"],
)
def test_what_lacks_something_ends_well(tmp_path, layers, n, circuit, left_out):
    checkpoint = random_gpt2(tmp_path / "model", n_layer=layers, strength=2.0, seed=1)
    printed = output(run_experiment(SCRIPT, tmp_path, checkpoint, n, *FEW, *circuit_file(tmp_path, circuit)))
    assert f"left out: {left_out}" in printed
    made = read_artifacts(tmp_path / "out", SCRIPT)
    assert any(left_out in why for why in read_left_out(made)["why"])
    assert {"faithfulness", "seeds", "minimality"} <= set(read_verdicts(made)["test"])


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--bootstraps", "1"), "--bootstraps 1: give 2 to 1,000"),
        (("--circuits", "0"), "--circuits 0: give 1 to 100,000"),
        (("--seeds", "1"), "--seeds 1: give 2 to 100"),
        (("--thresholds", "2"), "--thresholds 2.0: give shares between 0 and 1"),
        (("--thresholds", "0.1", "0.1"), "none of them twice"),
    ],
)
def test_a_bad_flag_is_one_line(tmp_path, model, flags, complaint):
    assert complaint in error_line(run_experiment(SCRIPT, tmp_path, model, 97, *flags))


def test_a_test_that_there_is_not_is_one_line():
    with pytest.raises(UserError, match="--only faith: the tests are faithfulness, seeds"):
        ValidationSettings(only=("faith",))
