from __future__ import annotations

import inspect
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch

from path_patching.bootstrap import Estimate, sentence_weights
from path_patching.circuits.circuit import Circuit, full_circuit
from path_patching.circuits.circuit_file import from_json
from path_patching.circuits.validation.matched import DRAWS
from path_patching.circuits.validation.measuring import Scale
from path_patching.circuits.validation.size_curve import halves
from path_patching.circuits.validation.verdicts import BARS
from path_patching.engine import Engine, Request
from path_patching.errors import UserError
from path_patching.files import ROOT
from path_patching.paths import PathSet
from reproduction.run import Artifacts, read_artifacts
from reproduction.settings import VALIDATION, ValidationSettings
from reproduction.verdicts import as_key, read_left_out, read_verdicts
from tests.helpers.checkpoints import edit_tensors
from tests.helpers.experiments import made_by, random_gpt2, run_experiment
from tests.helpers.scripts import error_line, output, run_script
from tests.helpers.validation_tables import COLUMNS
from utils import YearExperiment, cutoff_sharpness, draw_sentences, prob_diff, start_experiment

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
        value = number.value if isinstance(number, Estimate) else number
        assert line.value == pytest.approx(math.nan if value is None else value, nan_ok=True)  # none without a span
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


def test_tests_that_are_not_asked_for_are_not_made(made, tmp_path, model):
    flags = (*FEW, *circuit_file(model.parent, CIRCUIT), "--only", "faithfulness", "random")
    some = made_by(SCRIPT, tmp_path, model, 97, *flags)
    table = read_verdicts(some)
    assert set(table["test"]) == {"faithfulness", "random"}
    of_both = read_verdicts(made)
    expected = of_both[of_both["test"].isin(["faithfulness", "random"])].reset_index(drop=True)
    own = ["p_corrected", "corrected"]  # for the number of verdicts of the run
    pd.testing.assert_frame_equal(table.drop(columns=own), expected.drop(columns=own), rtol=1e-5, atol=1e-6)
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
            ["indirect objects"],
        ),
        (2, 20, HEADS_ALONE | NO_LOWER, ["layers of 2 heads have no other circuit", "indirect objects"]),
    ],
    ids=["a model of one layer", "a circuit of heads alone, and few sentences"],
)
def test_what_lacks_something_ends_well(tmp_path, layers, n, circuit, left_out):
    checkpoint = random_gpt2(tmp_path / "model", n_layer=layers, strength=2.0, seed=1)
    printed = output(run_experiment(SCRIPT, tmp_path, checkpoint, n, *FEW, *circuit_file(tmp_path, circuit)))
    made = read_artifacts(tmp_path / "out", SCRIPT)
    for each in left_out:
        assert f"left out: {each}" in printed
        assert any(each in why for why in read_left_out(made)["why"])
    assert {"faithfulness", "seeds", "minimality"} <= set(read_verdicts(made)["test"])


