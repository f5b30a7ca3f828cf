from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dataset import NOUNS_FILE, YearDataset, get_valid_years, year_indices
from path_patching.circuits.circuit import LOGITS
from path_patching.circuits.circuit_file import as_json
from path_patching.circuits.papers_shape import in_papers_shape
from path_patching.circuits.search import NAME
from path_patching.engine import Sentences
from path_patching.errors import UserError
from path_patching.gpt2 import tensor_cache
from path_patching.gpt2.circ_text import Description
from path_patching.gpt2.model import Architecture, Model, random_model
from path_patching.gpt2.tensor_cache import hash_tensor, is_gpt2_small
from path_patching.gpt2.tokenizer import load_tokenizer
from path_patching.torch_engine.engine import TorchEngine
from reproduction.circuit_choice import choose_circuit, circuit_asked_for
from reproduction.paper import GIVEN, PAPER
from reproduction.publication import sha256
from reproduction.run import Run, open_run, read_artifacts, start_run
from reproduction.settings import Settings
from utils import YearExperiment

SIZES = Architecture(n_layers=2, n_heads=2, d_model=8, d_head=4, d_mlp=16, n_positions=16, vocab_size=50257)
MINE = in_papers_shape("mine", ("m1",), ("a0.h1",), (LOGITS, "m1"), ("embeds",), (), followed=("v",), whole=())


@pytest.fixture(scope="module")
def model() -> Model:
    return random_model(SIZES)


@pytest.fixture(scope="module")
def experiment(model) -> YearExperiment:
    tokenizer = load_tokenizer()
    dataset = YearDataset(get_valid_years(tokenizer), 12, NOUNS_FILE, tokenizer)
    engine = TorchEngine(model, Sentences(dataset.good_toks, dataset.bad_toks, year_indices()))
    return YearExperiment(Settings(model="standin", n=12), model, dataset, engine)


def asking(experiment: YearExperiment, folder: Path, **changed: object) -> YearExperiment:
    """The experiment with other settings, and artifacts in a folder."""
    return replace(experiment, settings=replace(experiment.settings, out=folder, **changed))


@pytest.fixture
def run(experiment, tmp_path) -> Run:
    return open_run("big_ds_experiments", asking(experiment, tmp_path / "run"))


def publish(folder, model: Model, **beside: object) -> None:
    """What circuit_discovery.py leaves of a circuit."""
    run = start_run("circuit_discovery", Settings(out=folder), model, "torch", "cpu")
    run.save_json("circuit.json", as_json(MINE) | beside, kind="circuit")
    run.publish()


def test_a_model_other_than_gpt2_small_gets_its_own_circuit_unless_another_is_asked_for(model):
    assert circuit_asked_for(Settings(model="gpt2"), model) == "paper"
    assert circuit_asked_for(Settings(model="standin"), model) == "auto"
    assert circuit_asked_for(Settings(model="standin", circuit="paper"), model) == "paper"
    assert circuit_asked_for(Settings(model="gpt2", circuit="auto"), model) == "auto"
    assert circuit_asked_for(Settings(model="gpt2", circuit="my.json"), model) == "my.json"


def test_gpt2_small_is_known_by_its_weights_whatever_its_folder_is_called(model, monkeypatch):
    assert not is_gpt2_small(model)
    hashes = {name: hash_tensor(tensor)[:24] for name, tensor in model.tensors.items()}
    monkeypatch.setattr(tensor_cache, "published_description", lambda: Description(SIZES, hashes))
    assert is_gpt2_small(model)
    assert is_gpt2_small(model.with_activation("gelu"))
    assert circuit_asked_for(Settings(model="some/folder"), model) == "paper"
    tensors = dict(model.tensors) | {"m1.w.in_bias_arr": model.tensors["m1.w.in_bias_arr"] + 1e-3}
    assert not is_gpt2_small(replace(model, tensors=tensors))


def test_the_papers_circuit_does_not_fit_a_small_model(experiment, tmp_path):
    with pytest.raises(UserError, match=r"the paper's circuit has m8, but .* take its own circuit"):
        choose_circuit(asking(experiment, tmp_path, circuit="paper"))


def test_a_file_is_read_and_checked_against_the_model(experiment, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(as_json(MINE)))
    of_file = asking(experiment, tmp_path, circuit=str(path))
    assert choose_circuit(of_file) == MINE
    path.write_text(json.dumps(as_json(PAPER)))
    with pytest.raises(UserError, match="the paper's circuit has m8"):
        choose_circuit(of_file)
    with pytest.raises(UserError, match="no circuit can be read from"):
        choose_circuit(asking(experiment, tmp_path, circuit=str(tmp_path / "none.json")))


def test_a_circuit_without_a_node_is_one_line(experiment, tmp_path):
    path = tmp_path / "direct.txt"
    path.write_text("input->logits")
    with pytest.raises(UserError, match="direct has no head and no MLP to ask about"):
        choose_circuit(asking(experiment, tmp_path, circuit=str(path)))


def test_an_edited_circuit_loses_the_paper_s_name_and_stands_whole_in_the_record(experiment, tmp_path):
    edited, path = replace(MINE, name=PAPER.name), tmp_path / "mine.json"
    path.write_text(json.dumps(as_json(edited)))
    of_file = asking(experiment, tmp_path / "run", circuit=str(path))
    run = open_run("big_ds_experiments", of_file)
    assert choose_circuit(of_file, run) == replace(edited, name=GIVEN)
    run.publish(partial=True)
    made = read_artifacts(tmp_path / "run", run.script)
    assert made.number("circuit/name") == GIVEN
    assert made.record["circuit"] == as_json(replace(edited, name=GIVEN))
    assert made.circuit == replace(edited, name=GIVEN)


def test_a_circuit_s_file_may_lie_in_the_user_s_home(experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.json").write_text(json.dumps(as_json(MINE)))
    assert choose_circuit(asking(experiment, tmp_path, circuit="~/mine.json")) == MINE
    with pytest.raises(UserError, match="an empty name is no file"):
        choose_circuit(asking(experiment, tmp_path, circuit=""))


def test_what_circuit_discovery_found_for_this_model_is_taken(experiment, run, tmp_path, capsys):
    publish(tmp_path, experiment.model, search={})
    assert choose_circuit(asking(experiment, tmp_path), run) == MINE
    assert str(tmp_path / "circuit.json") in capsys.readouterr().out
    assert run.read == {"circuit.json": sha256(tmp_path / "circuit.json")}
    assert run.circuit == as_json(MINE)


@pytest.mark.parametrize("case", ["nothing there", "another model's", "not found but given"])
def test_else_the_circuit_is_searched_for_here(case, experiment, run, tmp_path, capsys):
    if case == "another model's":
        publish(tmp_path, random_model(SIZES, seed=1), search={})
    if case == "not found but given":
        publish(tmp_path, experiment.model)
    chosen = choose_circuit(asking(experiment, tmp_path), run)
    assert chosen.name == NAME
    assert chosen != MINE
    assert "searched for on 12 sentences" in capsys.readouterr().out
    assert run.read == {"circuit.json": None}


def test_a_damaged_circuit_is_not_passed_over(experiment, run, tmp_path):
    publish(tmp_path, experiment.model, search={})
    (tmp_path / "circuit.json").write_text("{}")
    with pytest.raises(UserError, match=r"circuit\.json is damaged or of another run"):
        choose_circuit(asking(experiment, tmp_path), run)
