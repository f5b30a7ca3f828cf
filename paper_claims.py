"""Every number of the paper, and every fact of its figures that a run can be held to, in the order of its sections.

What the paper does not give, and a reader may want beside the rest, is listed without it. The tolerances are ours: a
few points for means over other sentences than the paper's, of which it does not release the seeds; more where it says
“about”. That heads mostly raise YY itself, and m9 and m10 the years above it, is read off its figures.
"""

from __future__ import annotations

import math

from circuit import PAPER
from claims import Claim, LeadingNodes, Stated, Unit, with_unit


def _near(value: float, tolerance: float, unit: Unit = "%", about: str = "") -> Stated:
    return Stated(f"{about}{with_unit(value, unit)} ± {100 * tolerance:g}", value - tolerance, value + tolerance)


_ABOUT, _SD = "about ", "standard deviation"
_MOSTLY = Stated("mostly", 0.5, 1.0)
_ABOVE_ZERO, _BELOW_ZERO = Stated("above 0", 0.0, math.inf), Stated("below 0", -math.inf, 0.0)
_DISCOVERY, _BIG, _NEURONS = "circuit_discovery", "big_ds_experiments", "neuron_investigations"
_TASKS, _PCA, _RANDOM = "sequence_generalization", "pca_experiments", "random_circuit_ablation"

_MODEL = tuple(
    Claim("the model", *each)
    for each in (
        ("probability difference", _BIG, "clean: probability difference", _near(0.817, 0.03)),
        (f"probability difference, {_SD}", _BIG, f"clean: probability difference, {_SD}"),
        ("cutoff sharpness", _BIG, "clean: cutoff sharpness", _near(0.06, 0.015, about=_ABOUT)),
        (f"cutoff sharpness, {_SD}", _BIG, f"clean: cutoff sharpness, {_SD}"),
        ("probability difference, all on 01 data", _BIG, "all on 01 data: probability difference"),
        ("before XX2, probability of centuries from XX1 on", "topk_years",
         "before XX2, top 100: probability of centuries from XX1 on"),
        ("before XX2, probability of XX1", "topk_years", "before XX2, top 100: probability of XX1"),
        ("at END, probability of years from YY on among the 5 likeliest tokens", "topk_years",
         "at END, top 5: probability of years from YY on"),
        ("at END, how many of these 5 are years from YY on", "topk_years",
         "at END, top 5: how many are years from YY on", None, ""),
        ("after five random years, probability of YY5 + 1", "random_years", "probability of YY5 + 1"),
        ("after five random years, probability of all later years", "random_years",
         "probability of years later than YY5"),
        ("after five random years, probability of the other years", "random_years",
         "probability of years not later than YY5"),
    )
)  # fmt: skip

_CIRCUIT = tuple(
    Claim("the circuit, alone and impeded", *each, of_circuit=True)
    for each in (
        ("late half alone, probability difference", _BIG, "late half alone: probability difference",
         _near(0.727, 0.03)),
        ("late half alone, share of clean", _BIG, "late half alone: probability difference, share of clean",
         _near(0.895, 0.03)),
        ("late half alone, cutoff sharpness", _BIG, "late half alone: cutoff sharpness",
         _near(0.08, 0.02, about=_ABOUT)),
        ("all but the late half, probability difference", _BIG, "all but the late half: probability difference",
         _near(-0.366, 0.05)),
        ("full circuit alone, probability difference", _BIG, "full circuit alone: probability difference",
         _near(0.715, 0.03)),
        ("full circuit alone, share of clean", _BIG, "full circuit alone: probability difference, share of clean"),
        ("full circuit alone, cutoff sharpness", _BIG, "full circuit alone: cutoff sharpness"),
        ("share of the late half lost with its heads' queries and keys on 01 data", _BIG,
         "queries and keys on 01 data cost, as a share of the late half", _near(0.15, 0.05, about=_ABOUT)),
        ("random circuits that recover less", _RANDOM, "random circuits that recover less"),
        ("its heads and MLPs", _DISCOVERY, "circuit's heads and MLPs"),
    )
)  # fmt: skip

_NODES = "the strongest nodes, effects in points"
_BELOW_M8 = ("a5.h1", "a5.h5", "a6.h9", "a7.h10", "a8.h8", "a8.h11")
_SWEEPS = (
    LeadingNodes(_NODES, "on the logits", "ipp_logits.pt", ("m8", "m9", "m10", "m11", "a9.h1"), 4),
    *(
        LeadingNodes(_NODES, *each, of_circuit=True)
        for each in (
            ("through m11", "ipp_mlp11.pt"),
            ("through m10", "ipp_mlp10.pt"),
            ("through m9", "ipp_mlp9.pt"),
            ("through m8", "ipp_mlp8.pt"),
            ("at END, through the heads' queries", "attn_q.pt"),
            ("at YY, through the heads' keys", "attn_k.pt"),
            ("at YY, through the heads' values", "attn_v.pt", (*PAPER.lower,), 5),
            ("at YY, through m3 and the values", "results_mlp3.pt"),
            ("at YY, through m2 and the values", "results_mlp2.pt"),
            ("at YY, through m1 and the values", "results_mlp1.pt"),
        )
    ),
    *(
        LeadingNodes(_NODES, *each, of_circuit=True, heads_only=True)
        for each in (
            ("heads alone, through m9", "ipp_mlp9.pt", ("a9.h1",), 1),
            ("heads alone, through m8", "ipp_mlp8.pt", _BELOW_M8, 4),
        )
    ),
)

