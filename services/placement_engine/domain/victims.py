"""The least harmful set of running jobs without which a waiting one fits.

Proposals are the cheapest nodes (for a gang, the cheapest steps over the nodes of one model, within one
domain where the job requires that), or else the plain order of harm. From each, every victim that is not
needed is dropped, the costliest first; the least harm wins. So without any one of its victims the job would
not fit. Whether it fits is asked of the reserver on a supposition: every filter is kept.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from placement_engine.domain.columns import CPU, FREE, PODS, Ints
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.forecast import could_use
from placement_engine.domain.model import WHOLE_DEVICE, Claim, Job, Member, Preemption, PreemptionKind
from placement_engine.domain.policy import Policy
from placement_engine.domain.reserve import Reserver
from placement_engine.domain.shapes import Ask
from placement_engine.domain.supposition import Supposition
from placement_engine.domain.surplus import part_key
from placement_engine.domain.tables import Tables

CPU_ONLY = 0.001
"""A member without devices counts as this part of a device in the work lost."""
MOST_SCOPES = 8
"""Nodes, or domains, that are tried in earnest: the cheapest by estimate."""

Harm = tuple[bool, int, float, int, float, str, int]


@dataclass(frozen=True, slots=True)
class Victim:
    """A running job that may be stopped, or else members of the gang `of` that it can do without: those are the
    `claim`. `lost`: device-seconds of work."""

    claim: Claim
    lost: float
    kind: PreemptionKind
    of: Claim | None = None

    @property
    def job_id(self) -> str:
        return self.claim.job.job_id

    @property
    def whole(self) -> bool:
        """It is stopped."""
        return self.of is None

    @property
    def key(self) -> str:
        """Names it among jobs and parts of jobs that are taken out."""
        return self.job_id if self.of is None else part_key(self.job_id, self.claim.members[0].member)

    @property
    def reluctant(self) -> bool:
        """It is stopped and is not preemptible."""
        return self.of is None and not self.claim.job.preemptible

    @property
    def harm(self) -> Harm:
        """Order of taking: who runs on before who is stopped, the preemptible, then by work lost, then the lower
        priority, then the younger; of one gang the last member first."""
        job, began = self.claim.job, self.claim.started_at
        age = -math.inf if began is None else -began
        last = 0 if self.of is None else -self.claim.members[0].member
        return self.whole, int(not job.preemptible), self.lost, job.priority, age, job.job_id, last


def disjoint(victims: Iterable[Victim]) -> tuple[Victim, ...]:
    """Without parts of gangs that are stopped whole."""
    found = tuple(victims)
    stopped = {victim.job_id for victim in found if victim.whole}
    return tuple(victim for victim in found if victim.whole or victim.job_id not in stopped)


@dataclass(frozen=True, slots=True)
class Plan:
    """`members`: where the waiting job goes once the victims, and those that are being stopped, are gone."""

    victims: tuple[Victim, ...]
    members: tuple[Member, ...]

    @property
    def harm(self) -> tuple[int, float, int, tuple[str, ...]]:
        reluctant = sum(1 for victim in self.victims if victim.reluctant)
        lost = math.fsum(victim.lost for victim in self.victims)
        return reluctant, lost, len(self.victims), tuple(victim.key for victim in self.victims)


Allow = Callable[[Victim, list[Victim]], bool]
"""Whether a victim may be added to those chosen."""


def work_lost(claim: Claim, now: float) -> float:
    """Device-seconds that are lost if the job is stopped now: since its last checkpoint, else since its start."""
    if claim.started_at is None:
        return 0.0
    seconds = max(0.0, now - claim.started_at)
    if claim.job.checkpoint_seconds:
        seconds = math.fmod(seconds, claim.job.checkpoint_seconds)
    return seconds * sum(sum(d.milli for d in m.devices) / 1000 or CPU_ONLY for m in claim.members)


def in_words(lost: float) -> str:
    """ "600 device-seconds of work are lost"; "" where it is next to nothing."""
    if lost < 1:
        return ""
    amount = f"{lost:.0f} device-seconds" if lost < 7200 else f"{lost / 3600:.1f} device-hours"
    return f"{amount} of work are lost"


def told_to(preemption: Preemption) -> str:
    """To the one that is stopped: for whom, and what that costs."""
    return "; ".join(filter(None, (preemption.message, in_words(preemption.work_lost_seconds))))


def find_plan(
    fleet: Fleet,
    tables: Tables,
    reserver: Reserver,
    policy: Policy,
    *,
    job: Job,
    ask: Ask,
    now: float,
    candidates: Iterable[Victim],
    ending: Mapping[str, Claim],
    allow: Allow,
    accept: Callable[[Plan], bool] = lambda plan: True,
) -> Plan | None:
    """`candidates` in order of harm; `ending`, by key, are on their way out. None: not even all of them would do.
    A plan that is not accepted is passed over."""
    with Supposition(fleet, tables, reserver) as suppose:
        for key, claim in ending.items():
            suppose.end(claim, key)
        members = suppose.placement(job, ask, now)
        if members is not None and accept(Plan((), members)):
            return Plan((), members)
        useful = [victim for victim in candidates if could_use(fleet, ask, victim.claim)]
        if not useful:
            return None
        attempt = Attempt(suppose, job, ask, now, allow, accept)
        enough = max(policy.preemption_candidates, 2 * job.replicas * max(1, ask.shape.slots))
        best: Plan | None = None
        for cost, batches in _scopes(fleet, tables, job, ask, useful):
            if best is not None and best.harm[:2] <= cost:
                break  # the others are dearer even by estimate
            plan = attempt.follow(batches)
            if plan is not None and (best is None or plan.harm < best.harm) and accept(plan):
                best = plan
        if best is None:
            best = attempt.follow(_doubling(useful[:enough]))
            return best if best is not None and accept(best) else None
        return best


class Attempt:
    """Tries proposals on a supposition; each leaves it as it was."""

    def __init__(
        self, suppose: Supposition, job: Job, ask: Ask, now: float, allow: Allow, accept: Callable[[Plan], bool]
    ) -> None:
        self._suppose = suppose
        self._job, self._ask, self._now = job, ask, now
        self._allow, self._accept = allow, accept

    def follow(self, batches: Iterable[list[Victim]]) -> Plan | None:
        """Takes batch after batch out until the job fits, then drops who is not needed."""
        chosen: list[Victim] = []
        members = None
        try:
            for batch in batches:
                before = len(chosen)
                for victim in batch:
                    if not self._suppose.is_ended(victim.key) and self._allow(victim, chosen):
                        self._suppose.end(victim.claim, victim.key)
                        chosen.append(victim)
                if len(chosen) > before and (members := self._placement(chosen)) is not None:
                    break
            if members is None:
                return None
            members = self._trimmed(chosen, members)
            return _plan(chosen, members)
        finally:
            for victim in chosen:
                self._suppose.resume(victim.key)

    def _trimmed(self, chosen: list[Victim], members: tuple[Member, ...]) -> tuple[Member, ...]:
        """Drops from `chosen` who is not needed, the costliest first. Gangs are counted first, which is quick,
        and placed once; where that does not do they are placed each time."""
        by_cost = sorted(chosen, key=lambda v: v.harm, reverse=True)
        if self._job.replicas > 1:
            everyone = list(chosen)
            self._trim(chosen, by_cost, lambda rest: self._suppose.enough(self._job, self._ask))
            found = self._placement(chosen)
            if found is not None:
                return found
            chosen[:] = everyone
            for victim in everyone:
                self._suppose.end(victim.claim, victim.key)
        self._trim(chosen, by_cost, lambda rest: self._placement(rest) is not None)
        return self._placement(chosen) or members

    def _trim(self, chosen: list[Victim], group: list[Victim], fits: Callable[[list[Victim]], bool]) -> None:
        """Drops all of the group, or else who is not needed of one half and then of the other."""
        keys = {victim.key for victim in group}
        rest = [victim for victim in chosen if victim.key not in keys]
        for victim in group:
            self._suppose.resume(victim.key)
        if fits(rest):
            chosen[:] = rest
            return
        for victim in group:
            self._suppose.end(victim.claim, victim.key)
        if len(group) > 1:
            half = len(group) // 2
            self._trim(chosen, group[:half], fits)
            self._trim(chosen, group[half:], fits)

    def _placement(self, victims: list[Victim]) -> tuple[Member, ...] | None:
        """Devices alone do not do: without these victims the quotas must hold the job too."""
        members = self._suppose.placement(self._job, self._ask, self._now)
        return members if members is not None and self._accept(_plan(victims, members)) else None


def _plan(victims: Sequence[Victim], members: tuple[Member, ...]) -> Plan:
    return Plan(tuple(sorted(disjoint(victims), key=lambda v: v.harm)), members)


def _doubling(victims: list[Victim]) -> Iterator[list[Victim]]:
    start, size = 0, 1
    while start < len(victims):
        yield victims[start : start + size]
        start, size = start + size, 2 * size


Cost = tuple[int, float]
"""Of victims: how many are not preemptible, and the work lost, by estimate."""


@dataclass(frozen=True, slots=True)
class Step:
    """Victims on one row whose end makes room for `gain` members more, by estimate; `cost` is for each of them."""

    victims: tuple[Victim, ...]
    gain: int
    cost: Cost


def _cost(victims: Iterable[Victim], gain: int = 1) -> Cost:
    reluctant, lost = 0, 0.0
    for victim in victims:
        reluctant += victim.reluctant
        lost += victim.lost
    return reluctant, lost / max(1, gain)


Scope = tuple[Cost, list[list[Victim]]]
"""Estimated harm, and victims in batches."""


def _scopes(fleet: Fleet, tables: Tables, job: Job, ask: Ask, useful: list[Victim]) -> list[Scope]:
    """Proposals of victims that sit together, the cheapest by estimate first."""
    room, need = _room(fleet, tables, ask)
    free = room.tolist()
    steps = {row: _steps(found, int(free[row]), need) for row, found in _by_row(fleet, ask, useful, need).items()}
    missing: dict[tuple[int, str], int] = {}
    scopes: dict[tuple[int, str], list[int]] = {}
    if job.replicas == 1:
        scopes = {(row, ""): [row] for row, found in steps.items() if found}
        missing = dict.fromkeys(scopes, 1)
    else:
        level = job.topology_level if job.topology_required else ""
        needs_devices = ask.shape.needs_devices
        for row in sorted({*(room >= need).nonzero()[0].tolist(), *steps}):
            facts = fleet.by_row.get(row)
            if facts is None:
                continue
            scope = facts[1].model if needs_devices else 0, facts[0].node.topology.get(level, "")
            missing[scope] = missing.get(scope, job.replicas) - free[row] // need
            if steps.get(row):
                scopes.setdefault(scope, []).append(row)
    if job.replicas == 1:
        rows_by_cost = sorted(scopes, key=lambda one: (steps[one[0]][0].cost, fleet.by_row[one[0]][0].node.name, one))
        scopes = {scope: scopes[scope] for scope in rows_by_cost[:MOST_SCOPES]}
    ranked: list[tuple[Cost, str, tuple[int, str], list[list[Victim]]]] = []
    for scope, rows in scopes.items():
        batches = _cheapest(fleet, steps, rows, missing[scope])
        if batches:
            name = min(fleet.by_row[row][0].node.name for row in rows)
            ranked.append((_cost(batches[0]), name, scope, batches))
    ranked.sort(key=lambda one: one[:3])
    return [(cost, batches) for cost, _, _, batches in ranked[:MOST_SCOPES]]


def _room(fleet: Fleet, tables: Tables, ask: Ask) -> tuple[Ints, int]:
    """By row what is free for such members, and what one needs: thousandths of devices, or of CPU cores. Where pods are
    what is short, no more is free than so many members need."""
    room, need = _room_by_size(fleet, tables, ask)
    pods = fleet.columns.row[PODS, : fleet.columns.rows].clip(min=0)
    return np.minimum(room, pods * need).astype(int), need


def _room_by_size(fleet: Fleet, tables: Tables, ask: Ask) -> tuple[Ints, int]:
    shape, columns = ask.shape, fleet.columns
    table = tables.get(shape)
    if shape.whole:
        return 1000 * table.usable.sum(axis=0), 1000 * shape.whole
    if shape.needs_devices:
        # What a share of memory or a partition is differs by model: the least stands for all.
        milli = shape.milli if ask.milli is None else int(ask.milli[ask.allowed].min(initial=WHOLE_DEVICE))
        free = columns.device[FREE, :, : columns.rows]
        return (free * table.usable).sum(axis=0).clip(min=0).astype(int), max(1, milli)
    return columns.row[CPU, : columns.rows].clip(min=0).astype(int), max(1, shape.cpu_milli)


def _by_row(fleet: Fleet, ask: Ask, useful: list[Victim], need: int) -> dict[int, list[tuple[Victim, int]]]:
    """Victims by row, in order of harm, with what each would free there; those that free nothing there last.
    On a node without a pod left each pod counts as what one member needs."""
    found: dict[int, list[tuple[Victim, int]]] = {}
    others: dict[int, list[tuple[Victim, int]]] = {}
    needs_devices, admits = ask.shape.needs_devices, ask.reach.admits
    open_to = (ask.allowed & ask.in_time).tolist()
    for victim in useful:
        frees: dict[int, int] = {}
        for member in victim.claim.members:
            facts = fleet.nodes.get(member.node)
            if facts is None or not admits(facts.number):
                continue
            no_pod_left = bool(fleet.columns.row[PODS, facts.rows[0].row] < 1)
            for row in facts.rows:
                if not needs_devices:
                    freed = need if no_pod_left else member.cpu_milli
                    frees[facts.rows[0].row] = frees.get(facts.rows[0].row, 0) + freed
                    break
                if open_to[row.model]:
                    frees[row.row] = frees.get(row.row, 0) + (need if no_pod_left else 0)
            for claim in member.devices if needs_devices and not no_pod_left else ():
                device = facts.devices.get(claim.device_id)
                if device is not None and device.row in frees:
                    frees[device.row] += claim.milli
        for row_number, milli in frees.items():
            (found if milli else others).setdefault(row_number, []).append((victim, milli))
    for row_number, rest in others.items():
        found.setdefault(row_number, []).extend(rest)
    return found


def _steps(victims: list[tuple[Victim, int]], room: int, need: int) -> list[Step]:
    steps: list[Step] = []
    group: list[Victim] = []
    for victim, milli in victims:
        group.append(victim)
        gain = (room + milli) // need - room // need
        room += milli
        if gain > 0:
            steps.append(Step(tuple(group), gain, _cost(group, gain)))
            group = []
    if group:
        steps.append(Step(tuple(group), 0, _cost(group)))
    return steps


def _cheapest(fleet: Fleet, steps: dict[int, list[Step]], rows: list[int], missing: int) -> list[list[Victim]]:
    """Steps in order of cost, those of one row in theirs: enough for what is missing first, then one by one."""
    heap = [(steps[row][0].cost, fleet.by_row[row][0].node.name, row, 0) for row in rows]
    heapq.heapify(heap)
    first: list[Victim] = []
    rest: list[list[Victim]] = []
    while heap:
        _, name, row, position = heapq.heappop(heap)
        step = steps[row][position]
        if missing > 0:
            first += step.victims
            missing -= step.gain
        else:
            rest.append(list(step.victims))
        if position + 1 < len(steps[row]):
            heapq.heappush(heap, (steps[row][position + 1].cost, name, row, position + 1))
    if missing > 0 and not first:
        return []
    return [first, *rest[:MOST_SCOPES], [victim for step in rest[MOST_SCOPES:] for victim in step]]
