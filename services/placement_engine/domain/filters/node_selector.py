"""The labels of the node must be those that the job requires."""

import numpy as np

from placement_engine.domain.columns import Bools, View
from placement_engine.domain.plugins import Description, Selective
from placement_engine.domain.shapes import Ask

LONGEST = 160


class NodeSelector(Selective):
    name = "NodeSelector"
    code = "NODE_SELECTOR_MISMATCH"

    def concerns(self, ask: Ask) -> bool:
        return ask.reach.selected is not None

    def passes(self, view: View, ask: Ask) -> Bools:
        if ask.reach.selected is None:
            return np.ones(view.node.shape[0], dtype=np.bool_)
        # A node that came since is not in the mask yet: its last place says no.
        return ask.reach.selected.take(view.node, mode="clip")

    def describe(self, view: View, ask: Ask) -> Description:
        nodes, wanted = np.unique(view.node).shape[0], ask.shape.nodes.selector
        shown = wanted if len(wanted) <= LONGEST else f"{wanted[: LONGEST - 3]}..."
        return f"node selector excludes {nodes} nodes: needs {shown}", {"nodes_excluded": float(nodes)}
