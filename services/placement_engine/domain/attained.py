"""What work each job that takes turns has received, and what jobs that ended taught.

Work is counted in seconds at full speed: run time times the speed of the shape on the accelerator it ran on, as a
share of its fastest in this fleet, from profiles. What nobody measured counts as the slowest that is known, and
where nothing is known all accelerators are alike. A job that is stopped keeps what it had at its last checkpoint.
A release tells only that the devices are free: whether the job has ended or waits again shows by the next cycle.

After a restart the work of the present attempt is read back from its claim, the age from the submission; work of
earlier attempts and the sizes of ended jobs are not kept, and are learnt again (ADR 0033).
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from placement_engine.domain.columns import DEVICES, Floats, Ints
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import Claim, Job
from placement_engine.domain.service_index import ServiceIndex
from placement_engine.domain.shapes import Ask, Shape, shape_of
from placement_engine.domain.tables import Tables

__all__ = ["Account", "Attained", "speeds_of", "takes_turns"]

MOST_SHAPES = 256
"""Shapes that are told apart; of more, those without a job of which the fewest came are forgotten."""


def takes_turns(job: Job) -> bool:
    """Whether the job may be stopped and go on elsewhere at a round's end: it is preemptible, saves its work, is one
    shape of a fixed number of whole devices, and has promised no time at which it is done."""
    return bool(
        job.preemptible
        and job.checkpoint_seconds
        and job.devices
        and not (job.groups or job.device_milli)
        and job.max_devices <= job.devices
        and (job.min_replicas or job.replicas) == job.replicas
        and job.deadline is None
        and job.latency_target_seconds is None
    )


@dataclass(slots=True)
class Account:
    """Of one job, from its arrival until it has ended. Seconds, work in seconds at full speed."""

    shape: Shape
    waits_since: float
    """Since when it has no devices; of a job that runs: when it last got none."""
    saved: float = 0.0
    """Work in earlier attempts, as of their last checkpoints."""
    told: float = 0.0
    """Work that the index was told of."""


def speeds_of(ask: Ask, fleet: Fleet) -> Floats:
    """Speed of the shape on each model as a share of its fastest, 0: it cannot run there, were all devices free.
    Shape (models,)."""
    models, columns = fleet.models, fleet.columns
    speed = np.zeros(len(models))
    there = columns.row[DEVICES, : columns.rows].clip(min=0).astype(np.int64) // ask.shape.whole
    room = np.bincount(columns.model[: columns.rows].astype(np.int64), there, minlength=len(models))
    unknown = []
    for number in range(1, len(models)):
        option = ask.shape.whole, number
        runs = ask.allowed[number] and ask.meets_latency[number] and room[number] >= ask.shape.members
        if not runs or option in ask.outlook.impossible:
            continue
        estimate = ask.outlook.estimates.get(option)
        if estimate is not None and estimate.speed:
            speed[number] = estimate.speed
        else:
            unknown.append(number)
    known = speed[speed > 0]
    speed[unknown] = known.min() if known.size else 1.0
    best = speed.max(initial=0.0)
    return speed / best if best > 0 else speed


class Attained:
    """The accounts of one engine and its service index. Nothing is drawn and no clock is read."""

    def __init__(self, fleet: Fleet, tables: Tables) -> None:
        self._fleet, self._models, self._tables = fleet, fleet.models, tables
        self._accounts: dict[str, Account] = {}
        self._released: dict[str, tuple[Claim, float | None, bool]] = {}
        """What was released since the last cycle, when, and whether it had been told to stop."""
        self._rows: dict[Shape, int] = {}
        """Row of each shape in the index's table."""
        self._came: list[Shape] = []
        self._speed: Floats = np.zeros((0, 0))
        self._index = ServiceIndex(self._speed, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
        self.news = 0
        """How many have come and ended."""

    def knows(self, job_id: str) -> bool:
        return job_id in self._accounts

    def came(self, job: Job) -> None:
        """A job was submitted, or read back. Ignored where its account is open."""
        if job.job_id in self._accounts or not takes_turns(job):
            return
        shape = shape_of(job)
        self._accounts[job.job_id] = Account(shape, job.submitted_at)
        self._came.append(shape)
        self.news += 1

    def released(self, claim: Claim, at: float | None, *, told_to_stop: bool) -> None:
        """The devices are free since `at`; None: since the next cycle."""
        if claim.job.job_id in self._accounts:
            self._released[claim.job.job_id] = claim, at, told_to_stop

    def settle(self, now: float, waiting: Collection[str], held: Collection[str]) -> None:
        """Closes the accounts of jobs that have ended. Once a cycle."""
        if self._came:
            self._count_arrivals()
        for job_id, (claim, at, told_to_stop) in self._released.items():
            account, until = self._accounts[job_id], now if at is None else at
            ran = 0.0 if claim.started_at is None else max(0.0, until - claim.started_at)
            if job_id in waiting:
                account.waits_since = until
                ran -= math.fmod(ran, claim.job.checkpoint_seconds or ran or 1.0)
            row = self._rows[account.shape]
            work = account.saved + ran * self._speed_of(row, claim)
            self._index.served(np.array([row]), np.array([work - account.told]))
            account.saved = account.told = work
            # What a job that was being stopped came to, cancelled perhaps, is no size of a job.
            if job_id not in waiting and job_id not in held:
                if claim.started_at is not None and not told_to_stop:
                    self._index.ended(row, work)
                del self._accounts[job_id]
                self.news += 1
        self._released.clear()

    def _count_arrivals(self) -> None:
        new = [shape for shape in dict.fromkeys(self._came) if shape not in self._rows]
        if new:
            self._fit([*self._rows, *new])
        for shape in self._came:
            self._index.arrived(self._rows[shape])
        self._came.clear()

    def review(self, there: Iterable[Collection[str]]) -> None:
        """Once a round: closes the accounts of jobs that are in none of these, since they were withdrawn, and takes
        the fleet and the profiles as they are now."""
        jobs = tuple(there)
        for job_id in [one for one in self._accounts if not any(one in some for some in jobs)]:
            del self._accounts[job_id]
        shapes = list(self._rows)
        if len(shapes) > MOST_SHAPES:
            live = {account.shape for account in self._accounts.values()}
            seen = self._index.arrivals()
            spare = [shape for shape in shapes if shape not in live]
            spare.sort(key=lambda shape: (seen[self._rows[shape]], self._rows[shape]))
            gone = set(spare[: len(shapes) - MOST_SHAPES])
            shapes = [shape for shape in shapes if shape not in gone]
        self._fit(shapes)

    def _fit(self, shapes: list[Shape]) -> None:
        origin = np.array([self._rows.get(shape, -1) for shape in shapes], dtype=np.int64)
        self._rows = {shape: row for row, shape in enumerate(shapes)}
        speeds = [speeds_of(self._tables.ask(shape), self._fleet) for shape in shapes]
        self._speed = np.array(speeds).reshape(len(shapes), len(self._models))
        scale = np.array([shape.gang_devices for shape in shapes], dtype=np.int64)
        self._index.fit(self._speed, scale, np.array(self._models.counts, dtype=np.int64), origin)

    def _speed_of(self, row: int, claim: Claim) -> float:
        """On what the claim holds; of several models the slowest."""
        names = {device.model.casefold() for member in claim.members for device in member.devices}
        speeds = self._speed[row].tolist()
        held = [speed for name, speed in zip(self._models.names, speeds, strict=False) if name.casefold() in names]
        return min((speed for speed in held if speed > 0), default=1.0)

    # -- for a plan ------------------------------------------------------------------------------

    def shape_of(self, job_id: str) -> Shape:
        return self._accounts[job_id].shape

    def speed_of(self, job_ids: Sequence[str]) -> Floats:
        """Share of full speed of each job on each model, shape (jobs, models)."""
        return self._speed[self._rows_of(job_ids)]

    def waited(self, job_ids: Sequence[str], now: float) -> Floats:
        """Seconds since each job, all of which wait, came or was stopped."""
        return np.array([now - self._accounts[job_id].waits_since for job_id in job_ids])

    def worth(self, jobs: Sequence[tuple[Job, Claim | None]], now: float) -> Floats:
        """Of one second of work of each job at full speed. The index is told of the work that those which run have
        received since it was told last."""
        rows = self._rows_of([job.job_id for job, _ in jobs])
        work = np.zeros(len(jobs))
        delta = np.zeros(len(jobs))
        for at, (job, claim) in enumerate(jobs):
            account = self._accounts[job.job_id]
            work[at] = account.saved
            if claim is not None and claim.started_at is not None:
                work[at] += max(0.0, now - claim.started_at) * self._speed_of(int(rows[at]), claim)
            delta[at] = work[at] - account.told
            account.told = float(work[at])
        self._index.served(rows, delta)
        elapsed = np.array([max(0.0, now - job.submitted_at) for job, _ in jobs])
        return self._index.worth(rows, work, elapsed)

    def _rows_of(self, job_ids: Sequence[str]) -> Ints:
        return np.array([self._rows[self._accounts[job_id].shape] for job_id in job_ids], dtype=np.int64)