def embeddings_alike(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every token is the same to the model: no twin changes a thing."""
    rows = tensors["transformer.wte.weight"]
    return tensors | {"transformer.wte.weight": rows[:1].expand_as(rows).clone()}


def test_a_model_that_tells_no_token_apart_is_not_judged_and_loses_no_run(tmp_path):
    """Every span is exactly zero, F and all shares are 0 / 0."""
    checkpoint = random_gpt2(tmp_path / "model", strength=2.0, seed=1)
    edit_tensors(checkpoint, embeddings_alike)
    printed = output(run_experiment(SCRIPT, tmp_path, checkpoint, 97, *FEW, *circuit_file(tmp_path, CIRCUIT)))
    table = read_verdicts(read_artifacts(tmp_path / "out", SCRIPT))
    assert set(table["verdict"]) == {"not judged"}
    assert {"faithfulness", "minimality", "completeness", "counterfactuals", "strength"} <= set(table["test"])
    assert "not judged, nothing to judge: the span is zero: " in printed


def test_one_sentence_is_not_judged_and_loses_no_run(tmp_path, model):
    flags = (*circuit_file(tmp_path, CIRCUIT), "--engine", "torch", "--quick", "--circuits", "99")
    printed = output(run_experiment(SCRIPT, tmp_path, model, 1, *flags))
    assert "left out: how good is the best circuit of each size? One sentence has no two halves" in printed
    assert set(read_verdicts(read_artifacts(tmp_path / "out", SCRIPT))["verdict"]) == {"not judged"}
    assert "not judged, 1 sentence: " in printed


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


# Every test is asked of the sentences and the paths that its name says, and its answers are in its table

SOME_HERE, FEW_HERE = 60, 40  # sentences, in place of the script's own numbers, so that they are not all of them
RECORDED = {
    "faithfulness": ("faithfulness", "divergence"),
    "matched": ("matched",),
    "minimality": ("minimality",),
    "random_links": ("beside_random_links",),
    "completeness": ("completeness",),
    "counterfactuals": ("compare",),
    "size_curve": ("ranked_nodes", "size_curve", "random_curve", "on_curve"),
    "stability": ("stability",),
    "strength": ("strengths",),
    "interactions": ("interactions", "mlp_shares"),
    "dissociation": ("dissociation",),
}


class Call(NamedTuple):
    """A call of the script's: what it asked, by parameter, and the answer."""

    asked: SimpleNamespace
    found: Any


class Recorded(NamedTuple):
    """What a run left, and what it asked, by function, beside the experiment that it asked it of."""

    made: Artifacts
    calls: Mapping[str, Sequence[Call]]
    experiment: YearExperiment

    @property
    def circuit(self) -> Circuit:
        return from_json(CIRCUIT)

    @property
    def parts(self) -> dict[str, PathSet]:
        """The late half is written out."""
        end, yy = self.experiment.END, self.experiment.YY
        late = "a0.h0 → logits; a0.h0 → m1 → logits; a1.h1 → logits; a1.h1 → m1 → logits"
        return {"late half": PathSet.parse(late, end=end), "full circuit": full_circuit(self.circuit, yy, end)}

    def rows(self, engine: Engine) -> list[int]:
        """Which of the experiment's sentences an engine has, in its order."""
        place = {tuple(row): at for at, row in enumerate(self.experiment.dataset.good_toks.tolist())}
        return [place[tuple(row)] for row in engine.sentences.clean.tolist()]

    def check_scale(self, engine: Engine, scale: Scale, metric: Callable[..., torch.Tensor] = prob_diff) -> None:
        """That a scale is that of an engine's own sentences: their metric, and what they are made of."""
        rows, dataset = self.rows(engine), self.experiment.dataset
        expected = [metric(each, dataset.years_YY[rows]) for each in (engine.clean(), engine.corrupted())]
        torch.testing.assert_close([scale.whole, scale.nothing], expected)
        torch.testing.assert_close(scale.metric(engine.clean()), expected[0])
        assert len(scale.clusters) == 2
        nouns = torch.as_tensor(pd.factorize(pd.Series(dataset.nouns))[0])
        for found, whole in zip(scale.clusters, (nouns, dataset.years_YY), strict=True):
            of_rows = whole[rows]
            assert torch.equal(found[:, None] == found, of_rows[:, None] == of_rows), "the same are together"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, model) -> Recorded:
    folder = tmp_path_factory.mktemp("recorded")
    script, calls = folder / f"{SCRIPT}.py", defaultdict(list)
    text = (ROOT / script.name).read_text()
    of_each = {"SOME = 194 ": f"SOME = {SOME_HERE // 2} ", "FEW = 97 ": f"FEW = {FEW_HERE // 2} ", "// 490)": "// 48)"}
    for own, here in of_each.items():  # twice these, of 97 sentences
        assert text.count(own) == 1
        text = text.replace(own, here)
    script.write_text(text)

    def recording(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*args: object, **named: object) -> Any:
            given = inspect.signature(call).bind(*args, **named)
            given.apply_defaults()
            found = call(*args, **named)
            calls[name].append(Call(SimpleNamespace(**given.arguments), found))
            return found

        return recorded

    settings = {"TENSORS_CACHE_DIR": str(folder / "tensors")}
    seeded = ("--seed", "3", "--thresholds", "0.02", "0.0005")
    flags = ("--model", str(model), "--n", "97", "--out", str(folder / "out"), *seeded, *FEW)
    with pytest.MonkeyPatch.context() as patched:
        for module, names in RECORDED.items():
            of_module = import_module(f"path_patching.circuits.validation.{module}")
            for name in names:
                patched.setattr(of_module, name, recording(name, getattr(of_module, name)))
        output(run_script(script, *flags, *circuit_file(folder, CIRCUIT), settings=settings))
        patched.setenv("TENSORS_CACHE_DIR", settings["TENSORS_CACHE_DIR"])
        experiment = start_experiment(model=str(model), n=97, engine="torch", seed=3)
    return Recorded(read_artifacts(folder / "out", SCRIPT), calls, experiment)


