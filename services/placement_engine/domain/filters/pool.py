"""Cordoned nodes take no new work."""

from placement_engine.domain.columns import SCHEDULABLE, Bools, View
from placement_engine.domain.plugins import Description
from placement_engine.domain.shapes import Ask


class Pool:
    name = "Pool"
    code = "NODE_CORDONED"

    def passes(self, view: View, ask: Ask) -> Bools:
        return view.rows(SCHEDULABLE) > 0

    def describe(self, view: View, ask: Ask) -> Description:
        nodes = view.row.shape[1]
        return f"{nodes} cordoned", {"cordoned": float(nodes)}
