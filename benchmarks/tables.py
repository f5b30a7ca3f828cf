"""Numbers as cells of Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def seconds(value: float) -> str:
    """A time to three digits."""
    return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"


def gigabytes(value: float) -> str:
    """Memory; blank if it was not measured."""
    return "" if math.isnan(value) else f"{value:.1f} GB"


def ratio(numerator: float | None, denominator: float) -> str:
    """How many times one is the other; blank if there is no numerator."""
    return "" if numerator is None else f"{numerator / denominator:.2f}"
