"""Is it a circuit? The tests that the field asks of a circuit, beyond those of the paper.

python circuit_validation.py [--model gpt2|standin|NAME|PATH] [--circuit paper|auto|FILE] [--only TEST ...] [--quick]

Each test has a bar that was written before anything was measured (docs/validation.md says what each asks, and what it
cannot show). The late half and the full circuit are judged. validation_plots.py draws the figures.
"""

# %% What is asked, of which model? In an interactive window, change the settings here.
import math
import random
from dataclasses import asdict, replace
from functools import partial

from reproduction.command_line import read_settings

from reproduction.settings import ValidationSettings

settings = read_settings(__doc__, ValidationSettings(n=490)).chosen()

import pandas as pd
import torch

from dataset import get_valid_years
from path_patching.bootstrap import sentence_weights
from path_patching.circuits.circuit import full_circuit, late_half
from path_patching.circuits.search import find_circuit
from path_patching.circuits.size import size_of
from path_patching.circuits.validation.completeness import completeness
from path_patching.circuits.validation.counterfactuals import Scheme, compare
from path_patching.circuits.validation.dissociation import Ability, dissociation, disturbance
from path_patching.circuits.validation.faithfulness import divergence, divergence_scale, faithfulness, spread
from path_patching.circuits.validation.interactions import interactions, mlp_shares
from path_patching.circuits.validation.matched import DRAWS, matched
from path_patching.circuits.validation.measuring import Scale, measured, too_few
from path_patching.circuits.validation.members import members
from path_patching.circuits.validation.minimality import minimality
from path_patching.circuits.validation.random_links import beside_random_links
from path_patching.circuits.validation.size_curve import halves, on_curve, random_curve, ranked_nodes, size_curve
from path_patching.circuits.validation.stability import stability
from path_patching.circuits.validation.strength import strengths
from path_patching.circuits.validation.verdicts import judge
from path_patching.engine import Engine, Request
from path_patching.errors import UserError
from path_patching.gpt2.tensor_cache import is_gpt2_small
from path_patching.gpt2.tokenizer import load_tokenizer
from path_patching.sweeps import remembered_effects
from reproduction.circuit_choice import choose_circuit
from reproduction.evaluations import Evaluations, clusters_of
from reproduction.run import open_run
from reproduction.verdicts import Verdicts, as_key, columns
from tasks.abilities import century_copying, indirect_object, subject_verb_number
from tasks.other_twins import with_twins
from tasks.plain_sentences import plain_sentences
from utils import cutoff_sharpness, draw_sentences, greater_than, log_odds, start_experiment, year_metrics

SOME = 194  # of each 490 sentences, for tests with hundreds of evaluations: two of each YY
FEW = 97  # for tests with thousands: one of each YY

# %% Which sentences, and which circuit? ∅, the run with everything on 01 data, is scored on the original YY.
experiment = start_experiment(settings)
run = open_run("circuit_validation", experiment)
circuit = choose_circuit(experiment, run)
print(f"circuit's heads, MLPs and links: {size_of(circuit, experiment.model.architecture)}")
engine, dataset, YY, END = experiment.engine, experiment.dataset, experiment.YY, experiment.END
paths_of = {
    "late half": lambda circuit: late_half(circuit, END),
    "full circuit": lambda circuit: full_circuit(circuit, YY, END),
}
parts = {part: of(circuit) for part, of in paths_of.items()}
drawn_of_each = experiment.clusters, ("nouns", "YYs")
scale = Scale.of(engine, experiment.metric, *drawn_of_each, most=1)


def on(rows: slice | torch.Tensor) -> tuple[Engine, Scale]:
    """Some of the sentences alone, and their scale."""
    own = replace(
        scale,
        metric=greater_than(dataset.years_YY[rows]),
        whole=scale.whole[rows],
        nothing=scale.nothing[rows],
        clusters=[each[rows] for each in experiment.clusters],
    )
    return engine.like(engine.sentences.rows(rows)), own


