"""The table of experiments: each script, what it asks, what it makes, and which script draws it.

A new experiment is an entry here and a script of that name. The rest comes from the table: the steps of `reproduce.py`
and their order, `--only` and `--skip`, which scripts take `--circuit`, a section of the report, and the tables of
README.md, docs/artifacts.md and docs/figures.md, which this writes:

    python -m reproduction.experiments

Artifacts and figures are listed by name, or by pattern as `ipp_*.pt`, each with a condition on the settings: if it
holds, every whole run has the artifact. `lacking` and `unknown` compare a run with this list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from path_patching.files import ROOT, write_text
from reproduction.settings import PAPER_LAYER, NeuronSettings, Settings, ValidationSettings

WORDS = ("results", "report")  # of reproduce.py; they come last, since they read what all scripts made

When = Callable[[Settings], bool]  # whether every whole run with these settings has it
Made = Mapping[str, When]  # by name or pattern


def always(settings: Settings) -> bool:
    """With any settings."""
    return True


def may_lack(settings: Settings) -> bool:
    """With no settings for sure: it depends on the circuit or the model."""
    return False


def every_yy(settings: Settings) -> bool:
    """With a sentence for each YY: balanced sentences, at least 97."""
    return settings.n >= 97


def many(settings: Settings) -> bool:
    """With so many sentences that each YY has one, even if years are drawn at random."""
    return settings.n >= 10_000


def tested(test: str) -> When:
    """Where the validation makes this test."""
    return lambda settings: isinstance(settings, ValidationSettings) and test in settings.only


def papers_layer(settings: Settings) -> bool:
    """Where the neurons are those of the paper's layer."""
    return not isinstance(settings, NeuronSettings) or settings.layer in (None, PAPER_LAYER)


def papers_layer_by_yy(settings: Settings) -> bool:
    """The same, with a sentence for each YY."""
    return papers_layer(settings) and every_yy(settings)


@dataclass(frozen=True, eq=False)
class Experiment:
    """A script that asks something of a model."""

    script: str
    asks: str
    makes: Made
    """Its artifacts, without the table of its sentences, which every experiment makes."""
    evaluates_circuit: bool = False
    """Whether it takes `--circuit`."""
    drawn_by: str | None = None
    """The plotting script of its figures."""
    figures: Mapping[str, Made] = field(default_factory=dict)
    """Its figures, by what they show."""

    @property
    def artifacts(self) -> Made:
        """All of its artifacts, with the table of its sentences."""
        return {**self.makes, f"{self.script}_sentences.csv": always}

    @property
    def drawn(self) -> Made:
        """All figures of it."""
        return {name: when for made in self.figures.values() for name, when in made.items()}


def lacking(made: Made, settings: Settings, names: Collection[str]) -> tuple[str, ...]:
    """What a whole run with these settings has and `names` lack: names, and patterns that no name fits."""
    needed = (pattern for pattern, when in made.items() if when(settings))
    return tuple(pattern for pattern in needed if not any(fnmatchcase(name, pattern) for name in names))


def unknown(made: Made, names: Collection[str]) -> tuple[str, ...]:
    """The `names` that are not in the list."""
    return tuple(name for name in names if not any(fnmatchcase(name, pattern) for pattern in made))


