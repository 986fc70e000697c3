"""How many pods a node takes at once, whatever they ask for: its kubelet refuses the next one."""

from collections.abc import Mapping

from placement_engine.domain.columns import PODS, View
from placement_engine.domain.plugins import Description, RowFloors
from placement_engine.domain.shapes import Ask


class PodLimit(RowFloors):
    name = "PodLimit"
    code = "POD_LIMIT_REACHED"

    def floors(self, ask: Ask) -> Mapping[int, float]:
        return {PODS: 1.0}

    def describe(self, view: View, ask: Ask) -> Description:
        # A node that others crowded may be beyond its limit.
        most = max(0.0, float(view.rows(PODS).max()))
        return (
            f"a member is one pod, and {view.model.shape[0]} nodes run all the pods that they allow (allocatable.pods)"
            if view.model.shape[0] != 1
            else "a member is one pod, and the node runs all the pods that it allows (allocatable.pods)",
            {"pods_needed": 1.0, "pods_most_free": most},
        )