def by_row(table: pd.DataFrame, *keys: str) -> dict[object, dict[str, object]]:
    """The rows of a table by what tells them apart."""
    return {tuple(line[key] for key in keys): line for line in table.to_dict("records")}


def values_of(line: dict[str, object], **estimates: Estimate) -> None:
    """That a row has these estimates with their ends."""
    for name, each in estimates.items():
        found = [line[f"{name}{end}"] for end in ("", "_low", "_high")]
        assert found == pytest.approx([each.value, each.low, each.high], nan_ok=True), name


def test_faithfulness_is_that_of_both_metrics_and_both_parts(recorded):
    asked = [call.asked for call in recorded.calls["faithfulness"]]
    log_odds = "{}, log odds of valid years"
    assert [each.subject for each in asked if "log odds" in each.subject] == [*map(log_odds.format, recorded.parts)]
    asked = [each for each in asked if "log odds" not in each.subject]
    assert [each.subject for each in asked] == ["late half", "late half", "full circuit", "full circuit"]
    for each, metric in zip(asked, [prob_diff, cutoff_sharpness] * 2, strict=True):
        assert recorded.rows(each.engine) == [*range(97)]
        assert each.paths == recorded.parts[each.subject]
        recorded.check_scale(each.engine, each.scale, metric)
    assert [each.asked.paths for each in recorded.calls["divergence"]] == [*recorded.parts.values()]
    engine, metric = recorded.experiment.engine, recorded.experiment.metric
    for part, paths in recorded.parts.items():
        for key, probs in ((as_key(part), engine.isolate(paths)), (f"{as_key(part)}/without", engine.patch(paths))):
            noted = recorded.made.number(f"{key}/probability_difference").value
            assert noted == pytest.approx(metric(probs).mean().item(), abs=1e-6)


def test_other_data_sets_have_the_next_seeds_and_their_own_years(recorded):
    expected = {part: [] for part in recorded.parts}
    for seed in (3, 4):
        drawn = draw_sentences(replace(recorded.experiment.settings, seed=seed), balanced=True)
        engine = recorded.experiment.engine_for(drawn)
        for part, paths in recorded.parts.items():
            probs = engine.evaluate([Request.clean(), Request.corrupted(), Request.isolate(paths)])
            whole, nothing, alone = (prob_diff(each, drawn.years_YY).mean() for each in probs)
            expected[part].append(((alone - nothing) / (whole - nothing)).item())
    for part, values in expected.items():
        assert recorded.made.number(f"seeds/{as_key(part)}") == pytest.approx(values, abs=1e-4)


def test_random_circuits_are_held_against_the_same_part_on_few_sentences(recorded):
    calls, table = recorded.calls["matched"], recorded.made.load("validation_random.csv")
    assert [(each.asked.subject, each.asked.kind) for each in calls] == [*product(recorded.parts, DRAWS)]
    for call in calls:
        asked, found = call
        assert recorded.rows(asked.engine) == [*range(FEW_HERE)]
        recorded.check_scale(asked.engine, asked.scale)
        assert asked.part(recorded.circuit) == recorded.parts[asked.subject]
        assert (asked.count, asked.seed) == (3, 3)
        rows = table[(table["part"] == asked.subject) & (table["kind"] == asked.kind)]
        own, drawn = rows[~rows["drawn"]].iloc[0], rows[rows["drawn"]]
        assert (own["alone"], own["without"]) == pytest.approx((found.own_alone, found.own_without))
        assert [*drawn["alone"]] == pytest.approx(found.alone.tolist())
        assert [*drawn["without"]] == pytest.approx(found.without.tolist())