TABLE = (
    Experiment(
        "circuit_discovery",
        "which nodes compute greater-than, and how much they achieve (section 3)",
        {
            "ipp_logits.pt": always,
            "ipp_mlp*.pt": may_lack,
            "attn_patterns_all.pt": always,
            "attn_patterns_a*.pt": may_lack,
            "attn_collated.pt": may_lack,
            "attn_[qkv].pt": may_lack,
            "results_mlp*.pt": may_lack,
            "sweep_intervals.pt": always,
            "logit_lens_*.pt": may_lack,
            "probs.pt": every_yy,
            "late_half_probs.pt": every_yy,
            "full_circuit_probs.pt": every_yy,
            "dataset.pt": always,
            "circuit.json": always,
        },
        evaluates_circuit=True,
        drawn_by="circuit_discovery_plotting",
        figures={
            "probability heatmap, and one row of it": {"probability-heatmap": every_yy, "probability-slice": every_yy},
            "direct contributions to the logits": {"logits-ipp": always},
            "contributions through the MLPs": {"mlps-ipp": may_lack, "appendix/m*-ipp": may_lack},
            "attention patterns": {
                "attn-patterns": may_lack,
                "appendix/attn_proportion": may_lack,
                "all-attention-patterns": always,
            },
            "logit lens of heads and MLPs": {"attn-logitlens": may_lack, "mlps-logitlens": may_lack},
            "inputs of the heads": {"appendix/attn_[qkv]": may_lack, "appendix/low-mlps-ipp": may_lack},
            "the circuit, drawn": {"circuit": always},
            "the late half and the full circuit alone, N = 490": {
                "late-half-probability-heatmap": every_yy,
                "appendix/full-circuit-probability-heatmap": every_yy,
            },
        },
    ),
    Experiment(
        "big_ds_experiments",
        "clean, late half, its complement and the full circuit on 10,000 sentences",
        {
            "clean_probs.pt": many,
            "patched_probs.pt": many,
            "full_patched_probs.pt": many,
            "complement_probs.pt": many,
        },
        evaluates_circuit=True,
        drawn_by="circuit_discovery_plotting",
        figures={
            "the circuit alone, 10,000 sentences": {
                "patched-probability-heatmap": many,
                "appendix/full-patched-probability-heatmap": many,
                "appendix/complement-probability-heatmap": many,
            }
        },
    ),
    Experiment(
        "neuron_investigations",
        "which neurons of an MLP do it (`--layer`)",
        dict.fromkeys(
            (
                "t10-logitlens.pt",
                "t10-direct_effects.pt",
                "t10-t10patched.pt",
                "order.pt",
                "neuron_effects.pt",
                "neuron_dataset.pt",
            ),
            always,
        ),
        drawn_by="neuron_plots",
        figures={
            "neurons of m10": {
                "top3-neurons": papers_layer_by_yy,
                "top3-neurons-directeffects": papers_layer_by_yy,
                "top10-neurons-logitlenssum": may_lack,
                "top10-neurons-directeffects": may_lack,
                "top100-neurons": may_lack,
                "appendix/neurons": may_lack,
                "appendix/neuron-ranking": papers_layer,
            },
            "neurons of another layer (`--layer`)": {"appendix/m*-*neuron*": may_lack},
        },
    ),
    Experiment(
        "sequence_generalization",
        "does the circuit compute greater-than in ten other prompts (section 5)",
        {
            "generalization/probs_[0-9].pt": always,
            "generalization/ipp_[0-9].pt": always,
            "generalization/m*_[0289].pt": may_lack,
            "generalization/late_half_probs_[0289].pt": always,
            "generalization/late_half_m7_probs_2.pt": may_lack,
        },
        evaluates_circuit=True,
        drawn_by="appendix_plots",
        figures={
            "related prompts (tasks 0, 8, 2)": {"appendix/success-probs": always, "appendix/success-ipps": always},
            "prompts without greater-than (tasks 3, 4, 5)": {
                "appendix/failure-probs": always,
                "appendix/failure-ipps": always,
            },
            "less-than prompts (tasks 6, 7)": {"appendix/bc-probs": always, "appendix/bc-ipps": always},
            "each of the ten prompts": {
                "appendix/generalization-probs-[0-9]": always,
                "appendix/generalization-ipp-[0-9]": always,
            },
            "what reaches the circuit's first MLP (the paper's: m8), and its late half alone": {
                "appendix/generalization-first-mlp-[0289]": may_lack,
                "appendix/generalization-late-half-[0289]": always,
            },
            "the list of years with m7, a6.h1 and a7.h11 (the paper's circuit only)": {
                "appendix/m7m8-ipps": may_lack,
                "appendix/generalization-late-half-m7-2": may_lack,
            },
        },
    ),
    Experiment(
        "pca_experiments",
        "how do activations hold YY, and does the model need those dimensions?",
        {"pca.pt": always, "pca_ablation.pt": always},
        evaluates_circuit=True,
        drawn_by="pca_plots",
        figures={
            "PCA of m8's input, a7.h10, a7.h8 and the YY embedding": {"pca": always},
            "ablating PCA dimensions, erasing YY with LEACE (text only in the paper)": {
                "appendix/pca-ablation": always
            },
        },
    ),
    Experiment(
        "random_circuit_ablation",
        "what do random circuits of the same shape recover?",
        {"random_circuits.pt": always},
        evaluates_circuit=True,
        drawn_by="appendix_plots",
        figures={"random circuits": {"appendix/random-circuits": always}},
    ),
    Experiment(
        "random_years",
        "what follows a list of random years?",
        {"random_years_probs.pt": always, "random_years_top5.pt": always},
    ),
    Experiment(
        "topk_years",
        "which tokens are likely before and at END?",
        {"top100_centuries.pt": always, "top5_years.pt": always},
    ),
    Experiment(
        "circuit_validation",
        "is it a circuit? What later work asks of one, with a bar for each test "
        "([docs/validation.md](docs/validation.md))",
        {
            "validation_verdicts.csv": may_lack,
            "validation_left_out.csv": may_lack,
            "validation_random.csv": may_lack,
            "validation_nodes.csv": tested("minimality"),
            "validation_links.csv": tested("minimality"),
            "validation_completeness.csv": tested("completeness"),
            "validation_counterfactuals.csv": tested("counterfactuals"),
            "validation_sizes.csv": tested("sizes"),
            "validation_membership.csv": may_lack,
            "validation_strength.csv": tested("strength"),
            "validation_specificity.csv": tested("specificity"),
            "validation_interactions.csv": tested("interactions"),
        },
        evaluates_circuit=True,
        drawn_by="validation_plots",
        figures={
            "is it a circuit? (not in the paper)": {
                "validation/sizes": tested("sizes"),
                "validation/random-*": may_lack,
                "validation/minimality-*": tested("minimality"),
                "validation/completeness-*": tested("completeness"),
                "validation/counterfactuals": tested("counterfactuals"),
                "validation/strength": tested("strength"),
                "validation/specificity": tested("specificity"),
                "validation/interactions": tested("interactions"),
                "validation/membership": may_lack,
                "validation/circuit": may_lack,
            }
        },
    ),
)
EXPERIMENTS = {each.script: each for each in TABLE}  # in the order in which they are run
PLOTS = (*dict.fromkeys(each.drawn_by for each in TABLE if each.drawn_by),)
STEPS = (*EXPERIMENTS, *PLOTS, *WORDS)  # of reproduce.py, in order