_PARTS = tuple(
    Claim("heads, MLPs and neurons by themselves", number, script, number, *more)
    for script, number, *more in (
        *((_DISCOVERY, f"attention of {head} from END to YY") for head in PAPER.studied[:2]),
        *((_DISCOVERY, f"logit lens of {head}: YY is the highest year", _MOSTLY) for head in PAPER.studied),
        (_DISCOVERY, "logit lens of m8: YY is the highest year"),
        (_DISCOVERY, "logit lens of m9: years above YY minus the others", _ABOVE_ZERO, ""),
        (_DISCOVERY, "logit lens of m10: years above YY minus the others", _ABOVE_ZERO, ""),
        (_DISCOVERY, "logit lens of m11: years above YY minus the others", None, ""),
        (_NEURONS, "direct effect of m10", None, "points"),
        (_NEURONS, "direct effects of its neurons, summed", None, "points"),
        (_NEURONS, "share of that sum in the strongest 10"),
        (_NEURONS, "mean |year logit| lost, strongest neurons patched together", None, ""),
        (_NEURONS, "the same, patched alone and summed", None, ""),
    )
)

_CHANGE, _CONTROLS = "change in probability difference", "the same of controls"
_CLASSES, _NUMBER, _TOP2 = "LEACE, YY as classes", "LEACE, YY as a number", "PCA, top 2"
_EDITED = tuple(
    Claim("activations edited, in points", f"{place}: {by}, {edit}", _PCA, f"{place}: {by}, {edit}", stated, "points")
    for place, by, edit, stated in (
        ("input of m8 at END", _CHANGE, _CLASSES, _near(-0.17, 0.05, "points", _ABOUT)),
        ("input of m8 at END", _CONTROLS, _CLASSES, None),
        ("input of m8 at END", _CHANGE, _NUMBER, None),
        ("input of m8 at END", _CHANGE, _TOP2, Stated("little (± 5)", -0.05, 0.05)),
        ("input of m8 at END", _CONTROLS, _TOP2, None),
        ("output of a7.h10 at END", _CHANGE, _CLASSES, None),
        ("output of a7.h10 at END", _CHANGE, _TOP2, None),
        ("output of a7.h8 at END", _CHANGE, _CLASSES, None),
        ("output of a7.h8 at END", _CHANGE, _TOP2, None),
        ("embedding of YY", _CHANGE, _CLASSES, None),
        ("embedding of YY", _CHANGE, _TOP2, None),
    )
)

_OTHER = "other prompts"
_PROMPTS = (
    "started … ended", "some years later", "a list of years", "a falling list of years", "an arithmetic progression",
    "is smaller than", "ended … started", "years BC", "prices", "five random years",
)  # fmt: skip
_TASK_NAMES = tuple(f"task {number} ({prompt})" for number, prompt in enumerate(_PROMPTS))
_OTHER_PROMPTS = (
    *(
        Claim(_OTHER, f"{_TASK_NAMES[task]}, {what}", _TASKS, f"task {task}, {what}", stated, of_circuit=True)
        for task, what, stated in (
            (0, "late half: share of clean", _near(0.988, 0.05)),
            (8, "late half: share of clean", _near(0.889, 0.05)),
            (2, "late half: share of clean", _near(0.678, 0.05)),
            (2, "late half with m7, a6.h1 and a7.h11: share of clean", _near(0.903, 0.05)),
            (9, "late half: share of clean", None),
        )
    ),
    *(
        Claim(
            _OTHER, f"{name}, probability difference", _TASKS, f"task {task}: probability difference",
            _BELOW_ZERO if task in (6, 7) else None,
        )
        for task, name in enumerate(_TASK_NAMES)
    ),
    *(
        LeadingNodes(f"{_OTHER}, {_NODES}", f"on the logits in {name}", f"generalization/ipp_{task}.pt", script=_TASKS)
        for task, name in enumerate(_TASK_NAMES)
    ),
)  # fmt: skip

CLAIMS: tuple[Claim | LeadingNodes, ...] = (*_MODEL, *_CIRCUIT, *_SWEEPS, *_PARTS, *_EDITED, *_OTHER_PROMPTS)