@pytest.mark.parametrize("test", ["minimality", "completeness"])
def test_nodes_and_links_are_taken_from_both_parts(recorded, test):
    calls = recorded.calls[test]
    assert [call.asked.subject for call in calls] == [*recorded.parts]
    for asked, _ in calls:
        assert asked.paths == recorded.parts[asked.subject]
        assert (asked.yy, asked.end) == (recorded.experiment.YY, recorded.experiment.END)
        assert recorded.rows(asked.engine) == [*range(SOME_HERE)]
        recorded.check_scale(asked.engine, asked.scale)


def test_what_is_lost_is_in_the_row_of_its_node_link_or_set(recorded):
    nodes = by_row(recorded.made.load("validation_nodes.csv"), "part", "node")
    links = by_row(recorded.made.load("validation_links.csv"), "part", "reader", "via", "sender")
    for asked, lost in recorded.calls["minimality"]:
        for node in lost.nodes:
            values_of(nodes[asked.subject, node.name], alone=node.alone, given_class=node.given_class)
        for link in lost.links:
            key = (asked.subject, link.link.reader, link.link.via, link.link.sender)
            values_of(links[key], alone=link.alone)
    for asked, beside in recorded.calls["beside_random_links"]:
        assert recorded.rows(asked.engine) == [*range(SOME_HERE)]
        recorded.check_scale(asked.engine, asked.scale)
        assert asked.part(recorded.circuit) == recorded.parts[beside.subject]
        for link, others in beside.others.items():
            line = links[beside.subject, link.reader, link.via, link.sender]
            assert (line["random_less"], line["random_drawn"]) == (beside.less(link), len(others))
    gaps = by_row(recorded.made.load("validation_completeness.csv").fillna({"nodes": ""}), "part", "removed", "nodes")
    for asked, complete in recorded.calls["completeness"]:
        for gap in complete.gaps:
            line = gaps[asked.subject, gap.removed, " ".join(gap.nodes)]
            values_of(line, gap=gap.gap)
            assert (line["model"], line["circuit"]) == pytest.approx((gap.model, gap.circuit))


def test_counterfactuals_differ_where_their_names_say(recorded):
    ((asked, found),) = recorded.calls["compare"]
    prompt = [*recorded.experiment.dataset.good_prompt]
    shown = {}
    for scheme in asked.schemes:
        assert recorded.rows(scheme.engine) == [*range(SOME_HERE)]
        sentences = scheme.engine.sentences
        places = (sentences.clean != sentences.corrupted).any(0).nonzero()[:, 0].tolist()
        shown[scheme.name] = (scheme.data, [prompt[place] for place in places], scheme.control)
    assert shown == {
        "01": ("corrupted", ["YY"], False),
        "another YY": ("corrupted", ["YY"], False),
        "another century": ("corrupted", ["XX1", "XX2"], True),
        "another noun": ("corrupted", ["NOUN"], True),
        "mean ablation": ("mean", ["YY"], False),
        "zero ablation": ("zero", ["YY"], False),
    }
    recorded.check_scale(asked.schemes[0].engine, asked.scale)
    assert dict(asked.parts) == recorded.parts
    table = by_row(recorded.made.load("validation_counterfactuals.csv"), "scheme")
    for each in found:
        line = table[each.name,]
        of_parts = {as_key(part): estimate for part, estimate in each.faithfulness.items()}
        values_of(line, span=each.span, share_of_01=each.of_first, **of_parts)
        assert (line["control"], line["too_weak"]) == (each.control, each.too_weak)


def test_one_half_of_some_sentences_ranks_nodes_and_the_other_is_evaluated(recorded):
    ranking, held_out = halves(SOME_HERE, 3)
    ((ranked, order),) = recorded.calls["ranked_nodes"]
    assert recorded.rows(ranked.engine) == ranking.tolist()
    own_yy = recorded.experiment.dataset.years_YY[ranking]
    probs = ranked.engine.clean()
    torch.testing.assert_close(ranked.metric(probs), prob_diff(probs, own_yy))
    for name in ("size_curve", "random_curve", "on_curve"):
        for asked, _ in recorded.calls[name]:
            assert recorded.rows(asked.engine) == held_out.tolist()
            recorded.check_scale(asked.engine, asked.scale)
    ((on, point),) = recorded.calls["on_curve"]
    assert on.order == order
    assert on.circuit == recorded.circuit
    curve = next(call.found for call in recorded.calls["size_curve"] if call.asked.order == order)
    ((chance, by_chance),) = recorded.calls["random_curve"]
    assert chance.seed == 3
    table, number = recorded.made.load("validation_sizes.csv"), recorded.made.number
    assert [*table["nodes"]] == [*curve.sizes]
    assert [*table["by_effect"]] == pytest.approx([*curve.faithfulness])
    assert [*table["at_random"]] == pytest.approx([*by_chance.faithfulness])
    assert (number("sizes/by_effect/cpr"), number("sizes/at_random/cmd")) == (curve.cpr, by_chance.cmd)
    assert number("sizes/circuit/nodes") == point.size
    assert number("sizes/circuit/faithfulness").value == point.own.value


