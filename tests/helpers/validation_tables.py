"""What a validation leaves for its figures, made up: every number of every table differs from all others.

The columns that figures are drawn of are named here, and nowhere else in tests.
"""

from __future__ import annotations

from itertools import count, product

import pandas as pd

from path_patching.bootstrap import Estimate

CIRCUIT = "a circuit of a test"
PARTS = ("late half", "full circuit")
KINDS = ("any layers", "same layers")
NODES = ("a7.h10@END", "m8@END", "m9@END")
LOWER = ("m0@YY", "a0.h1@YY")
ABILITIES = ("greater-than", "copying centuries", "indirect objects")


def ends(*names: str) -> tuple[str, ...]:
    """The columns of estimates: values, and the ends of their intervals."""
    return tuple(f"{name}{end}" for name in names for end in ("", "_low", "_high"))


COLUMNS = {
    "sizes": ("nodes", "by_effect", "at_random"),
    "random": ("part", "kind", "drawn", "alone", "without"),
    "nodes": ("part", "node", *ends("alone", "given_class")),
    "links": ("part", "reader", "via", "sender", *ends("alone")),
    "completeness": ("part", "removed", "nodes", "model", "circuit", *ends("gap")),
    "counterfactuals": ("scheme", "control", "too_weak", "rank_correlation",
                        *ends("share_of_01", "late_half", "full_circuit")),
    "strength": ("subject", "alpha", *ends("probability_difference")),
    "specificity": ("ability", "circuit", *ends("lost", "lost_by_chance")),
    "interactions": ("one", "other", *ends("effect")),
    "membership": ("threshold", "followed", "node", "share"),
}  # fmt: skip
LINKS = (
    ("logits@END", "in", "a7.h10@END"), ("logits@END", "in", "m9@END"), ("m9@END", "in", "a7.h10@END"),
    ("a7.h10@END", "v", "m0@YY"), ("m0@YY", "in", "embeds@YY"),
)  # fmt: skip
GIVEN = {  # the columns that tell rows apart; a row each
    "sizes": [{"nodes": nodes} for nodes in (0, 1, 2, 5, 40)],
    "random": [{"part": part, "kind": kind, "drawn": drawn > 0}
               for part, kind, drawn in product(PARTS, KINDS, range(120))],
    "nodes": [{"part": part, "node": node, "class": "MLPs", "needed": True}
              for part in PARTS for node in (NODES[::-1] if part == PARTS[0] else (*LOWER, *NODES))],
    "links": [{"part": part, "reader": reader, "via": via, "sender": sender, "needed": True}
              for part in PARTS for reader, via, sender in LINKS],
    "completeness": [{"part": part, "removed": removed, "nodes": nodes} for part in PARTS for removed, nodes in (
        ("nothing", ""), ("MLPs", "m8@END m9@END"), ("nodes at random", "a7.h10@END m8@END"),
        ("nodes at random", "a7.h10@END m8@END m9@END"))],
    "counterfactuals": [{"scheme": scheme, "control": control, "too_weak": weak, "of": "01", "leading": "m9"}
                        for scheme, control, weak in (
                            ("01", False, False), ("another YY", False, False), ("another noun", True, True),
                            ("another century", True, False), ("mean ablation", False, True))],
    "strength": [{"subject": subject, "alpha": step / 4} for subject in ("late half", *NODES) for step in range(6)],
    "specificity": [{"ability": ability, "circuit": circuit} for ability, circuit in product(ABILITIES, ABILITIES)],
    "interactions": [{"one": one, "other": one} for one in NODES]
                    + [{"one": NODES[a], "other": NODES[b]} for a, b in ((0, 1), (0, 2), (1, 2))],
    "membership": [{"threshold": threshold, "followed": threshold > 0.01, "node": node}
                   for threshold in (0.001, 0.02, 0.05) for node in (*LOWER, *NODES, "a1.h1@END")],
}  # fmt: skip
NUMBERS = {
    "circuit/name": CIRCUIT,
    "sizes/circuit/nodes": 3,
    "sizes/circuit/faithfulness": Estimate(0.875, 0.8, 0.9, 49),
    "sizes/by_effect/cpr": 0.911,
    "sizes/by_effect/cmd": 0.122,
    "sizes/at_random/cpr": 0.433,
    "sizes/at_random/cmd": 0.544,
    "stability/threshold": 0.02,
}


def tables() -> dict[str, pd.DataFrame]:
    """The tables by their kind. Of NaN are what was not drawn by chance, and how often a rare node was found."""
    number = count(1)
    made = {}
    for kind, given in GIVEN.items():
        rest = [column for column in COLUMNS[kind] if column not in given[0]]
        made[kind] = pd.DataFrame([row | {column: next(number) / 1000 for column in rest} for row in given])
    found = made["membership"]
    found["share"] = [0.1 + each / 50 if node == "a1.h1@END" else 0.4 + each / 40
                      for each, node in enumerate(found["node"])]  # fmt: skip
    chance = made["specificity"]
    chance.loc[chance["ability"] == chance["circuit"], [*ends("lost_by_chance")]] = float("nan")
    return made
