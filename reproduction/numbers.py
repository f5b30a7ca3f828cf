"""The unit of each number of a record, and how a run prints it."""

from __future__ import annotations

from collections.abc import Mapping

from path_patching.bootstrap import Estimate
from path_patching.numbers import shown

NAMED: Mapping[str, tuple[str, ...]] = {  # the numbers of a record that have a unit, by the last part of their keys
    "%": ("share_of_clean", "share_lost", "share_of_sum", "recover_less", "probability", "end_to_yy", "yy_is_highest",
          "share_of_variance", "direct", "indirect"),
    "points": ("probability_difference", "cutoff_sharpness", "standard_deviation", "change", "direct_effect",
               "direct_effects_summed", "strongest", "strongest_heads"),
}  # fmt: skip
NO_CONTROL = "none. "  # how a text of a record begins that says why there is no control
OF_F = ("faithfulness/", "seeds/", "minimality/", "sizes/circuit/faithfulness")  # how keys of F and shares of it begin


def unit_of(key: str) -> str:
    """The unit of a number of a record."""
    if key.startswith(OF_F):
        return "" if "kl_divergence" in key else "%"
    name = key.rpartition("/")[2]
    return next((unit for unit, names in NAMED.items() if name in names), "")


def printed(value: object, unit: str) -> str:
    """A number of a record, or several in a list or by name, as a run prints it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {printed(each, unit)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(printed(each, unit) for each in value)
    return shown(value, unit) if isinstance(value, float | Estimate) else str(value)