def table_of_scripts() -> str:
    """The README's table of scripts, as Markdown."""
    lines = ["| script | asks | drawn by |", "|---|---|---|"]
    lines += [f"| {_script(each.script)} | {each.asks} | {_script(each.drawn_by)} |" for each in TABLE]
    return "\n".join(lines)


def table_of_artifacts() -> str:
    """The table of artifacts of docs/artifacts.md, as Markdown."""
    lines = ["| script | makes, in `paper-cache` |", "|---|---|"]
    lines += [f"| {_script(each.script)} | {_listed(each.makes)} |" for each in TABLE]
    return "\n".join(lines)


def table_of_figures() -> str:
    """The table of figures of docs/figures.md, as Markdown."""
    lines = ["| figure of the paper | made by | file |", "|---|---|---|"]
    for each in TABLE:
        lines += [f"| {shown} | {_script(each.drawn_by)} | {_listed(made)} |" for shown, made in each.figures.items()]
    return "\n".join(lines)


def _script(name: str | None) -> str:
    return f"`{name}.py`" if name else "–"


def _listed(made: Made) -> str:
    return ", ".join(f"`{name}`" for name in made)


PAGES = {  # where each table stands
    "README.md": table_of_scripts,
    "docs/artifacts.md": table_of_artifacts,
    "docs/figures.md": table_of_figures,
}

if __name__ == "__main__":
    for page, table in PAGES.items():
        text, now = (ROOT / page).read_text(encoding="utf-8"), table()
        header, _, _ = now.partition("\n")
        _, old, _ = re.split(rf"(?m)^({re.escape(header)}(?:\n\|.*)*)$", text)
        write_text(ROOT / page, text.replace(old, now))
