"""Taints of the node that the job does not tolerate."""

import numpy as np

from placement_engine.domain.columns import Bools, Ints, View
from placement_engine.domain.node_constraints import Taint
from placement_engine.domain.plugins import Description, Selective
from placement_engine.domain.shapes import Ask

MOST_NAMED = 3


class Taints(Selective):
    name = "Taints"
    code = "TAINT_NOT_TOLERATED"

    def concerns(self, ask: Ask) -> bool:
        return ask.reach.barred is not None

    def passes(self, view: View, ask: Ask) -> Bools:
        if ask.reach.barred is None:
            return np.ones(view.node.shape[0], dtype=np.bool_)
        return ask.reach.barred.take(view.node, mode="clip") < 0

    def describe(self, view: View, ask: Ask) -> Description:
        counts = barring(view.node, ask)
        named = [f"{taint} ({count} nodes)" for taint, count in counts[:MOST_NAMED]]
        more = f" and {len(counts) - MOST_NAMED} more" if len(counts) > MOST_NAMED else ""
        nodes = sum(count for _, count in counts)
        return (
            f"does not tolerate {', '.join(named)}{more}",
            {"nodes_excluded": float(nodes), "taints": float(len(counts))},
        )


def barring(nodes: Ints, ask: Ask) -> list[tuple[Taint, int]]:
    """The taints that keep the job off these nodes (by number), with how many of them: the most first."""
    if ask.reach.barred is None:
        return []
    places = ask.reach.barred.take(np.unique(nodes[nodes >= 0]), mode="clip")
    counts = np.bincount(places[places >= 0], minlength=len(ask.reach.taints)).tolist()
    found = [(taint, count) for taint, count in zip(ask.reach.taints, counts, strict=True) if count]
    return sorted(found, key=lambda one: (-one[1], str(one[0])))
