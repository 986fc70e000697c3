"""Reserve: the best node for one member, or nodes for a whole gang, all or nothing."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from placement_engine.domain.columns import CPU, HOST_MEMORY, MEMORY, NODE_WATTS, WATTS, Bools, Ints, View
from placement_engine.domain.facts import DeviceFacts, RowFacts
from placement_engine.domain.filters.power_headroom import member_watts
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import WHOLE_DEVICE, DeviceClaim, Job, Member
from placement_engine.domain.policy import Policy
from placement_engine.domain.shapes import Ask
from placement_engine.domain.sharing import claim_on, fits_per_device
from placement_engine.domain.tables import EXCLUDED, Pipeline, Table


@dataclass(frozen=True, slots=True)
class Reservation:
    """Claims taken. `scores` are of the rows before the claim, `others` the next best rows."""

    members: tuple[Member, ...]
    row: int
    score: float
    others: tuple[tuple[int, float], ...]
    tightness: float | None
    """Of a gang: 1 is on one node."""


class Reserver:
    def __init__(self, fleet: Fleet, policy: Policy, pipeline: Pipeline) -> None:
        self._fleet = fleet
        self._pipeline = pipeline
        self._next_best = policy.next_best
        self._topology_weight = policy.weights.topology

    def reserve(self, job: Job, ask: Ask, table: Table, now: float) -> Reservation | None:
        """Claims at once where it fits; None: it does not, and nothing is claimed."""
        if job.replicas > 1:
            return self._reserve_gang(job, ask, table, now)
        score = table.score
        if ask.time_bound:
            model = self._fleet.columns.model[: score.shape[0]]
            score = np.where(ask.in_time.take(model), score, EXCLUDED)
        if score.shape[0] == 0:
            return None
        row = int(score.argmax())
        best = float(score[row])
        if best == EXCLUDED:
            return None
        ties = np.flatnonzero(score == best)
        if ties.shape[0] > 1:
            row = int(ties[self._fleet.rank().take(ties).argmin()])
        others = self._others(score, row)
        member = self._member(0, row, ask, table.usable[:, row])
        self._hold(job, member, row, ask, now)
        return Reservation((member,), row, best, others, None)

    def _others(self, score: np.ndarray[tuple[int], np.dtype[np.float64]], row: int) -> tuple[tuple[int, float], ...]:
        kept = [(row, score[row])]
        score[row] = EXCLUDED
        for _ in range(self._next_best):
            at = int(score.argmax())
            if score[at] == EXCLUDED:
                break
            kept.append((at, score[at]))
            score[at] = EXCLUDED
        for at, value in kept:
            score[at] = value
        return tuple((at, float(value)) for at, value in kept[1:])

    def _member(self, number: int, row: int, ask: Ask, usable: Bools) -> Member:
        facts, row_facts = self._fleet.by_row[row]
        shape = ask.shape
        claims: tuple[DeviceClaim, ...] = ()
        if shape.needs_devices:
            claims = tuple(claim_on(device, ask, row_facts.model) for device in _choose(row_facts, usable, ask))
        return Member(number, facts.node.name, claims, shape.cpu_milli, shape.memory)

    def _hold(self, job: Job, member: Member, row: int, ask: Ask, now: float) -> None:
        model = self._fleet.by_row[row][1].model
        part = ask.shape.fraction if ask.milli is None else float(ask.milli[model]) / WHOLE_DEVICE
        self._fleet.hold(job.job_id, member, now, float(ask.watts[model]), part)

    # -- gangs -----------------------------------------------------------------------------------

    def _reserve_gang(self, job: Job, ask: Ask, table: Table, now: float) -> Reservation | None:
        best: Reservation | None = None
        best_total = EXCLUDED
        seen_models: set[int] = set()
        for model, rows, fits in self._options(job, ask, table):
            if model in seen_models:
                continue  # a tighter domain of this model has held the gang
            found = self._fill(job, ask, table, rows, fits, now)
            if found is None:
                continue
            seen_models.add(model)
            for member in found.members:
                self._fleet.let_go(job.job_id, member)
            total = found.score + self._topology_weight * (found.tightness or 0.0)
            if total > best_total:
                best, best_total = found, total
        if best is not None:
            for member in best.members:
                row = self._row_of(member, best.row)
                self._hold(job, member, row, ask, now)
        return best

    def _row_of(self, member: Member, fallback: int) -> int:
        facts = self._fleet.nodes[member.node]
        if not member.devices:
            return facts.rows[0].row
        return facts.devices[member.devices[0].device_id].row if facts.devices else fallback

    def gang_fits(self, job: Job, ask: Ask, table: Table) -> tuple[Ints, Ints]:
        """Rows that can take members now, and how many members each (at most `replicas`)."""
        score = table.score
        rows = np.flatnonzero(score > EXCLUDED)
        if ask.time_bound:
            rows = rows[ask.in_time.take(self._fleet.columns.model.take(rows))]
        if rows.shape[0] == 0:
            return rows, rows
        view = self._fleet.columns.view(rows)
        return rows, members_per_row(view, table.usable.take(rows, axis=1), ask, job.replicas)

    def _options(self, job: Job, ask: Ask, table: Table) -> Iterator[tuple[int, Ints, Ints]]:
        """(model, rows in order of filling, members each), the tightest domain of each model first."""
        rows, fits = self.gang_fits(job, ask, table)
        if rows.shape[0] == 0:
            return
        scores = table.score.take(rows)
        rank = self._fleet.rank().take(rows)
        models = self._fleet.columns.model.take(rows)
        if not ask.shape.needs_devices:
            models = np.zeros_like(models)
        level = job.topology_level
        domain = None
        if level:
            domains, names = self._fleet.domains(level)
            domain = domains.take(rows)
        name_of = self._fleet.models.names
        for model in sorted(np.unique(models).tolist(), key=lambda m: (name_of[m], m)):
            of_model = models == model
            if int(fits[of_model].sum()) < job.replicas:
                continue
            if domain is not None and names:
                inside = of_model & (domain >= 0)
                totals = np.bincount(domain[inside], weights=fits[inside], minlength=len(names))
                means = np.bincount(domain[inside], weights=fits[inside] * scores[inside], minlength=len(names))
                enough = np.flatnonzero(totals >= job.replicas)
                order = np.lexsort((enough, -means[enough] / totals[enough], totals[enough]))
                for number in enough[order].tolist():
                    at = np.flatnonzero(inside & (domain == number))
                    at = at[np.lexsort((rank[at], -scores[at], -fits[at]))]
                    yield model, rows[at], fits[at]
            if not level or not job.topology_required:
                at = np.flatnonzero(of_model)
                if domain is not None and names:
                    # No single domain holds it: fill the roomiest first, so that few are spanned.
                    room = np.where(domain[at] >= 0, totals[np.maximum(domain[at], 0)], 0.0)
                    at = at[np.lexsort((rank[at], -scores[at], -fits[at], domain[at], -room))]
                else:
                    at = at[np.lexsort((rank[at], -scores[at], -fits[at]))]
                yield model, rows[at], fits[at]

    def _fill(self, job: Job, ask: Ask, table: Table, rows: Ints, fits: Ints, now: float) -> Reservation | None:
        """Claims members row by row, each checked anew; lets all go again if the gang stays incomplete."""
        members: list[Member] = []
        used: list[int] = []
        queue = list(zip(rows.tolist(), fits.tolist(), strict=True))
        while queue and len(members) < job.replicas:
            left = job.replicas - len(members)
            # The last node is the best scored of those that hold all the rest, which is the tightest fit.
            last = [(table.score[row], -i) for i, (row, fit) in enumerate(queue) if fit >= left]
            index = -max(last)[1] if last else 0
            row, fit = queue.pop(index)
            for _ in range(min(fit, left)):
                view = self._fleet.columns.view(np.array([row]))
                feasible, usable = self._pipeline.feasible(view, ask)
                if not feasible[0]:
                    break
                member = self._member(len(members), row, ask, usable[:, 0])
                self._hold(job, member, row, ask, now)
                members.append(member)
                used.append(row)
        if len(members) < job.replicas:
            for member in members:
                self._fleet.let_go(job.job_id, member)
            return None
        nodes = {member.node for member in members}
        tightness = 1.0 / len(nodes)
        if job.topology_level:
            domains, _ = self._fleet.domains(job.topology_level)
            tightness = 0.5 * tightness + 0.5 / len({int(domains[row]) for row in used})
        score = float(np.mean([float(table.score[row]) for row in used]))
        others = tuple((row, float(table.score[row])) for row, _ in queue[: self._next_best] if row not in set(used))
        return Reservation(tuple(members), used[0], score, others, tightness)


def members_per_row(view: View, usable: Bools, ask: Ask, limit: int) -> Ints:
    """How many members of one gang each row could take at once, at most `limit`."""
    shape = ask.shape
    fits = np.full(view.model.shape[0], float(limit))
    if shape.whole:
        fits = np.minimum(fits, usable.sum(axis=0) // shape.whole)
    elif shape.needs_devices:
        each = fits_per_device(view, ask)
        for column, need in ((MEMORY, ask.memory.take(view.model)), (WATTS, ask.watts.take(view.model))):
            asked = need > 0
            room = view.devices(column) / np.where(asked, need, 1.0)
            each = np.minimum(each, np.where(asked, np.floor(room), np.inf))
        fits = np.minimum(fits, np.where(usable, each, 0.0).sum(axis=0))
    if shape.cpu_milli > 0:
        fits = np.minimum(fits, view.rows(CPU) // shape.cpu_milli)
    if shape.memory > 0:
        fits = np.minimum(fits, view.rows(HOST_MEMORY) // shape.memory)
    added = member_watts(view, ask)
    room = view.rows(NODE_WATTS) / np.where(added > 0, added, 1.0)
    fits = np.minimum(fits, np.where(added > 0, np.floor(room), np.inf))
    whole: Ints = fits.astype(np.intp)
    return whole


def _choose(row: RowFacts, usable: Bools, ask: Ask) -> list[DeviceFacts]:
    """The coolest whole devices; for a fraction, the device that it fills best; for a partition, the one where
    larger partitions lose least."""
    able = [device for device, fits in zip(row.devices, usable.tolist(), strict=False) if fits]
    shape = ask.shape
    if shape.whole:
        return sorted(able, key=lambda d: (-d.heat, d.slot))[: shape.whole]
    cut = None if ask.cuts is None else ask.cuts.by_model[row.model]
    if cut is not None:
        loss = cut.loss
        return [min(able, key=lambda d: (loss[d.slices()], -d.heat, d.slot))]
    return [min(able, key=lambda d: (-d.used_milli, -d.heat, d.slot))]
