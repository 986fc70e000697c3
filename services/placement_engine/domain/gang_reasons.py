"""Why a gang does not fit as a whole, and the smallest change of its topology that would admit it now.

From the same bounds by which it is planned (spreading.py): members that each row could take.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from placement_engine.domain.columns import Bools, Ints
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import Job, Reason
from placement_engine.domain.shapes import Ask, jobs_of, least_replicas
from placement_engine.domain.spreading import Container, Need, containers, reach
from placement_engine.domain.topology import Topology, Wishes, asks_for_neighbours, members_in_one_domain, wishes_of


@dataclass(frozen=True, slots=True)
class Demand:
    """What the members of one group could have: `fits` (rows) and `usable` (slots, rows)."""

    ask: Ask
    fits: Ints
    usable: Bools


@dataclass(frozen=True, slots=True)
class Shortfall:
    """`part`: the group that is short, by its place; of a gang of one shape 0."""

    part: int
    reasons: tuple[Reason, ...]
    remedies: tuple[str, ...]


class GangReasons:
    def __init__(self, fleet: Fleet, topology: Topology) -> None:
        self._fleet = fleet
        self._topology = topology

    def fits(self, job: Job, demands: Sequence[Demand], wishes: Wishes | None = None) -> bool:
        """Whether one domain of the required level has room for the least of every group."""
        held = self._held(job, demands, wishes or wishes_of(job))
        least = [least_replicas(one) for one in jobs_of(job)]
        enough = [members >= count for members, count in zip(held, least, strict=True)]
        return bool(np.logical_and.reduce(enough).any())

    def shortfall(self, job: Job, demands: Sequence[Demand]) -> Shortfall | None:
        """None: every group has room, together in one domain where that is required."""
        wishes, parts = wishes_of(job), jobs_of(job)
        if self.fits(job, demands, wishes):
            return None
        most = [int(members.max(initial=0)) for members in self._held(job, demands, wishes)]
        short = [p for p, one in enumerate(parts) if most[p] < least_replicas(one)]
        remedies = tuple(self._remedies(job, demands, wishes))
        if not short:
            return Shortfall(0, (_apart(job, wishes),), remedies)
        at = short[0]
        count, least = most[at], least_replicas(parts[at])
        if count and not job.groups:
            remedies = (f"{count} of {least} replicas would fit now", *remedies)
        reasons = tuple(self._reasons(job, demands, wishes, at, count, least))
        return Shortfall(at, reasons, remedies)

    def _held(self, job: Job, demands: Sequence[Demand], wishes: Wishes) -> list[Ints]:
        """Members of each group that every domain of the required level holds, on its best model."""
        place = containers(self._topology, wishes, self._fleet.columns.rows)[-1]
        return [self._held_of(one, demand, wishes, place) for one, demand in zip(jobs_of(job), demands, strict=True)]

    def _held_of(self, job: Job, demand: Demand, wishes: Wishes, place: Container) -> Ints:
        fits = demand.fits
        if wishes.device_required and asks_for_neighbours(wishes, job.milli_per_member):
            domains = self._topology.device_domains(wishes.device_required)
            fits = np.minimum(fits, members_in_one_domain(demand.usable, domains, demand.ask.shape.whole))
        rows = np.flatnonzero(fits)
        need = Need(1, job.replicas, wishes.group_size)
        models = self._fleet.columns.model[rows] if demand.ask.shape.needs_devices else np.zeros_like(rows)
        groups = self._topology.level(wishes.group_level).domain if wishes.group_size > 1 else np.zeros_like(fits)
        held = np.zeros(place.count, dtype=np.intp)
        for model in sorted(set(models.tolist())):
            at = rows[models == model]
            held = np.maximum(held, reach(fits[at], place.domain[at], place.count, groups[at], need))
        return held

    def _reasons(
        self, job: Job, demands: Sequence[Demand], wishes: Wishes, part: int, count: int, least: int
    ) -> Iterator[Reason]:
        """The constraint of topology that binds, else the size; none where nothing of the group fits anywhere."""
        whose = f" of group {job.groups[part].name!r}" if job.groups else ""
        numbers = {"replicas": float(least), "replicas_that_fit": float(count)}

        def admits(changed: Wishes) -> bool:
            place = containers(self._topology, changed, self._fleet.columns.rows)[-1]
            held = self._held_of(jobs_of(job)[part], demands[part], changed, place)
            return int(held.max(initial=0)) >= least

        if wishes.device_required and admits(replace(wishes, device_required="")):
            code, level = "TOPOLOGY_DEVICES_APART", wishes.device_required
            message = f"{count} of {least} replicas{whose} fit with all devices of a replica in one {level}"
        elif wishes.group_size > 1 and admits(replace(wishes, group_size=1, group_level="")):
            code, level, size = "TOPOLOGY_GROUPS_APART", wishes.group_level, wishes.group_size
            message = f"{count} of {least} replicas{whose} fit at once in groups of {size}, each in one {level}"
            numbers["group_size"] = float(size)
        elif wishes.required and admits(replace(wishes, required="")):
            code, level = "TOPOLOGY_DOMAIN_TOO_SMALL", wishes.required
            names = self._topology.level(level).names
            message = f"the roomiest {level} holds {count} of {least} replicas{whose}"
            numbers["domains"] = float(len(names))
        elif count:
            code, message = "GANG_TOO_LARGE_NOW", f"{count} of {least} replicas{whose} fit at once on one model"
            if wishes.required:
                message = f"{count} of {least} replicas{whose} fit at once in one {wishes.required}"
        else:
            return
        yield Reason("Gang", code, 0, 0, message, numbers)

    def _remedies(self, job: Job, demands: Sequence[Demand], wishes: Wishes) -> Iterator[str]:
        """The tightest looser level at which all would fit now, for each level that is required."""
        if wishes.device_required and self.fits(job, demands, replace(wishes, device_required="")):
            yield f"it would fit now if one {wishes.device_required} were preferred, not required"
        if wishes.required:
            for level in self._looser(wishes.required):
                if self.fits(job, demands, replace(wishes, required=level)):
                    yield f"it would fit now in one {level}"
                    break
            else:
                if self.fits(job, demands, replace(wishes, required="")):
                    yield f"it would fit now if one {wishes.required} were preferred, not required"
        if wishes.group_size > 1:
            for level in self._looser(wishes.group_level):
                if self.fits(job, demands, replace(wishes, group_level=level)):
                    yield f"it would fit now with each group of {wishes.group_size} in one {level}"
                    break
            else:
                if self.fits(job, demands, replace(wishes, group_size=1, group_level="")):
                    yield f"it would fit now without groups of {wishes.group_size} in one {wishes.group_level}"

    def _looser(self, level: str) -> tuple[str, ...]:
        chain = self._topology.chain((level,))
        return chain[chain.index(level) + 1 :] if level in chain else ()


def _apart(job: Job, wishes: Wishes) -> Reason:
    return Reason(
        plugin="Gang",
        code="TOPOLOGY_DOMAIN_TOO_SMALL",
        nodes=0,
        devices=0,
        message=f"each of {len(job.groups)} groups fits in one {wishes.required}, no {wishes.required} holds them all",
        numbers={"groups": float(len(job.groups))},
    )


def not_together(job: Job) -> Reason:
    """For a gang whose members have room one by one, or group by group, and yet do not fit at once."""
    if job.groups:
        message = f"each of {len(job.groups)} groups fits alone, no arrangement of them was found that fits"
        return Reason("Gang", "GANG_GROUPS_COLLIDE", 0, 0, message, {"groups": float(len(job.groups))})
    return Reason(
        plugin="PowerHeadroom",
        code="SHARED_POWER_SHORT",
        nodes=0,
        devices=0,
        message=f"each of {job.replicas} replicas fits alone, together they exceed a power budget above their nodes",
        numbers={"replicas": float(job.replicas)},
    )
