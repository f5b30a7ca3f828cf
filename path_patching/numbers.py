"""The one style of numbers with units: `81.7 %`, `−1.9 points [−2.5, −1.4]`, `2.35`.

A unit is `%` (a share of one), `points` (a change of one, in hundredths) or empty (a plain number).

    >>> shown(Estimate(0.817, 0.802, 0.831, 97), "%")
    '81.7 % [80.2, 83.1]'
    >>> with_unit(-0.0191, "points"), with_unit(2.345, ""), with_unit(0.0012, "")
    ('−1.9 points', '2.35', '0.001')
    >>> precisely(0.000123, "%"), precisely(-0.625, "points")
    ('0.0123 %', '−62.5 points')
"""

from __future__ import annotations

import math

from path_patching.bootstrap import Estimate

HUNDREDTHS = ("%", "points")  # what is measured in ones, and shown in hundredths


def with_unit(value: float, unit: str, digits: int | None = None) -> str:
    """A number with its unit: 81.7 %, −17.0 points, 2.35."""
    return f"{in_unit(value, unit, digits)} {unit}".rstrip()


def in_unit(value: float, unit: str, digits: int | None = None) -> str:
    """A number in a unit, without its name: one digit of hundredths, two of a plain number; of a tiny one its first.

    `digits` behind the point, if another number of them is asked for.
    """
    if digits is None and unit not in HUNDREDTHS and 0 < abs(value) < 0.005:
        return f"{value:.1g}".replace("-", "−")
    if digits is None:
        digits = 1 if unit in HUNDREDTHS else 2
    scaled = 100 * value if unit in HUNDREDTHS else value
    rounded = round(scaled, digits)
    return f"{rounded + 0.0:.{digits}f}".replace("-", "−")  # a sum with 0.0 is never −0.0


def shown(measured: float | Estimate, unit: str, digits: int | None = None) -> str:
    """A measurement with its unit and, where it has one, its 95 % interval; the plain one where that differs."""
    if not isinstance(measured, Estimate):
        return with_unit(measured, unit, digits)
    text = f"{with_unit(measured.value, unit, digits)} {_interval(measured.low, measured.high, unit, digits)}"
    if measured.plain_low is None or measured.plain_high is None:
        return text
    return f"{text}, plain {_interval(measured.plain_low, measured.plain_high, unit, digits)}"


def precisely(measured: float | Estimate, unit: str) -> str:
    """The same with three digits or more of the number, up to the sixth behind the point of one."""
    value = abs(measured.value if isinstance(measured, Estimate) else measured)
    least, most, times = (1, 4, 100) if unit in HUNDREDTHS else (2, 6, 1)
    digits = 2 - math.floor(math.log10(times * value)) if value else least
    return shown(measured, unit, min(max(digits, least), most))


def _interval(low: float, high: float, unit: str, digits: int | None) -> str:
    return f"[{in_unit(low, unit, digits)}, {in_unit(high, unit, digits)}]"
