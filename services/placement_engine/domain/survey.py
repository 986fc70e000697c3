"""What each node says to one member of a job: a score, or why it cannot take the member now.

For a scheduler that asks about nodes of its own choice, such as kube-scheduler by its extender. All nodes are judged
together, by the columns; nothing is claimed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from placement_engine.domain.columns import DEVICES, Floats, Ints
from placement_engine.domain.explaining import PASSES, Explainer
from placement_engine.domain.filters.device_memory import DeviceMemory
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import Member, Reason
from placement_engine.domain.reserve import member_on
from placement_engine.domain.shapes import Ask
from placement_engine.domain.tables import EXCLUDED, Table

__all__ = ["MOST_TOLD", "Refusal", "Survey", "Surveyor", "kept_for_others", "same_everywhere"]

MOST_TOLD = 16
"""So many nodes that one filter excludes get their own numbers. More share one sentence: who prints the reasons
of thousands of nodes counts equal ones."""

CURABLE = frozenset(
    {"Capacity", "HostResources", "NodePower", "DevicePower", DeviceMemory.name, "PartitionRoom", "QueueQuota"}
)
"""Filters that may pass once work has left the node."""


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
        scores = self._scores(table, ask)
        for name in nodes:
            best = max((float(scores[row]) for row in self._rows(name)), default=EXCLUDED)
            if best == EXCLUDED:
                failing.append(name)
            else:
                found.scores[name] = best
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

    def _refusals(self, ask: Ask, nodes: Sequence[str]) -> dict[str, Refusal]:
        known = [name for name in nodes if name in self._fleet.nodes]
        found = {name: Refusal(_unknown(name), curable=False) for name in nodes if name not in self._fleet.nodes}
        if not known:
            return found
        verdict = self._explainer.trace(ask, 1).verdict
        emptied = self._explainer.trace(ask, 1, without=CURABLE).verdict
        rows = {name: np.array(self._rows(name), dtype=np.intp) for name in known}
        # A node of several models is judged by the row that got furthest.
        furthest = {name: int(verdict[of_node].max()) for name, of_node in rows.items()}
        together: dict[int, list[str]] = {}
        for name, position in furthest.items():
            together.setdefault(position, []).append(name)
        for position, names in together.items():
            lasting = {name: not bool((emptied[rows[name]] == PASSES).any()) for name in names}
            if position == PASSES:
                # The filters let it pass: what excluded it is no filter's, such as a deadline.
                found |= {name: Refusal(_not_now(), curable=not lasting[name]) for name in names}
                continue
            judged = [rows[name][verdict[rows[name]] == position] for name in names]
            groups = [judged] if len(names) > MOST_TOLD else [[one] for one in judged]
            reasons = [self._reason(position, np.concatenate(group), ask) for group in groups]
            for number, name in enumerate(names):
                reason = reasons[0] if len(groups) == 1 else reasons[number]
                found[name] = Refusal(reason, curable=not lasting[name])
        return found

    def _reason(self, position: int, rows: Ints, ask: Ask) -> Reason:
        plugin = self._explainer.filters[position]
        view = self._fleet.columns.view(rows)
        message, numbers = plugin.describe(view, ask)
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


def _unknown(name: str) -> Reason:
    return Reason("Pool", "NODE_UNKNOWN", 1, 0, "Berth knows no such node in this pool")


def _not_now() -> Reason:
    return Reason("Deadline", "NOT_IN_TIME", 1, 0, "not in time on this node's accelerators")
