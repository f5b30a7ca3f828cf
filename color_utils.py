"""Colour scales for heatmaps: the colours, the lowest and highest value, and the title of the colour bar.

Ranges come from the data. They contain all of it, or the colour bar says that they do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from plotly import colors

BLUES = tuple(colors.sequential.Blues)
# Plotly's own middle is a light grey, which would make a value of zero look like a small effect.
RED_WHITE_BLUE = (*colors.diverging.RdBu[:5], "rgb(255,255,255)", *colors.diverging.RdBu[6:])
MISSING = "rgb(200,200,200)"  # cells without a value; neither scale contains grey
STEPS = ("1", "1.2", "1.5", "2", "2.5", "3", "4", "5", "6", "8", "10")


@dataclass(frozen=True)
class ColourScale:
    """Colours from the value `low` to the value `high`; `title` says what the values are, with their unit."""

    title: str
    colours: Sequence[str]
    low: float
    high: float


def sequential(values: np.ndarray, title: str, share: float = 1.0, least: float = 0.0) -> ColourScale:
    """White to blue from zero to a round number that no value exceeds: for probabilities and attention.

    With a `share` below one, only this share of the values has to lie below it. It never ends below `least`.
    """
    finite = values[np.isfinite(values)]
    bound = round_up(float(np.quantile(finite, share)) if finite.size else 0.0)
    return ColourScale(title, BLUES, 0.0, max(least, bound))


def diverging(values: np.ndarray, title: str, least: float = 0.0) -> ColourScale:
    """Red below zero, white at zero, blue above, equally far to both sides: for changes and logits.

    It never ends below `least`.
    """
    bound = max(least, round_up(float(np.max(np.abs(values), where=np.isfinite(values), initial=0.0))))
    return ColourScale(title, RED_WHITE_BLUE, -bound, bound)


def round_up(value: float) -> float:
    """The next number at or above `value` with a short decimal form, for the end of a colour bar; 1 for zero."""
    if value <= 0:
        return 1.0
    exponent = math.floor(math.log10(value))
    return next(bound for step in STEPS if (bound := float(f"{step}e{exponent}")) >= value)
