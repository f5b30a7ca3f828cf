"""How much each link of a circuit matters.

The effect of a link is that of patching its sender along all paths of the circuit that begin with this link, on the
mean of a metric (section 3).

    >>> effects = link_effects(engine, circuit, metric, YY, END)  # by link
    >>> tuple(effects) == circuit.links
    True
"""

from __future__ import annotations

from itertools import groupby

from path_patching.circuits.circuit import Circuit, Link, down_to, full_circuit, on_paths, steps
from path_patching.engine import Engine
from path_patching.progress import progress
from path_patching.sweeps import Metric, effects_of


def link_effects(engine: Engine, circuit: Circuit, metric: Metric, yy: int, end: int) -> dict[Link, float]:
    """The effect of every link of the full circuit: of its sender on the mean of the metric, through one input alone.

    The reader's own effect goes through every path of the circuit that leads to it, as in iterative path patching. A
    link without places is patched at all positions together.
    """
    paths, clean = full_circuit(circuit, yy, end), metric(engine.clean()).mean()
    links, _ = on_paths(circuit.links)
    read = [(key, list(group)) for key, group in groupby(links, key=lambda link: (link.reader, link.via))]
    effects: dict[Link, float] = {}
    for (_, via), group in progress(read, "links of the circuit"):
        taken = {link: steps(link, yy, end) for link in group}
        receivers = down_to(paths, *{reader for link in group for reader, _, _ in taken[link]})
        assert receivers is not None, "a link's reader is on a path of its circuit"
        senders = {link: sorted({sender for _, _, sender in taken[link]}) for link in group}
        if swept := {link: of_link[0] for link, of_link in senders.items() if len(of_link) == 1}:
            found = effects_of(engine, receivers, [*swept.values()], metric, via, clean)
            effects |= zip(swept, found.tolist(), strict=True)
        for link in group:
            if link not in swept:
                patched = metric(engine.patch(receivers.extend(senders[link], via)))
                effects[link] = (patched.mean() - clean).item()
    return {link: effects[link] for link in links}
