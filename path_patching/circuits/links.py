"""How much each link of a circuit matters.

A link's effect is what patching its sender changes in the mean of a metric, along all paths of the circuit that begin
with the link (section 3).

    >>> effects = link_effects(engine, circuit, metric, YY, END)  # by link
    >>> tuple(effects) == circuit.links
    True
"""

from __future__ import annotations

from path_patching.circuits.circuit import Circuit, Link, check_circuit, down_to, full_circuit, on_paths, steps
from path_patching.circuits.twins import check_yy
from path_patching.engine import Engine
from path_patching.paths import PathSet
from path_patching.sweeps import Effects, Metric, remembered_effects


def link_effects(
    engine: Engine, circuit: Circuit, metric: Metric, yy_position: int, end: int, effects: Effects | None = None
) -> dict[Link, float]:
    """The effect of every link of the full circuit on the mean of the metric.

    The change goes from the sender through the link's input alone, then on from the reader along every path of the
    circuit. A link without places is patched at all positions together. `effects`, of this engine and metric, is a
    cache of what was evaluated already. Raises `UserError` if links have places and no twin differs at `yy_position`.
    """
    if check_circuit(circuit).placed:
        check_yy(engine.sentences, yy_position)
    paths = full_circuit(circuit, yy_position, end)

    def beginning_with(link: Link) -> PathSet:
        taken = steps(link, yy_position, end)
        receivers = down_to(paths, *{reader for reader, _, _ in taken})
        assert receivers is not None, "a link's reader is on a path of its circuit"
        return receivers.extend(sorted({sender for _, _, sender in taken}), link.via)

    links, _ = on_paths(circuit.links)
    effects = effects or remembered_effects(engine, metric)
    effects.values.know_swept()
    found = effects.of_each([beginning_with(link) for link in links])
    return dict(zip(links, found.tolist(), strict=True))
