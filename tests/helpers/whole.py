"""A whole synthetic reproduction with a circuit, whose every number is known: what a report is made of."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import torch

from path_patching.bootstrap import Estimate
from path_patching.circuits.validation.verdicts import judge
from path_patching.files import ROOT
from reproduction.circuit_layout import sender_of
from reproduction.claims import read_claims
from reproduction.paper import PAPER
from reproduction.run import start_run
from reproduction.settings import Settings
from reproduction.verdicts import Verdicts
from tests.helpers.drawn import publish
from tests.helpers.made import MODEL, draw_figures, measured, publish_experiments
from tests.helpers.scripts import output, run_script

PROMPT = ["<|endoftext|>", "The", "NOUN", "lasted", "from", "the", "year", "XX1", "YY", "to", "the", "year", "XX2"]
EFFECTS = {link: -0.3 / (place + 1) for place, link in enumerate(PAPER.links)}
FIGURES = {  # with the artifact that each shows
    "logits-ipp": "ipp_logits.pt",
    "attn-patterns": "",
    "appendix/three": "",
    "mlps-ipp": "ipp_mlp9.pt",
    "appendix/generalization-probs-1": "",
    "patched-probability-heatmap": "patched_probs.pt",
}
REPEATED = {  # the same by itself, and on other sentences
    "appendix/m9-ipp": "ipp_mlp9.pt",
    "late-half-probability-heatmap": "late_half_probs.pt",
}


def sweep_of(**effects: float) -> torch.Tensor:
    """A sweep (12, 13) in which these nodes (`a9_h1`, `m10`) have an effect, and no other."""
    table = torch.zeros(12, 13, dtype=torch.float64)
    for name, effect in effects.items():
        layer, _, head = name[1:].partition("_h")
        table[int(layer), int(head) if head else 12] = effect
    return table


SWEEPS = {
    "ipp_logits.pt": (
        sweep_of(m10=-0.3, a9_h1=-0.041, m8=0.02),
        {"of": "logits", "receiver": "logits", "position": "END"},
    ),
    "ipp_mlp9.pt": (sweep_of(a9_h1=-0.0625, m8=0.01), {"of": "mlp", "receiver": "m9", "position": "END"}),
    "attn_v.pt": (sweep_of(m0=-0.2, a9_h1=-0.5), {"of": "heads", "through": "v", "position": "YY"}),
}


LONG = f"0 of 149 drawn do as much; it has {', '.join(['m8@END'] * 60)}"  # a remark
ENDS = (-0.07, -0.055)  # of the effects on m9


def publish_whole(folder: Path) -> None:
    """Artifacts of every experiment; circuit_discovery's and circuit_validation's are told apart."""
    publish_experiments(folder)
    patterns = torch.full((12, 12, 20, 13, 13), 0.01)
    patterns[9, 1, :, -1, 8] = 0.88
    patterns[8, 11, :, -1, 12] = 0.7
    rising = (torch.arange(100)[None] > torch.arange(2, 99)[:, None]).double()  # (97, 100): later years are raised
    links = [
        {"reader": link.reader, "via": link.via, "sender": link.sender, "effect": effect}
        for link, effect in EFFECTS.items()
    ]
    artifacts = {name: (table, {"kind": "sweep"} | about) for name, (table, about) in SWEEPS.items()} | {
        "intervals.pt": ({"ipp_mlp9.pt": torch.tensor(ENDS).repeat(12, 13, 1)}, {"kind": "sweep_intervals"}),
        "attn_patterns_all.pt": ({"patterns": patterns, "prompt": PROMPT}, {"kind": "attention_of_all_heads"}),
        "attn_patterns_a9.h1.pt": (patterns[9, 1, 0] / 2, {"kind": "attention", "node": "a9.h1"}),  # of all sentences
        "lens.pt": (rising, {"kind": "logit_lens", "of": "mlp", "node": "m10"}),
        **{
            f"{name}_probs.pt": (torch.zeros(97, 100), {"kind": "probabilities", "evaluation": "late_half"})
            for name in ("patched", "late_half")
        },
        "circuit.json": ({"name": PAPER.name, "links": links}, {"kind": "circuit"}),
    }
    claims = [claim for claim in read_claims() if claim.script == "circuit_discovery"]
    numbers = {claim.key: measured(claim, 0.0) for claim in claims}
    publish("circuit_discovery", folder, artifacts, numbers, circuit=PAPER)
    validated = start_run("circuit_validation", Settings(model=MODEL.name, out=folder), MODEL, "torch", "cpu")
    validated.note_circuit(PAPER)
    row = {"part": "late half", "node": "a9.h1@END", "class": "heads", "needed": True}
    ends = {"alone": 0.21, "alone_low": 0.2, "alone_high": 0.22}
    given = {"given_class": 0.31, "given_class_low": 0.3, "given_class_high": 0.32}
    validated.save_table("validation_nodes.csv", [pd.DataFrame([row | ends | given])], kind="validation_nodes")
    link = {"part": "late half", "reader": "logits@END", "via": "in", "sender": "m10@END", "needed": True}
    not_asked = dict.fromkeys(given, math.nan)
    links = pd.DataFrame([link | ends | not_asked])
    validated.save_table("validation_links.csv", [links], kind="validation_links", nan="not asked")
    verdicts = Verdicts(validated)
    unjudged = Estimate(0.9, 0.9, 0.9, 1, doubt="1 sentence")
    verdicts.note("faithfulness", [judge("faithfulness", Estimate(0.9, 0.85, 0.95, 490), "late half"),
                                   judge("complement", Estimate(0.5, 0.4, 0.6, 490), "late half"),
                                   judge("faithfulness", unjudged, "full circuit")])  # fmt: skip
    verdicts.note("random", [judge("random", 1 / 150, "late half", LONG)])  # 0.0133 if corrected
    without = "greater-than without the circuit of"
    verdicts.note("specificity", [judge("own_loss", 0.8, f"{without} greater-than"),
                                  judge("other_loss", 0.5, f"{without} copying")])  # fmt: skip
    verdicts.note("counterfactuals", [judge("control", 0.5, "another noun")])
    verdicts.note("stability", [], {"searches": "is it found again? <none> of it"})
    verdicts.save()
    validated.publish()


def make_whole(folder: Path) -> Path:
    """The same with figures, results and the report, whose path is returned."""
    artifacts, plots = folder / "artifacts", folder / "plots"
    publish_whole(artifacts)
    draw_figures(artifacts, plots, REPEATED | FIGURES)
    for word in ("results", "report"):
        output(run_script(ROOT / "reproduce.py", word, "--artifacts", str(artifacts), "--out", str(plots)))
    return plots / "report.html"


def labels_of_circuit() -> set[str]:
    """Every box of the drawing."""
    return {name for link in PAPER.links for name in (link.reader, sender_of(link))}
