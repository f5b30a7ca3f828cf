"""How much each link of a circuit matters.

The effect of a link is that of patching its sender along all paths of the circuit that begin with this link, on the
mean of a metric (section 3).

    >>> effects = link_effects(engine, circuit, metric, YY, END)  # by link
    >>> tuple(effects) == circuit.links
    True
"""

from __future__ import annotations

from path_patching.circuits.circuit import Circuit, Link, down_to, full_circuit, on_paths, steps
from path_patching.circuits.twins import check_yy
from path_patching.engine import Engine
from path_patching.paths import PathSet
from path_patching.sweeps import Effects, Metric, remembered_effects


def link_effects(
    engine: Engine, circuit: Circuit, metric: Metric, yy: int, end: int, effects: Effects | None = None
) -> dict[Link, float]:
    """The effect of every link of the full circuit: of its sender on the mean of the metric, through one input alone.

    The reader's own effect goes through every path of the circuit that leads to it, as in iterative path patching. A
    link without places is patched at all positions together. What `effects` of this engine and metric have evaluated
    already is not evaluated again. Raises `UserError` for a `yy` at which no twin differs, if the links have places.
    """
    if circuit.placed:
        check_yy(engine.sentences, yy)
    paths = full_circuit(circuit, yy, end)

    def beginning_with(link: Link) -> PathSet:
        taken = steps(link, yy, end)
        receivers = down_to(paths, *{reader for reader, _, _ in taken})
        assert receivers is not None, "a link's reader is on a path of its circuit"
        return receivers.extend(sorted({sender for _, _, sender in taken}), link.via)

    links, _ = on_paths(circuit.links)
    effects = effects or remembered_effects(engine, metric)
    effects.values.know_swept()
    found = effects.of_each([beginning_with(link) for link in links])
    return dict(zip(links, found.tolist(), strict=True))
