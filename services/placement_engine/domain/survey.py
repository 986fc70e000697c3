"""What each node says to one member of a job: a score, or why it cannot take the member now.

For a scheduler that asks about nodes of its own choice, such as kube-scheduler by its extender. All nodes are judged
together, by the columns; nothing is claimed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from placement_engine.domain.columns import DEVICES, Floats, Ints
from placement_engine.domain.explaining import PASSES, Explainer
from placement_engine.domain.filters.capacity import Capacity
from placement_engine.domain.filters.device_memory import DeviceMemory
from placement_engine.domain.filters.held import Held
from placement_engine.domain.filters.host_resources import HostResources
from placement_engine.domain.filters.pod_limit import PodLimit
from placement_engine.domain.filters.power_headroom import DevicePower, NodePower
from placement_engine.domain.filters.queue_quota import QueueQuota
from placement_engine.domain.filters.sharing import PartitionRoom
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import Member, Reason
from placement_engine.domain.reserve import member_on
from placement_engine.domain.shapes import Ask
from placement_engine.domain.tables import EXCLUDED, Table

__all__ = ["CURABLE", "MOST_TOLD", "Refusal", "Survey", "Surveyor", "kept_for_others", "same_everywhere"]

MOST_TOLD = 16
"""So many nodes that one filter excludes get their own numbers. More share one sentence: who prints the reasons
of thousands of nodes counts equal ones."""

CURABLE = frozenset[type](
    {Capacity, Held, HostResources, PodLimit, NodePower, DevicePower, DeviceMemory, PartitionRoom, QueueQuota}
)
"""Filters that may pass once work has left the node: their classes, since two of one name may differ in this."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a node cannot take the member. `curable`: it could, were the work on it gone."""

    reason: Reason
    curable: bool


@dataclass(frozen=True, slots=True)
class Survey:
    """Each node that was asked about is in one of both. Scores are weighted sums, higher is better, on one scale."""

    scores: dict[str, float] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)


class Surveyor:
    """Reads the fleet and its tables; both must be as they are to be judged by, bookings included."""

    def __init__(self, fleet: Fleet, explainer: Explainer) -> None:
        self._fleet = fleet
        self._explainer = explainer

    def survey(self, table: Table, ask: Ask, nodes: Iterable[str]) -> Survey:
        found, failing = Survey(), list[str]()
        best = self._by_node(self._scores(table, ask), EXCLUDED).tolist()
        known = self._fleet.nodes
        for name in nodes:
            facts = known.get(name)
            score = EXCLUDED if facts is None else best[facts.number]
            if score == EXCLUDED:
                failing.append(name)
            else:
                found.scores[name] = score
        found.refusals.update(self._refusals(ask, failing))
        return found

    def member(self, table: Table, ask: Ask, node: str) -> Member | None:
        """The member as it would sit on that node, its devices chosen; None: it does not fit."""
        scores = self._scores(table, ask)
        rows = [row for row in self._rows(node) if scores[row] != EXCLUDED]
        if not rows:
            return None
        row = max(rows, key=lambda one: float(scores[one]))
        return member_on(self._fleet, 0, row, ask, table.usable[:, row])

    def _scores(self, table: Table, ask: Ask) -> Floats:
        if not ask.time_bound:
            return table.score
        model = self._fleet.columns.model[: table.score.shape[0]]
        return np.where(ask.in_time.take(model), table.score, EXCLUDED)

    def _rows(self, node: str) -> list[int]:
        facts = self._fleet.nodes.get(node)
        return [] if facts is None else [row.row for row in facts.rows]

    def _by_node(self, values: Floats, least: float) -> Floats:
        """The largest of each node's rows, by the number of the node; `least` where it has none."""
        node = self._fleet.columns.node[: values.shape[0]]
        found = np.full(len(self._fleet.names), least)
        np.maximum.at(found, node[node >= 0], values[node >= 0])
        return found

    def _refusals(self, ask: Ask, nodes: Sequence[str]) -> dict[str, Refusal]:
        numbers = {name: facts.number for name in nodes if (facts := self._fleet.nodes.get(name)) is not None}
        found = {name: Refusal(_unknown(), curable=False) for name in nodes if name not in numbers}
        if not numbers:
            return found
        verdict = self._explainer.trace(ask, 1).verdict
        emptied = self._explainer.trace(ask, 1, without=CURABLE).verdict
        # A node of several models is judged by the row that got furthest.
        furthest = self._by_node(verdict.astype(np.float64), -1.0).tolist()
        curable = (self._by_node(emptied.astype(np.float64), -1.0) == PASSES).tolist()
        together: dict[int, list[str]] = {}
        for name, number in numbers.items():
            together.setdefault(int(furthest[number]), []).append(name)
        for position, names in together.items():
            if position == PASSES:
                # The filters let it pass: what excluded it is no filter's, such as a deadline.
                reasons = dict.fromkeys(names, _not_now())
            elif len(names) > MOST_TOLD:
                asked = np.zeros(len(self._fleet.names), dtype=np.bool_)
                asked[[numbers[name] for name in names]] = True
                node = self._fleet.columns.node[: verdict.shape[0]]
                rows = np.flatnonzero((verdict == position) & asked[node])
                reasons = dict.fromkeys(names, self._reason(position, rows, ask))
            else:
                reasons = {
                    name: self._reason(
                        position, np.array([row for row in self._rows(name) if verdict[row] == position]), ask
                    )
                    for name in names
                }
            found.update((name, Refusal(reasons[name], curable[numbers[name]])) for name in names)
        return found

    def _reason(self, position: int, rows: Ints, ask: Ask) -> Reason:
        plugin = self._explainer.filters[position]
        view = self._fleet.columns.view(rows)
        message, numbers = plugin.describe(view, ask)
        if isinstance(plugin, Held):
            message += self._explainer.held_by(rows)
        devices = int(view.rows(DEVICES).sum()) if ask.shape.needs_devices else 0
        return Reason(plugin.name, plugin.code, int(rows.shape[0]), devices, message, numbers)


def same_everywhere(nodes: Iterable[str], reason: Reason, *, curable: bool) -> Survey:
    """No node can, for one reason that is not the node's."""
    return Survey(refusals={name: Refusal(reason, curable) for name in nodes})


def kept_for_others(found: Survey, beside: Survey, reasons: dict[str, Reason]) -> Survey:
    """`found` with the nodes that would do (`beside`) were nothing kept there told so."""
    held = {
        name: replace(refusal, reason=reasons[name], curable=False)
        for name, refusal in found.refusals.items()
        if name in beside.scores and name in reasons
    }
    return Survey(found.scores, {**found.refusals, **held})


def _unknown() -> Reason:
    return Reason("Pool", "NODE_UNKNOWN", 1, 0, "Berth knows no such node in this pool")


def _not_now() -> Reason:
    return Reason("Deadline", "NOT_IN_TIME", 1, 0, "not in time on this node's accelerators")
