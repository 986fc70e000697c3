"""Cordoned nodes take no new work."""

from collections.abc import Mapping

from placement_engine.domain.columns import SCHEDULABLE, View
from placement_engine.domain.plugins import Description, RowFloors
from placement_engine.domain.shapes import Ask


class Pool(RowFloors):
    name = "Pool"
    code = "NODE_CORDONED"

    def floors(self, ask: Ask) -> Mapping[int, float]:
        return {SCHEDULABLE: 1.0}

    def describe(self, view: View, ask: Ask) -> Description:
        nodes = view.row.shape[1]
        return f"{nodes} cordoned", {"cordoned": float(nodes)}