times = max(1, len(dataset) // 490)
(engine_of_some, scale_of_some), (engine_of_few, scale_of_few) = (on(slice(each * times)) for each in (SOME, FEW))
verdicts, evaluations = Verdicts(run), Evaluations(run, dataset.as_table(), year_metrics())
clean = evaluations.note("clean", engine.clean(), "clean")["probability_difference"]
UNMEASURED = "not measured, since the span is zero"
tokenizer = load_tokenizer()
years = get_valid_years(tokenizer, as_published=settings.as_published)


def save(name: str, rows: list[dict[str, object]], **about: str) -> None:
    """Stage one of the tables that the figures show, if it has a row."""
    if rows:
        run.save_table(
            f"validation_{name}.csv", [pd.DataFrame(rows)], kind=f"validation_{name}", **{"nan": UNMEASURED, **about}
        )


# %% Does the circuit alone do what the model does, and can the model do it without the circuit?
if "faithfulness" in settings.only:
    evaluations.note("corrupted", engine.corrupted(), "all on 01 data", clean=clean)
    sharp = Scale.of(engine, partial(cutoff_sharpness, start_yy=dataset.years_YY), *drawn_of_each)
    odds = Scale.of(engine, partial(log_odds, start_yy=dataset.years_YY), *drawn_of_each)
    apart, found = divergence_scale(engine, *drawn_of_each), []
    for part, paths in parts.items():
        evaluations.note(as_key(part), engine.isolate(paths), part, clean=clean)
        evaluations.note(f"{as_key(part)}/without", engine.patch(paths), f"all but the {part}", clean=clean)
        of_difference, of_sharpness = (faithfulness(engine, each, paths, part) for each in (scale, sharp))
        of_odds = faithfulness(engine, odds, paths, f"{part}, log odds of valid years")
        of_divergence = divergence(engine, apart, paths, part)
        found += [*of_difference.verdicts(), of_odds.verdict(), *of_divergence.verdicts()]
        key = f"faithfulness/{as_key(part)}"
        verdicts.measure(f"{key}/cutoff_sharpness", of_sharpness.normalized, f"{part}: F of the cutoff sharpness")
        verdicts.measure(
            f"{key}/log_odds/complement", of_odds.complement, f"{part}: F of the log odds of the complement"
        )
        if scale.largest is not None:
            run.note(f"{key}/largest", scale.largest, f"{part}: the largest possible F")
        run.note(f"{key}/kl_divergence", of_divergence.alone, f"{part}: KL divergence from the model, in nats")
        run.note(
            f"{key}/kl_divergence/nothing", of_divergence.nothing, f"{part}: KL divergence of ∅ from the model, in nats"
        )
        by_sentence = {f"{share:.0%}": value for share, value in spread(of_difference.each).items()}
        if of_difference.each.isfinite().any():
            run.note(f"{key}/of_sentences", by_sentence, f"{part}: quantiles of F over the sentences")
    verdicts.note("faithfulness", found)

# %% Is it the same with other sentences? Nouns and centuries are drawn anew; the YYs are the same, 02 … 98 in turn.
if "seeds" in settings.only:

    def of_seed(seed: int) -> tuple[list[float], str]:
        """F of each part on one data set, and what its scale doubts; its activations go with it."""
        drawn = draw_sentences(replace(settings, seed=seed), balanced=True)
        of_drawn = experiment.engine_for(drawn)
        own = Scale.of(of_drawn, greater_than(drawn.years_YY), clusters_of(drawn.as_table()), drawn_of_each[1])
        alone = measured(of_drawn, [Request.isolate(paths) for paths in parts.values()], [own.metric])[0]
        return own.of_means(alone).tolist(), own.doubt

    of_seeds, doubts = zip(*map(of_seed, range(settings.seed, settings.seed + settings.seeds)), strict=True)
    by_seed = dict(zip(parts, zip(*of_seeds, strict=True), strict=True))
    for part, values in by_seed.items():
        if all(map(math.isfinite, values)):
            run.note(f"seeds/{as_key(part)}", [*values], f"{part}: F on each of {settings.seeds} data sets")
    remark, doubt = "nouns and centuries drawn anew, the same YYs", next(filter(None, doubts), "")
    verdicts.note(
        "seeds", [judge("seeds", max(each) - min(each), part, remark, doubt) for part, each in by_seed.items()]
    )

# %% Do random circuits of its shape do less? From any layers, and with as many heads in each layer.
if "random" in settings.only:
    rows, found, none_drawn = [], [], {}
    for part, of in paths_of.items():
        for kind in DRAWS:
            try:
                beside = matched(engine_of_few, scale_of_few, circuit, of, kind, part, settings.circuits, settings.seed)
            except UserError as none:
                none_drawn[f"{part}, {kind}"] = str(none)
                continue
            found += beside.verdicts()
            own = {"part": part, "kind": kind, "drawn": False, "alone": beside.own_alone, "without": beside.own_without}
            pairs = zip(beside.alone.tolist(), beside.without.tolist(), strict=True)
            rows += [own, *(own | {"drawn": True, "alone": alone, "without": without} for alone, without in pairs)]
    save("random", rows)
    verdicts.note("random", found, none_drawn)

# %% Is every node and every link of it needed?
if "minimality" in settings.only:
    of_nodes, of_links, found = [], [], []
    for part, paths in parts.items():
        lost = minimality(engine_of_some, scale_of_some, paths, YY, END, part, circuit.placed)
        beside = beside_random_links(
            engine_of_some, scale_of_some, circuit, paths_of[part], lost, YY, END, seed=settings.seed
        )
        found += [*lost.verdicts(), beside.verdict()]
        for node in lost.nodes:
            ends = columns(alone=node.alone, given_class=node.given_class)
            told = {"part": part, "node": node.name, "class": node.node_class}
            of_nodes.append(told | {"needed": node.needed, "redundant": node.redundant} | ends)
        for link in lost.links:
            both = {"alone": link.alone} | ({} if link.given_class is None else {"given_class": link.given_class})
            told = {"part": part, **asdict(link.link), "needed": link.needed, "redundant": link.redundant}
            less = {"random_less": beside.less(link.link), "random_drawn": len(beside.others[link.link])}
            of_links.append(told | less | columns(**both))
        if lost.idle_links is not None:
            words = f"{part}: what F loses without all links that are not needed"
            verdicts.measure(f"minimality/{as_key(part)}/idle_links", lost.idle_links, words)
    save("nodes", of_nodes)
    save("links", of_links, nan="a link that is needed alone is not removed after its class")
    verdicts.note("minimality", found)

# %% Is nothing left out that takes over when nodes are removed?
if "completeness" in settings.only:
    rows, found = [], []
    for part, paths in parts.items():
        complete = completeness(
            engine_of_some, scale_of_some, paths, YY, END, part, settings.seed, placed=circuit.placed
        )
        found += complete.verdicts()
        for gap in complete.gaps:
            ends = {"model": gap.model, "circuit": gap.circuit} | columns(gap=gap.gap)
            rows.append({"part": part, "removed": gap.removed, "nodes": " ".join(gap.nodes)} | ends)
    save("completeness", rows, nan="nothing is removed")
    verdicts.note("completeness", found)

# %% Does it depend on the counterfactual? Other twins, two of them controls, and mean and zero ablation.
if "counterfactuals" in settings.only:
    schemes, no_twins = [Scheme("01", engine_of_some)], {}
    for name in ("another YY", "another century", "another noun"):
        try:
            twins = with_twins(dataset, name, years, tokenizer, settings.seed)
        except UserError as none:
            no_twins[name] = str(none)
        else:
            of_some = experiment.engine_for(twins).sentences.rows(slice(SOME * times))
            schemes.append(Scheme(name, engine.like(of_some), control=name != "another YY"))
    schemes += [Scheme(f"{data} ablation", engine_of_some, data) for data in ("mean", "zero")]
    compared = compare(schemes, scale_of_some, circuit, parts, END)
    verdicts.note("counterfactuals", [verdict for each in compared for verdict in each.verdicts()], no_twins)
    rows = []
    for each in compared:
        told = {"scheme": each.name, "control": each.control, "too_weak": each.too_weak, "of": each.of}
        told |= {"rank_correlation": each.rank_correlation, "leading": " ".join(each.leading)}
        of_parts = {as_key(part): estimate for part, estimate in each.faithfulness.items()}
        rows.append(told | columns(span=each.span, share_of_01=each.of_first, **of_parts))
    save("counterfactuals", rows, nan="all effects of the sweep are equal, or the span is zero")

# %% How good is the best circuit of each size? One half of the sentences ranks nodes, F is measured on the other.
if "sizes" in settings.only and len(dataset) < 2:
    verdicts.note("sizes", [], {"sizes": "how good is the best circuit of each size? One sentence has no two halves"})
elif "sizes" in settings.only:
    ranking, held_out = halves(len(engine_of_some.sentences), settings.seed)
    (ranked, scale_of_ranked), (evaluated, scale_of_half) = on(ranking), on(held_out)
    order = ranked_nodes(ranked, scale_of_ranked.metric, END)
    curve = size_curve(evaluated, scale_of_half, order, END)
    by_chance = random_curve(evaluated, scale_of_half, END, seed=settings.seed)
    point = on_curve(evaluated, scale_of_half, order, circuit, END)
    verdicts.note("sizes", point.verdicts())
    for name, each in {"by_effect": curve, "at_random": by_chance}.items():
        words = f"nodes added {name.replace('_', ' ')}"
        verdicts.measure(f"sizes/{name}/cpr", each.cpr, f"{words}: CPR, the area under F")
        verdicts.measure(f"sizes/{name}/cmd", each.cmd, f"{words}: CMD, the area between F and 1")
    run.note("sizes/circuit/nodes", point.size, "nodes of the circuit at END")
    verdicts.measure(
        "sizes/circuit/faithfulness", point.own, "F of the circuit's late half, on the evaluated half of the sentences"
    )
    three = zip(curve.sizes, curve.faithfulness, by_chance.faithfulness, strict=True)
    save("sizes", [{"nodes": size, "by_effect": one, "at_random": other} for size, one, other in three])

# %% Is it found again? The search by rule, on draws of the nouns and years, at several thresholds.
if "stability" in settings.only:
    n_few, clusters_of_few = len(engine_of_few.sentences), scale_of_few.clusters
    weights = sentence_weights(n_few, settings.seed, clusters_of_few, settings.bootstraps)
    effects = remembered_effects(engine_of_few, scale_of_few.metric)
    try:
        doubt = too_few(n_few, clusters_of_few, drawn_of_each[1])
        searches = stability(effects, weights, YY, END, settings.thresholds, doubt=doubt)
    except UserError as none:
        verdicts.note("stability", [], {"searches": f"is it found again? {none}"})
    else:
        judged_at = searches.judged_at(circuit)
        run.note("stability/threshold", judged_at, "threshold of the search that is judged, as a share of clean")
        verdicts.note("stability", searches.verdicts(circuit))
        rows = []
        for at in searches.named_as(circuit):
            told = {"threshold": at.threshold, "followed": at.followed}
            rows += [told | {"node": node, "share": share} for node, share in at.membership.items()]
        save("membership", rows)

# %% Does a stronger patch do more?
if "strength" in settings.only:
    late = parts["late half"]
    graded = strengths(engine_of_some, scale_of_some, late, members(late, YY, END), "late half")
    verdicts.note("strength", [verdict for each in graded for verdict in each.verdicts()])
    rows = []
    for each in graded:
        for alpha, mean in zip(each.alphas, each.means, strict=True):
            rows.append({"subject": each.subject, "alpha": alpha} | columns(probability_difference=mean))
    save("strength", rows)

# %% Is it the circuit of greater-than alone? Other abilities without it, and greater-than without their circuits.
if "specificity" in settings.only:
    abilities, without = [Ability("greater-than", engine, scale, circuit, END)], {}
    others = [century_copying(dataset, years, tokenizer, settings.seed)]
    if is_gpt2_small(experiment.model):
        others += [ask(tokenizer, settings.n, settings.seed) for ask in (indirect_object, subject_verb_number)]
    else:
        without["other abilities"] = "indirect objects, subject–verb number and plain sentences need GPT-2 small"
    for data in others:
        some = data.first(FEW)
        try:
            own_circuit = find_circuit(experiment.engine_for(some), some.log_odds, some.yy_position, some.end).circuit
        except UserError as none:
            without[data.name] = f"{data.name}: {none}"
        else:
            asked = experiment.engine_for(data)
            scale_of_data = Scale.of(asked, data.metric, data.clusters, tuple(f"{column}s" for column in data.drawn))
            abilities.append(Ability(data.name, asked, scale_of_data, own_circuit, data.end))
    table = dissociation(abilities, random.Random(settings.seed))
    rows = []
    for (ability, impeded), lost in table.losses.items():
        chance = table.by_chance.get((ability, impeded))
        if chance is None:
            why = f"{ability} without random circuits like that of {impeded}: there are none"
            without[f"{ability} without {impeded}"] = why
        both = {"lost": lost} | ({"lost_by_chance": chance} if chance is not None else {})
        rows.append({"ability": ability, "circuit": impeded} | columns(**both))
    verdicts.note("specificity", table.verdicts(), without)
    save("specificity", rows, nan="there is no random circuit of this shape")
    if is_gpt2_small(experiment.model):
        plain = plain_sentences(tokenizer)
        asked = experiment.engine_for(plain)
        circuits = {each.name: each.circuit for each in abilities}
        for name, moved in disturbance(asked, divergence_scale(asked), circuits, plain.end).items():
            words = f"plain sentences: KL divergence with the circuit of {name} mean-ablated, in nats"
            run.note(f"specificity/plain_sentences/{as_key(name)}", moved, words)

# %% Do its nodes add up? And what do its MLPs do directly, and what through later ones?
if "interactions" in settings.only:
    late = parts["late half"]
    together = interactions(engine, scale, late, members(late, YY, END))
    verdicts.note("interactions", together.verdicts("points"))
    alone = [{"one": name, "other": name} | columns(effect=each) for name, each in together.alone.items()]
    pairs = [{"one": a, "other": b} | columns(effect=each) for (a, b), each in together.pairs.items()]
    save("interactions", alone + pairs)
    for mlp, shares_of in mlp_shares(engine, scale, circuit, END).items():
        words = f"effect of {mlp}, as a share of clean"
        verdicts.measure(f"interactions/{mlp}/direct", shares_of.direct, f"direct {words}")
        if shares_of.indirect is not None:
            verdicts.measure(f"interactions/{mlp}/indirect", shares_of.indirect, f"indirect {words}")

# %% Everything ran: publish it.
verdicts.save()
evaluations.save()
run.publish()
