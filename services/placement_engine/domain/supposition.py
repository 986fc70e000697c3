"""What if: the fleet without some running jobs, and an exact way back.

A supposition changes the real columns, since everything that filters, scores and reserves reads them,
and remembers what it took out. Leaving the `with` block puts all of it back: the fleet's facts and
columns are then what they were, bit for bit (`Engine.state_digest` is the test).
"""

from types import TracebackType

from placement_engine.domain.facts import MemberHold
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import Claim, Job, Member
from placement_engine.domain.reserve import Reserver
from placement_engine.domain.shapes import Ask
from placement_engine.domain.tables import Tables


class Supposition:
    """Running jobs are taken out with `end` and put back with `resume`, in any order."""

    def __init__(self, fleet: Fleet, tables: Tables, reserver: Reserver) -> None:
        self._fleet = fleet
        self._tables = tables
        self._reserver = reserver
        self._ended: dict[str, list[MemberHold]] = {}

    def __enter__(self) -> "Supposition":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for job_id in reversed(list(self._ended)):
            self.resume(job_id)

    def end(self, claim: Claim) -> None:
        """Supposes that the job has ended. Ignored where that is supposed already."""
        job_id = claim.job.job_id
        if job_id in self._ended:
            return
        taken = [self._fleet.suppose_ended(job_id, member) for member in claim.members]
        self._ended[job_id] = [hold for hold in taken if hold is not None]

    def resume(self, job_id: str) -> None:
        """Supposes that the job runs on."""
        for hold in self._ended.pop(job_id, ()):
            self._fleet.hold_again(hold)

    def is_ended(self, job_id: str) -> bool:
        return job_id in self._ended

    def start(self, job: Job, ask: Ask, now: float) -> tuple[Member, ...] | None:
        """Supposes that the job starts where it fits; None: it does not. It is held until `stop`."""
        found = self._reserver.reserve(job, ask, self._tables.get(ask.shape), now)
        return None if found is None else found.members

    def stop(self, claim: Claim) -> None:
        """Takes back a `start`."""
        for member in claim.members:
            self._fleet.let_go(claim.job.job_id, member)

    def placement(self, job: Job, ask: Ask, now: float) -> tuple[Member, ...] | None:
        """Where the job would go, or None. Nothing stays claimed."""
        table = self._tables.get(ask.shape)
        found = self._reserver.reserve(job, ask, table, now)
        if found is None:
            return None
        for member in found.members:
            self._fleet.let_go(job.job_id, member)
        return found.members
