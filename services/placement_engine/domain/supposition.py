"""What if: the fleet without some running jobs, and an exact way back.

A supposition changes the real columns, since everything that filters, scores and reserves reads them,
and remembers what it took out. Leaving the `with` block puts all of it back: the fleet's facts and
columns are then what they were, bit for bit (`Engine.state_digest` is the test).
"""

from types import TracebackType

import numpy as np

from placement_engine.domain.facts import MemberHold
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import Claim, Job, Member
from placement_engine.domain.reserve import Reserver
from placement_engine.domain.shapes import Ask
from placement_engine.domain.tables import EXCLUDED, Table, Tables


class Supposition:
    """Running jobs, or members of them, are taken out with `end` and put back with `resume`, in any order. A `key`
    stands for what was taken out; it is the job's id where it is the whole job."""

    def __init__(self, fleet: Fleet, tables: Tables, reserver: Reserver) -> None:
        self._fleet = fleet
        self._tables = tables
        self._reserver = reserver
        self._ended: dict[str, list[MemberHold]] = {}
        self._held: list[tuple[str, Member]] = []

    def __enter__(self) -> "Supposition":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for holder, member in reversed(self._held):
            self._fleet.let_go(holder, member)
        self._held.clear()
        for job_id in reversed(list(self._ended)):
            self.resume(job_id)

    def end(self, claim: Claim, key: str = "") -> None:
        """Supposes that the job has ended, or those members of it under a `key` of theirs. Ignored where that is
        supposed already; members that are out under another key stay so."""
        job_id = claim.job.job_id
        if (key or job_id) in self._ended:
            return
        with self._fleet.power_domains_later(), self._fleet.written_once():
            taken = [self._fleet.suppose_ended(job_id, member) for member in claim.members]
        self._ended[key or job_id] = [hold for hold in taken if hold is not None]

    def resume(self, key: str) -> None:
        """Supposes that the job, or the members of that key, run on."""
        with self._fleet.power_domains_later(), self._fleet.written_once():
            for hold in self._ended.pop(key, ()):
                self._fleet.put_back(hold)

    def is_ended(self, key: str) -> bool:
        return key in self._ended

    def start(self, job: Job, ask: Ask, now: float) -> tuple[Member, ...] | None:
        """Supposes that the job starts where it fits; None: it does not. It is held until `stop`."""
        found = self._reserver.reserve(job, ask, self._tables.get(ask.shape), now)
        return None if found is None else found.members

    def stop(self, claim: Claim) -> None:
        """Takes back a `start`."""
        self._fleet.let_go_all(claim.job.job_id, claim.members)

    def hold(self, job_id: str, members: tuple[Member, ...]) -> None:
        """Supposes that the job sits there, until the end of the supposition."""
        for member in members:
            self._held.append((f"supposed {job_id}", member))
            self._fleet.hold(*self._held[-1], float("inf"), 0.0, 1.0)

    def placement(self, job: Job, ask: Ask, now: float) -> tuple[Member, ...] | None:
        """Where the job would go, or None. Nothing stays claimed."""
        table = self._tables.get(ask.shape)
        if not self._enough(job, ask, table):
            return None
        found = self._reserver.reserve(job, ask, table, now)
        if found is None:
            return None
        self._fleet.let_go_all(job.job_id, found.members)
        return found.members

    def enough(self, job: Job, ask: Ask) -> bool:
        """Whether there are devices enough for the job on some model, if not in its place: quickly said no."""
        return self._enough(job, ask, self._tables.get(ask.shape))

    def _enough(self, job: Job, ask: Ask, table: Table) -> bool:
        if job.replicas == 1 or job.groups or not ask.shape.whole:
            return True
        members = table.usable.sum(axis=0) // ask.shape.whole
        members[table.score == EXCLUDED] = 0
        by_model = np.bincount(self._fleet.columns.model[: members.shape[0]], weights=members)
        return int(by_model.max(initial=0)) >= (job.min_replicas or job.replicas)
