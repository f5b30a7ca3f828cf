"""The one style of numbers with units: `81.7 %`, `−1.9 points [−2.5, −1.4]`, `2.35`.

A unit is `%` (a share of one), `points` (a change of one, in hundredths) or empty (a plain number).
"""

from __future__ import annotations

from collections.abc import Mapping

from path_patching.bootstrap import Estimate

HUNDREDTHS = ("%", "points")  # what is measured in ones, and shown in hundredths


NAMED: Mapping[str, tuple[str, ...]] = {  # the numbers of a record that have a unit, by the last part of their keys
    "%": ("share_of_clean", "share_lost", "share_of_sum", "recover_less", "probability", "end_to_yy", "yy_is_highest",
          "share_of_variance", "direct", "indirect"),
    "points": ("probability_difference", "cutoff_sharpness", "standard_deviation", "change", "direct_effect",
               "direct_effects_summed", "strongest", "strongest_heads"),
}  # fmt: skip


def unit_of(key: str) -> str:
    """The unit of a number of a record."""
    name = key.rpartition("/")[2]
    return next((unit for unit, names in NAMED.items() if name in names), "")


def printed(value: object, unit: str) -> str:
    """A number of a record, or several in a list or by name, as a run prints it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {printed(each, unit)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(printed(each, unit) for each in value)
    if unit and isinstance(value, float | Estimate):
        return shown(value, unit)
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def with_unit(value: float, unit: str) -> str:
    """A number with its unit: 81.7 %, −17.0 points, 2.35."""
    return f"{in_unit(value, unit)} {unit}".rstrip()


def in_unit(value: float, unit: str) -> str:
    """A number in a unit, without its name: one digit of hundredths, two of a plain number."""
    digits = 1 if unit in HUNDREDTHS else 2
    scaled = 100 * value if unit in HUNDREDTHS else value
    rounded = round(scaled, digits)
    return f"{rounded + 0.0:.{digits}f}".replace("-", "−")  # a sum with 0.0 is never −0.0


def shown(measured: float | Estimate, unit: str) -> str:
    """A measurement with its unit and, where it has one, its 95 % interval; the plain one where that differs."""
    if not isinstance(measured, Estimate):
        return with_unit(measured, unit)
    text = f"{with_unit(measured.value, unit)} {_interval(measured.low, measured.high, unit)}"
    if measured.plain_low is None or measured.plain_high is None:
        return text
    return f"{text}, plain {_interval(measured.plain_low, measured.plain_high, unit)}"


def _interval(low: float, high: float, unit: str) -> str:
    return f"[{in_unit(low, unit)}, {in_unit(high, unit)}]"
