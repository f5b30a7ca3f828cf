"""Comparing two runs: what may differ in which way, and what is named."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit import Circuit
from path_patching.circuits.papers_shape import varied
from path_patching.errors import UserError
from path_patching.files import ROOT
from reproduction.compare import compare, largest_difference
from reproduction.compare import main as compare_main
from reproduction.paper import PAPER
from reproduction.run import read_artifacts, start_run
from reproduction.settings import Settings
from reproduction.subcommands import compare as asked
from tests.helpers.made import MODEL, publish_experiments
from tests.helpers.scripts import error_line, output, run_script

NAN, INF = torch.nan, torch.inf


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        (torch.tensor([0.5, -0.5]), torch.tensor([0.5, -0.25]), 0.25),
        (torch.tensor([0.5, -10.0]), torch.tensor([0.5, -9.0]), 0.1),
        (torch.tensor([NAN, 1.0]), torch.tensor([NAN, 1.0]), 0.0),
        (torch.tensor([NAN, 1.0]), torch.tensor([1.0, 1.0]), math.inf),
        (torch.zeros(2), torch.zeros(3), math.inf),
        (torch.tensor([INF, 5.0]), torch.tensor([INF, 3.0]), 0.4),
        (torch.tensor([INF, 1.0]), torch.tensor([INF, 1.0]), 0.0),
        (torch.tensor([INF]), torch.tensor([-INF]), math.inf),
        (torch.tensor([INF, 1.0]), torch.tensor([2.0, 1.0]), math.inf),
        (torch.tensor([2.0, 1.0]), torch.tensor([INF, 1.0]), math.inf),
        (torch.tensor([NAN, INF, 0.5]), torch.tensor([NAN, INF, 0.25]), 0.25),
        (torch.tensor([NAN]), torch.tensor([INF]), math.inf),
        ([INF, 5.0], [INF, 3.0], 0.4),
        (pd.DataFrame({"a": [INF, 5.0]}), pd.DataFrame({"a": [INF, 3.0]}), 0.4),
        (torch.zeros(0), torch.zeros(0), 0.0),
        ({"a": [1.0, 2.0], "b": "x"}, {"a": [1.0, 2.5], "b": "x"}, 0.25),
        ({"a": 1.0}, {"b": 1.0}, math.inf),
        ([1.0], [1.0, 2.0], math.inf),
        ("m1", "m2", math.inf),
        (pd.DataFrame({"a": [1.0, 2.0], "b": "x"}), pd.DataFrame({"a": [1.0, 2.5], "b": "x"}), 0.25),
        (pd.DataFrame({"a": [1.0], "b": "x"}), pd.DataFrame({"a": [1.0], "b": "y"}), math.inf),
        (pd.DataFrame({"a": [NAN]}), pd.DataFrame({"a": [NAN]}), 0.0),
        (pd.DataFrame({"a": [1.0]}), pd.DataFrame({"b": [1.0]}), math.inf),
        (3, 4, math.inf),
        (3, 3.0, math.inf),
    ],
)
def test_differences(one, other, difference):
    assert largest_difference(one, other) == pytest.approx(difference)


def by_name(*runs) -> dict[str, float]:
    """What `compare` finds, by the name of the artifact or number."""
    return compare(*runs).set_index("name")["difference"].to_dict()


def ranked(folder, order: list[int], effects: list[float], **settings: object):
    run = start_run("neuron_investigations", Settings(out=folder, **settings), MODEL, "torch", "cpu")
    run.save("order.pt", torch.tensor(order), kind="ranking", by="neuron_effects.pt")
    run.save("neuron_effects.pt", torch.tensor(effects, dtype=torch.float64), kind="neuron_effects")
    run.publish()
    return read_artifacts(folder, "neuron_investigations")


def test_ranks_of_nearly_equal_effects_may_be_swapped_and_others_may_not(tmp_path):
    one = ranked(tmp_path / "one", [0, 1, 2], [-0.5, 0.2, 0.1999999])
    nearly = ranked(tmp_path / "nearly", [0, 2, 1], [-0.5, 0.1999999, 0.2])
    assert by_name(one, nearly)["order.pt"] < 1e-6
    assert by_name(one, ranked(tmp_path / "far", [1, 0, 2], [0.2, -0.5, 0.1]))["order.pt"] == pytest.approx(0.3)


def test_a_neuron_s_row_is_compared_with_its_own_wherever_it_stands(tmp_path):
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder, order in zip(folders, ([0, 1, 2], [0, 2, 1]), strict=True):
        run = start_run("neuron_investigations", Settings(out=folder), MODEL, "torch", "cpu")
        run.save("order.pt", torch.tensor(order), kind="ranking", by="neuron_effects.pt")
        run.save("neuron_effects.pt", torch.tensor([-0.5, 0.2, 0.2]), kind="neuron_effects")
        lens = torch.tensor([[0.0], [1.0], [2.0]])[order]
        run.save("t10-logitlens.pt", lens, kind="neuron_lens", rows_ranked_in="order.pt")
        ranking = {f"m10.n{neuron}": 0.2 for neuron in order[1:]}
        run.note("neurons/strongest", ranking, "strongest neurons of m10", kind="ranking")
        run.publish()
    compared = by_name(*(read_artifacts(folder, "neuron_investigations") for folder in folders))
    assert compared == {"order.pt": 0, "neuron_effects.pt": 0, "t10-logitlens.pt": 0, "neurons/strongest": 0}


def test_names_that_are_no_ranking_may_not_be_swapped(tmp_path):
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder, names in zip(folders, ("ab", "ba"), strict=True):
        run = start_run("neuron_investigations", Settings(out=folder), MODEL, "torch", "cpu")
        run.note("quantiles", dict(zip(names, (0.2, 0.1), strict=True)), "quantiles")
        run.publish()
    compared = by_name(*(read_artifacts(folder, "neuron_investigations") for folder in folders))
    assert compared == {"quantiles": pytest.approx(0.1)}


def test_a_plain_interval_is_compared_where_both_runs_show_it(tmp_path):
    """One whose width is a tenth another may be shown by one run and not by the other."""
    found = Estimate(0.5, 0.4, 0.6, 97, plain_low=0.45, plain_high=0.55)
    runs = {"both": found, "other": replace(found, plain_low=0.35), "none": found.without_plain()}
    for folder, number in runs.items():
        run = start_run("neuron_investigations", Settings(out=tmp_path / folder), MODEL, "torch", "cpu")
        run.note("share", number, "share")
        run.publish()
    both, other, none = (read_artifacts(tmp_path / folder, "neuron_investigations") for folder in runs)
    assert by_name(both, none) == by_name(none, both) == by_name(both, both) == {"share": 0}
    assert by_name(both, other) == {"share": pytest.approx(0.1)}


def test_a_number_that_one_run_lacks_is_named(tmp_path):
    one = ranked(tmp_path / "one", [0], [0.5])
    run = start_run(one.script, Settings(out=tmp_path / "other"), MODEL, "torch", "cpu")
    for name, about in one.record["index"].items():
        run.save(name, one.load(name), **about)
    run.note("more", 1.0, "one more")
    run.publish()
    with pytest.raises(UserError, match="neuron_investigations: more is in one of the two folders alone"):
        compare(one, read_artifacts(tmp_path / "other", one.script))


def test_runs_of_other_settings_are_no_two_of_one(tmp_path):
    one = ranked(tmp_path / "one", [0], [0.5])
    with pytest.raises(UserError, match="neuron_investigations: seed is 0 in"):
        compare(one, ranked(tmp_path / "other", [0], [0.5], seed=1))


def test_what_differs_too_much_fails(tmp_path):
    publish_experiments(tmp_path / "one")
    publish_experiments(tmp_path / "other")
    folders = [str(tmp_path / "one"), str(tmp_path / "other")]
    assert "largest difference: 0.0e+00" in output(run_script(ROOT / "reproduce.py", "compare", *folders))
    one = read_artifacts(tmp_path / "one", "circuit_discovery")
    run = start_run(one.script, Settings(model=MODEL.name, out=tmp_path / "other"), MODEL, "torch", "cpu")
    for name in one.record["artifacts"]:
        run.save(name, one.load(name) + 0.25, kind="test")
    run.numbers.update(one.record["numbers"])
    run.publish()
    failed = run_script(ROOT / "reproduce.py", "compare", *folders, "--within", "0.2")
    assert failed.returncode == 1
    assert "largest difference: 2.5e-01" in failed.stdout
    assert "two folders" in error_line(run_script(ROOT / "reproduce.py", "compare", str(tmp_path), folders[0]))


def test_a_script_that_was_run_into_one_folder_alone_is_named(tmp_path):
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        publish_experiments(folder)
    (folders[1] / "topk_years.json").unlink()
    with pytest.raises(UserError, match=rf"topk_years.py was run into {folders[0]} and not into {folders[1]}"):
        compare_main(asked(list(map(str, folders))))


def test_layers_in_subfolders_are_compared_and_one_that_only_one_folder_has_is_named(tmp_path, capsys):
    for folder, value in {"one": 0.5, "other": 0.25}.items():
        ranked(tmp_path / folder, [0], [0.5])
        ranked(tmp_path / folder / "m8", [0], [value])
    folders = [str(tmp_path / "one"), str(tmp_path / "other")]
    compare_main(asked(folders))
    printed = capsys.readouterr().out
    assert "m8/neuron_investigations: torch and torch" in printed
    assert "largest difference: 2.5e-01" in printed
    ranked(tmp_path / "other" / "m9", [0], [0.5])
    complaint = rf"was run into {tmp_path}/other/m9 and not into {tmp_path}/one/m9"
    with pytest.raises(UserError, match=complaint):
        compare_main(asked(folders))
    with pytest.raises(UserError, match=complaint):
        compare_main(asked(folders[::-1]))


def test_runs_of_two_circuits_are_no_two_of_one_and_files_of_one_circuit_are(tmp_path):
    def run_of(folder: str, circuit: Circuit):
        run = start_run("pca_experiments", Settings(out=tmp_path / folder, circuit=folder), MODEL, "torch", "cpu")
        run.note_circuit(circuit)
        run.publish()
        return read_artifacts(tmp_path / folder, "pca_experiments")

    one = run_of("one.json", PAPER)
    assert by_name(one, run_of("two.json", PAPER)) == {"circuit/name": 0}
    with pytest.raises(UserError, match=r"they differ in a5\.h1"):
        compare(one, run_of("three.json", varied(PAPER, heads=PAPER.heads[1:])))


@pytest.mark.parametrize("within", ["nan", "-1"])
def test_a_bound_that_nothing_could_exceed_or_keep_is_refused(tmp_path, within):
    with pytest.raises(UserError, match="--within"):
        compare_main(asked([str(tmp_path), str(tmp_path), "--within", within]))
