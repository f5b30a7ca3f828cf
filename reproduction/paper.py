"""The circuit that the paper describes for GPT-2 small (section 3)."""

from __future__ import annotations

from path_patching.circuits.circuit import LOGITS, Circuit

PAPER = Circuit(
    name="the paper's circuit",
    mlps=("m8", "m9", "m10", "m11"),
    heads=("a5.h1", "a5.h5", "a6.h9", "a7.h10", "a8.h8", "a8.h11", "a9.h1"),
    heads_feed=(LOGITS, "m8", "m9", "m10", "m11"),
    first_below=("m0", "m1", "m2", "m3", "a0.h1", "a0.h3", "a0.h5"),
    further_below=("m0", "m1", "m2", "m3", "a0.h1"),
    studied=("a7.h10", "a8.h11", "a9.h1"),
)
