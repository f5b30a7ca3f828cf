"""The report's sentences: their numbers are those of the record, whatever they are."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace

import pytest
import torch

from path_patching.bootstrap import Estimate
from path_patching.circuits.circuit_file import as_json
from path_patching.circuits.search import NAME as FOUND
from path_patching.circuits.validation.verdicts import BARS, Verdict, judge
from path_patching.errors import UserError
from reproduction import story
from reproduction.claims import read_claims
from reproduction.experiments import EXPERIMENTS
from reproduction.paper import PAPER
from reproduction.run import read_artifacts, start_run
from reproduction.settings import Settings
from reproduction.verdicts import Verdicts
from tests.helpers.drawn import publish
from tests.helpers.made import MODEL, publish_experiments
from tests.helpers.whole import publish_whole


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> story.Answers:
    folder = tmp_path_factory.mktemp("artifacts")
    publish_experiments(folder)
    scripts = sorted({claim.script for claim in read_claims()})
    return story.Answers({script: read_artifacts(folder, script) for script in scripts}, read_claims())


def test_a_changed_number_is_found_in_every_sentence_that_names_it(answers):
    for question in (story.summary(), *story.questions()):
        for sentence in question.sentences:
            before = answers.filled(sentence)
            for slot in story.SLOT.finditer(sentence):
                scripts, key, unit = slot.groups()
                if (
                    scripts in ("circuit", "verdicts", "prompts")
                    or unit in ("n", "count", "text", "none")
                    or "*" in key
                    or unit.startswith("nodes")
                ):
                    continue
                script = scripts.split(",")[0]
                record = answers.runs[script].record
                numbers = record["numbers"] | {key: {"words": "w", **Estimate(0.4321, 0.4, 0.5, 97).as_json()}}
                changed = replace(answers.runs[script], record=record | {"numbers": numbers})
                after = story.Answers({**answers.runs, script: changed}, read_claims()).filled(sentence)
                assert after != before
                assert ("43.2" if unit.startswith(("%", "points")) else "0.43") in after


def test_every_key_of_a_sentence_is_one_that_a_script_measures():
    known = {(claim.script, claim.key) for claim in read_claims()}
    for question in (story.summary(), *story.questions()):
        for sentence in question.sentences:
            for scripts, key, _ in story.SLOT.findall(sentence):
                if scripts not in ("circuit", "verdicts", "prompts") and not key.startswith("verdicts/") and key != "*":
                    pattern = re.escape(key).replace(r"\*", "[^/]+")
                    assert any(re.fullmatch(pattern, each) for script, each in known if script in scripts.split(","))
                    assert set(scripts.split(",")) <= {*EXPERIMENTS}


def test_a_sentence_of_which_a_number_is_missing_is_left_out(answers):
    assert answers.filled("It is {circuit_discovery:no/such_key|%}.") is None
    assert answers.filled("It is {no_such_script:clean/probability_difference|%}.") is None
    known = "{no_such_script,big_ds_experiments:clean/probability_difference|points}"
    assert answers.filled(f"It is {known}.") == "It is 81.7 points [80.7, 82.7]."


def test_of_another_model_the_papers_numbers_are_not_beside(answers):
    assert "the paper" not in answers.filled("{big_ds_experiments:late_half/probability_difference|%}")
    assert not MODEL.name.startswith("GPT-2")


def test_a_star_lists_every_node_with_its_number(answers):
    listed = answers.filled("{circuit_discovery:attention/*/end_to_yy|% bare}")
    assert listed == "a7.h10 50.0 %, a8.h11 50.0 %"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> story.Answers:
    folder = tmp_path_factory.mktemp("whole")
    publish_whole(folder)
    return story.Answers({"circuit_discovery": read_artifacts(folder, "circuit_discovery")}, [])


def test_where_every_head_of_the_circuit_looks_is_said_as_in_its_panel(whole):
    looks = "a5.h1 1.0 %, a5.h5 1.0 %, a6.h9 1.0 %, a7.h10 1.0 %, a8.h8 1.0 %, a8.h11 1.0 % (XX2 70.0 %), a9.h1 44.0 %"
    assert whole.filled("{circuit:attention}") == looks
    assert whole.filled("{circuit:few}") == "mean of 20 sentences"
    assert any(looks in said for said in whole.of(story.summary()))


def test_whose_circuit_it_is_is_said(whole):
    run = whole.runs["circuit_discovery"]
    found = as_json(replace(PAPER, links=PAPER.links[1:], name=FOUND))
    for changed, origin in ({}, "paper"), ({"circuit": found}, "found"), ({"circuit": found | {"name": "x"}}, "given"):
        of = story.Answers({"circuit_discovery": replace(run, record=run.record | changed)}, [])
        assert of.filled("{circuit:origin}") == tomllib.loads(story.STORY.read_text())["origins"][origin].format("x")


def test_a_number_of_01_data_says_whose_yy_scores_it():
    of_01 = [sentence for question in (story.summary(), *story.questions()) for sentence in question.sentences
             if ":corrupted/" in sentence]  # fmt: skip
    assert len(of_01) == 2
    assert all("scored by the YY of the clean sentence" in each for each in (*of_01, story.words()["01 data"]))


def test_a_change_that_says_nothing_is_not_given_and_others_say_what_was_edited(answers):
    """Without a control of LEACE its changes say nothing of YY."""
    (dimensions,) = [each for each in story.questions() if each.id == "dimensions"]
    run, key = answers.runs["pca_experiments"], "leace_classes/control"
    for control, given in {"none. Each YY is there once": False, "YYs shuffled": True}.items():
        numbers = {each: number for each, number in run.record["numbers"].items()
                   if given or not each.endswith("leace_classes/controls/change")}  # fmt: skip
        numbers |= {key: {"words": "w", "value": control}}
        of = story.Answers({"pca_experiments": replace(run, record=run.record | {"numbers": numbers})}, [])
        first, *rest = of.of(dimensions)
        assert len(rest) == 1
        assert ("input of m8 −17.0 points [−18.0, −16.0], output of a7.h10 50.0 points" in first) == given
        assert ("(YYs shuffled)" if given else "for LEACE: each YY is there once.") in first
        assert "input of m8 0.0 points" in rest[0]


@pytest.mark.parametrize(("on_years", "said"), [(0.0002, True), (0.5, False)])
def test_a_prompt_that_hardly_any_year_continues_is_named_by_its_probabilities(tmp_path, on_years, said):
    probs = {f"probs_{task}.pt": (torch.full((97, 100), share / 100), {"kind": "probabilities", "task": task,
             "evaluation": "clean"}) for task, share in {3: 0.9, 7: on_years}.items()}  # fmt: skip
    publish("sequence_generalization", tmp_path, probs, {"task_3/prompt": "falling", "task_7/prompt": "BC"})
    of = story.Answers({"sequence_generalization": read_artifacts(tmp_path, "sequence_generalization")}, [])
    words = "next to nothing of the probability is on the years (BC: 0.02 %)"
    assert of.filled("{prompts:faint}") == (words if said else None)
    (prompts,) = [each for each in story.questions() if each.id == "prompts"]
    assert any(words in each for each in of.of(prompts)) == said


def test_a_question_for_a_p_says_which_p_passes_in_the_same_words():
    for bar in BARS.values():
        ending = "(passes if small)" if bar.most is not None else "(fails if small)"
        assert bar.asked.endswith(ending) == bar.of_p, bar.asked
        assert (", one-sided, of " in bar.asked or ", two-sided, of " in bar.asked) == bar.of_p


def test_the_loss_after_the_rest_of_a_class_is_told_apart_from_that_alone():
    word = story.forms()["rest of its class"]
    assert "may be far less than alone" in story.words()[word]


def test_an_experiment_that_the_text_does_not_name_has_its_question_and_every_number(answers, monkeypatch):
    monkeypatch.setattr(story, "_story", lambda: {"section": []})
    own = {each.question: answers.of(each) for each in story.questions.__wrapped__()}
    [said] = own["Which tokens are likely before and at END?"]
    measured, *lines = said.splitlines()
    assert measured == "Measured:"
    assert len(lines) == len(answers.runs["topk_years"].keys) > 2
    assert "before XX2, probability of XX1: 50.0 % [49.0, 51.0]" in lines
    assert "at END, how many of these 5 are years from YY on: 0.50 [0.49, 0.51]" in lines, "in the page's style"


def concluded(folder, *verdicts: Verdict) -> list[str]:
    """What the section on the validation says of these verdicts, without its numbers of other tests."""
    run = start_run("circuit_validation", Settings(out=folder), MODEL, "torch", "cpu")
    noted = Verdicts(run)
    noted.note("a_test", verdicts)
    noted.save()
    run.publish()
    (question,) = [each for each in story.questions() if each.id == "validation"]
    said = story.Answers({"circuit_validation": read_artifacts(folder, "circuit_validation")}, [])
    return said.of(question)


def judged(measured: float | Estimate, bar: str = "faithfulness", part: str = "late half") -> Verdict:
    return judge(bar, measured, part)


UNSURE = Estimate(0.9, 0.7, 1.1, 97)  # within the bar of faithfulness, its interval is not
UNJUDGED = Estimate(0.9, 0.7, 1.1, 1, doubt="1 sentence")


@pytest.mark.parametrize(
    ("numbers", "conclusion", "counts"),
    [
        ([0.9], "Every test that is judged says so", (1, 0, 0)),
        ([0.9, 0.9, 0.5], "Not by every test", (2, 1, 0)),
        ([0.9, UNSURE], "Perhaps: no test fails clearly", (1, 1, 0)),
        ([0.5, UNSURE, UNJUDGED], "Not by every test", (0, 2, 1)),
        ([0.9, UNJUDGED], "Every test that is judged says so", (1, 0, 1)),
    ],
)
def test_what_the_validation_comes_to_follows_from_its_verdicts(tmp_path, numbers, conclusion, counts):
    first = concluded(tmp_path, *(judged(each, part=f"part {place}") for place, each in enumerate(numbers)))[0]
    assert first.startswith(f"{conclusion}: ")
    passed, failed, open_ = counts
    assert f"{passed} verdicts are passed, {failed} failed and {open_} not judged" in first


def test_what_to_doubt_is_said_with_its_parts(tmp_path):
    of_nodes = judged(0.5, "minimality", "full circuit")
    described, unsure = judged(0.3, "interactions"), judged(UNSURE)
    both = judged(0.5), judged(0.6, part="full circuit")
    said = concluded(tmp_path, *both, of_nodes, unsure, judged(UNJUDGED), described)
    assert said[1:4] == [
        "Failed, so that a reader should doubt:\n"
        "whether it does alone what the model does (late half; full circuit)\n"
        "whether every node is needed (full circuit)",
        "Failed only because the interval is too wide, so that more sentences would tell:\n"
        "whether it does alone what the model does (late half)",
        "Not judged, and why:\n1 sentence (1)\nonly described (1)",
    ]


@pytest.mark.parametrize("drawn", [0, 1])
def test_verdicts_that_fail_for_want_of_draws_are_counted(tmp_path, drawn):
    """Three at p = 1/201, the smallest of 200 draws, fail if corrected; with one drawn as good it is no such p."""
    remark = f"{drawn} of 200 drawn do as much"
    random = [judge("random", 1 / 201, f"part {place}", remark) for place in range(3)]
    told = [each for each in concluded(tmp_path, *random) if "the smallest p" in each]
    said = "Of those that fail then, 3 passed by themselves, with the smallest p that their draws can give: more draws "
    assert told == ([f"{said}would tell."] if drawn == 0 else [])


def test_verdicts_of_another_version_are_one_line():
    with pytest.raises(UserError, match=r"no bar asks “is it so.”: .* run circuit_validation.py again"):
        story.bar_of("is it so?")


def test_without_verdicts_nothing_is_concluded(tmp_path):
    assert not any("test" in sentence or "doubt" in sentence for sentence in concluded(tmp_path))


def test_every_bar_has_words_for_what_it_asks(tmp_path):
    far = -1.0, 2.0  # one of them is beyond the bar
    for bar in BARS:
        if bar != "interactions":  # which has none
            told = concluded(tmp_path, *(judged(each, bar, "some part") for each in far))
            assert any("doubt:\nwhether" in sentence and "(some part" in sentence for sentence in told)
