"""About how long the steps of a run that are left will take.

What a step takes is what it took in its last run, by its record. Without one it is what it took on two cores, where it
was measured, or a minute; of the stand-in the sum was measured, and a step is taken to have the same part in it. From
the first step that has ended on, both are scaled by how long the steps of this run have taken.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from path_patching.errors import UserError
from reproduction.publication import read_record, record_path
from reproduction.steps import Step

MEASURED = {  # seconds, at GPT-2 small's shape (benchmarks/README.md); those of the last three beside other work
    "circuit_discovery": 887.0,
    "big_ds_experiments": 353.0,
    "neuron_investigations": 85.8,
    "sequence_generalization": 171.0,
    "pca_experiments": 358.0,
    "random_circuit_ablation": 96.9,
    "random_years": 19.0,
    "topk_years": 37.6,
    "circuit_validation": 1172.0,
    "circuit_discovery_plotting": 22.2,
    "neuron_plots": 14.4,
    "appendix_plots": 22.5,
    "pca_plots": 8.1,
    "validation_plots": 34.0,
    "results": 13.6,
    "report": 42.5,
}
UNMEASURED = 60.0  # seconds, of a step that is new
STANDIN = 620.0  # seconds of all steps (docs/machines.md)
SHARES = {"gpt2": 1.0, "standin": STANDIN / sum(MEASURED.values())}


def usual_seconds(steps: Sequence[Step], model: str) -> dict[str, float]:
    """What each step of a model takes, by script."""
    return {
        each.script: last_seconds(each) or SHARES.get(model, 1.0) * MEASURED.get(each.script, UNMEASURED)
        for each in steps
    }


def last_seconds(step: Step) -> float | None:
    """What the last run of a step with the same command took; None without its record."""
    try:
        record = read_record(record_path(step.published, step.script))
    except UserError:
        return None
    return record.get("seconds") if record.get("command") == step.command else None


def time_left(left: Collection[str], usual: Mapping[str, float], took: Mapping[str, float]) -> float:
    """Seconds that the scripts which are `left` will take, given what those that have ended `took`."""
    pace = sum(took.values()) / sum(usual[script] for script in took) if took else 1.0
    return pace * sum(usual[script] for script in left)


def in_words(seconds: float) -> str:
    """A time as one would say it."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return "about a minute" if minutes else "less than a minute"
    return f"about {minutes} min" if minutes < 90 else f"about {minutes / 60:.1f} h"
