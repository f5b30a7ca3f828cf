"""What `transformers` answers is asked once for a model and its sentences, and an engine is checked as strictly."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from path_patching import Request, Sentences, engine_choice
from path_patching.engine_choice import check_engine
from path_patching.errors import UserError
from path_patching.gpt2.model import Architecture, end_logits, random_model, to_transformers
from path_patching.precision import full_precision
from path_patching.unembedding import answer_probabilities
from tests.helpers.engines import make_engine

ARCHITECTURE = Architecture(n_layers=2, n_heads=3, d_model=12, d_head=4, d_mlp=20, n_positions=9, vocab_size=120)
RANDOM = random_model(ARCHITECTURE)
MODEL = replace(RANDOM, fingerprint=f"{'0' * 32}+gelu_new")  # as if it came from the tensor cache
CONFIG = {"n_layer": 2, "n_head": 3, "n_embd": 12, "n_inner": 20, "n_positions": 9, "vocab_size": 120}


def sentences(seed: int = 0) -> Sentences:
    clean = torch.randint(120, (3, 5), generator=torch.Generator().manual_seed(seed))
    corrupted = clean.clone()
    corrupted[:, 2] = 7
    return Sentences(clean, corrupted, torch.arange(10))


@pytest.fixture
def asked(tmp_path, monkeypatch) -> list[str]:
    """The fingerprints of models that `transformers` was asked about."""
    asked, build = [], engine_choice.to_transformers
    monkeypatch.setenv("TENSORS_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(engine_choice, "to_transformers", lambda model: asked.append(model.fingerprint) or build(model))
    return asked


def test_transformers_is_asked_once(asked):
    for _ in range(3):
        check_engine(make_engine("torch", MODEL, sentences()))
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("model", "seed"),
    [
        (MODEL, 1),
        (MODEL.with_activation("gelu"), 0),
        (replace(MODEL, fingerprint=f"{'1' * 32}+gelu_new"), 0),
        (
            replace(
                MODEL,
                config={"n_layer": 2, "n_head": 3, "n_embd": 12, "n_inner": 20, "n_positions": 9, "vocab_size": 120},
            ),
            0,
        ),
    ],
    ids=["other sentences", "another activation", "other weights", "another config"],
)
def test_it_is_asked_again_about_what_is_another_question(asked, model, seed):
    check_engine(make_engine("torch", MODEL, sentences()))
    check_engine(make_engine("torch", model, sentences(seed)))
    assert len(asked) == 2


@pytest.mark.parametrize("asks", [to_transformers, end_logits, full_precision, answer_probabilities])
def test_it_is_asked_again_once_our_code_that_asks_is_another(asked, tmp_path, monkeypatch, asks):
    check_engine(make_engine("torch", MODEL, sentences()))
    module = sys.modules[asks.__module__]
    changed = tmp_path / "changed.py"
    changed.write_text(Path(module.__file__).read_text() + "\n")
    monkeypatch.setattr(module, "__file__", str(changed))
    check_engine(make_engine("torch", MODEL, sentences()))
    assert len(asked) == 2


def test_a_model_whose_fingerprint_says_nothing_of_its_content_is_asked_each_time(asked, tmp_path):
    for _ in range(2):
        check_engine(make_engine("torch", RANDOM, sentences()))
    assert len(asked) == 2
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("damage", ["bytes", "other numbers", "another shape"])
def test_a_damaged_answer_is_asked_for_again(asked, tmp_path, damage):
    engine = make_engine("torch", MODEL, sentences())
    check_engine(engine)
    (kept,) = tmp_path.glob("answers/*.pt")
    whole = torch.load(kept)
    if damage == "bytes":
        kept.write_bytes(kept.read_bytes()[:100])
    else:
        change = (lambda each: each + 0.01) if damage == "other numbers" else (lambda each: each[:1])
        torch.save({data: change(each) for data, each in whole.items()}, kept)
    check_engine(engine)
    assert len(asked) == 2
    assert all(torch.equal(each, whole[data]) for data, each in torch.load(kept).items())


def test_an_engine_that_is_wrong_is_refused_by_kept_answers_too_which_stay(asked, tmp_path, monkeypatch):
    right, wrong = (make_engine("torch", MODEL, sentences()) for _ in range(2))
    evaluate, corrupted, clean = wrong.evaluate, Request.corrupted(), Request.clean()
    swapped = lambda requests: evaluate([clean if each == corrupted else each for each in requests])  # noqa: E731
    monkeypatch.setattr(wrong, "evaluate", swapped)
    for known in (False, True):
        if known:
            check_engine(right)
        with pytest.raises(UserError, match="nothing restored is not the corrupted run of transformers"):
            check_engine(wrong)
        assert len([*tmp_path.glob("answers/*.pt")]) == known


def test_a_folder_that_cannot_be_written_is_no_obstacle(asked, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORS_CACHE_DIR", str(tmp_path / "file" / "below"))
    (tmp_path / "file").write_text("")
    check_engine(make_engine("torch", MODEL, sentences()))
    assert len(asked) == 1