def test_searches_are_on_draws_of_few_sentences(recorded):
    ((asked, found),) = recorded.calls["stability"]
    engine, dataset = asked.effects.values.engine, recorded.experiment.dataset
    assert recorded.rows(engine) == [*range(FEW_HERE)]
    probs = engine.clean()
    torch.testing.assert_close(asked.effects.values.metric(probs), prob_diff(probs, dataset.years_YY[:FEW_HERE]))
    clusters = [each[:FEW_HERE] for each in recorded.experiment.clusters]
    torch.testing.assert_close(asked.weights, sentence_weights(FEW_HERE, 3, clusters, 2))
    assert asked.thresholds == (0.02, 0.0005)
    table = by_row(recorded.made.load("validation_membership.csv"), "threshold", "node")
    for search in found.named_as(recorded.circuit):
        for node, share in search.membership.items():
            assert table[search.threshold, node]["share"] == share


def test_strengths_and_interactions_are_those_of_the_late_half(recorded):
    (strong,), (pairs,) = recorded.calls["strengths"], recorded.calls["interactions"]
    late = {"m1@END", "a0.h0@END", "a1.h1@END"}
    for (asked, _), n_sentences in ((strong, SOME_HERE), (pairs, 97)):
        assert asked.paths == recorded.parts["late half"]
        assert {*asked.members} == late
        assert recorded.rows(asked.engine) == [*range(n_sentences)]
        recorded.check_scale(asked.engine, asked.scale)
    table = by_row(recorded.made.load("validation_strength.csv"), "subject", "alpha")
    for each in strong.found:
        for alpha, mean in zip(each.alphas, each.means, strict=True):
            values_of(table[each.subject, alpha], probability_difference=mean)
    table = by_row(recorded.made.load("validation_interactions.csv"), "one", "other")
    for (one, other), effect in pairs.found.pairs.items():
        values_of(table[one, other], effect=effect)
    for name, effect in pairs.found.alone.items():
        values_of(table[name, name], effect=effect)
    ((shares, of_mlps),) = recorded.calls["mlp_shares"]
    assert shares.circuit == recorded.circuit
    assert recorded.made.number("interactions/m1/direct").value == of_mlps["m1"].direct.value


def test_abilities_are_impeded_by_their_own_circuits_and_by_greater_than_s(recorded):
    ((asked, table),) = recorded.calls["dissociation"]
    first, *others = asked.tasks if hasattr(asked, "tasks") else asked.abilities
    assert (first.name, first.circuit, first.end) == ("greater-than", recorded.circuit, recorded.experiment.END)
    assert recorded.rows(first.engine) == [*range(97)]
    recorded.check_scale(first.engine, first.scale)
    for each in others:  # of its own sentences, too
        assert len(each.engine.sentences) == len(each.scale.whole)
        torch.testing.assert_close(each.scale.metric(each.engine.clean()), each.scale.whole)
    rows = by_row(recorded.made.load("validation_specificity.csv"), "ability", "circuit")
    for key, lost in table.losses.items():
        values_of(rows[key], lost=lost)
        if key in table.by_chance:
            values_of(rows[key], lost_by_chance=table.by_chance[key])


@pytest.mark.parametrize("table", COLUMNS)
def test_figures_are_drawn_of_columns_that_are_there(made, table):
    assert {*COLUMNS[table]} - {"lost_by_chance", "lost_by_chance_low", "lost_by_chance_high"} <= {
        *made.load(f"validation_{table}.csv").columns
    }
