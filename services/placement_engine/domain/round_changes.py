"""What a plan of a round changes: where those go that take a place, and who is stopped for them.

It is tried on a supposition first: nobody is stopped for one that would not fit or that fits beside it, who is in
nobody's way runs on, and so does one that would find no room where the plan wants it to go on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from placement_engine.domain.attained import Attained
from placement_engine.domain.columns import Ints
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import Claim, Job, Member, Preemption, PreemptionKind
from placement_engine.domain.reservations import Bookings
from placement_engine.domain.reserve import Reserver
from placement_engine.domain.round_assignment import WAITS
from placement_engine.domain.round_shares import Contenders
from placement_engine.domain.shapes import Ask
from placement_engine.domain.supposition import Supposition
from placement_engine.domain.tables import Tables
from placement_engine.domain.victims import work_lost

__all__ = ["Changes", "Outcome", "stop_for"]

TRIES = 3


@dataclass(slots=True)
class Outcome:
    """`kinds`: the model of each job that takes a place. `at_once`: those of them that wait for nobody."""

    stopped: list[Preemption] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)
    at_once: list[str] = field(default_factory=list)


class Changes:
    """Of one engine. `ending` is its own."""

    def __init__(
        self,
        fleet: Fleet,
        tables: Tables,
        reserver: Reserver,
        bookings: Bookings,
        attained: Attained,
        ending: set[str],
    ) -> None:
        self._fleet, self._tables, self._reserver = fleet, tables, reserver
        self._bookings, self._attained, self._ending = bookings, attained, ending

    def carry_out(self, contenders: Contenders, running: list[Claim], kind: Ints, now: float) -> Outcome:
        """Keeps a place for all who take one, and stops who is in their way and who goes elsewhere. `running` are the
        first of the contenders; kind: the plan, -1: it waits."""
        changes = np.flatnonzero(kind != contenders.sits).tolist()
        leaving = {at: running[at] for at in changes if at < len(running)}
        incoming = [at for at in changes if kind[at] != WAITS]
        if not leaving:
            return Outcome(kinds={contenders.jobs[at].job_id: int(kind[at]) for at in incoming})
        density = contenders.value[np.arange(kind.size), kind] / contenders.scale
        late = np.where(contenders.overdue >= 0, contenders.overdue, kind.size)
        # Members of many devices first: they are the hardest to place.
        jobs = contenders.jobs
        incoming.sort(key=lambda at: (-jobs[at].priority, late[at], -jobs[at].devices, -density[at], at))
        places = self._settled(contenders, leaving, incoming, kind, now)
        return self._keep(contenders, leaving, places, kind, now)

    def _settled(
        self, contenders: Contenders, leaving: dict[int, Claim], incoming: list[int], kind: Ints, now: float
    ) -> dict[int, tuple[Member, ...]]:
        """Places for those that come in, with which nobody loses its own who should not: neither one that was to go
        on elsewhere and finds no room there, nor one whose devices go to lower priorities alone. Those are taken out
        of `leaving`: they stay."""
        for _ in range(TRIES):
            places = self._places(contenders, leaving, incoming, kind, now)
            takers = _takers(leaving, places)
            stay = {at for at in leaving if at in incoming and at not in places}
            stay |= {at for at in takers if at not in places and _goes_lower(contenders, at, takers[at])}
            if not stay:
                return places
            useless = {taker for at in stay for taker in takers.get(at, ()) if _goes_lower(contenders, at, [taker])}
            incoming = [at for at in incoming if at not in stay and at not in useless]
            for at in stay | (useless & set(leaving)):
                del leaving[at]
        # It does not come to rest: nobody goes elsewhere, and what only lower priorities would take stays.
        for at in [at for at in leaving if kind[at] != WAITS]:
            del leaving[at]
        incoming = [at for at in incoming if contenders.sits[at] == WAITS]
        places = self._places(contenders, leaving, incoming, kind, now)
        for at, takers_of_one in _takers(leaving, places).items():
            if _goes_lower(contenders, at, takers_of_one):
                for taker in takers_of_one:
                    places.pop(taker, None)
        return places

    def _places(
        self, contenders: Contenders, leaving: dict[int, Claim], incoming: list[int], kind: Ints, now: float
    ) -> dict[int, tuple[Member, ...]]:
        """Where those that come in go, in this order, once all that leave are gone; without those that find no room.
        What is free is taken first: nobody is stopped for one that fits beside it."""
        places: dict[int, tuple[Member, ...]] = {}
        with self._bookings.in_full(), Supposition(self._fleet, self._tables, self._reserver) as suppose:
            for gone in ((), leaving.values()):
                for claim in gone:
                    suppose.end(claim)
                for at in incoming:
                    job = contenders.jobs[at]
                    members = None
                    if at not in places:
                        members = suppose.placement(job, self._ask_on(job, int(kind[at])), now)
                    if members is not None:
                        suppose.hold(job.job_id, members)
                        places[at] = members
        return places

    def _ask_on(self, job: Job, model: int) -> Ask:
        ask = self._tables.ask(self._attained.shape_of(job.job_id))
        only = np.zeros_like(ask.in_time)
        only[model] = True
        return replace(ask, in_time=only)

    def _keep(
        self,
        contenders: Contenders,
        leaving: dict[int, Claim],
        places: dict[int, tuple[Member, ...]],
        kind: Ints,
        now: float,
    ) -> Outcome:
        found = Outcome()
        takers = _takers(leaving, places)
        jobs = contenders.jobs
        # Who is stopped, and for whom.
        gone = {at: max(of, key=lambda one: jobs[one].priority) for at, of in takers.items()}
        gone.update((at, at) for at in places if at in leaving)
        waits_for: dict[int, list[str]] = {at: [] for at in places}
        for at, of in takers.items():
            for taker in of:
                waits_for[taker].append(jobs[at].job_id)
        self._ending.update(jobs[at].job_id for at in gone)
        for at, members in places.items():
            job = jobs[at]
            if at in leaving:
                job = replace(job, attempt=job.attempt + 1)
            found.kinds[job.job_id] = int(kind[at])
            ask = self._ask_on(job, int(kind[at]))
            self._bookings.nominate(job, ask, members, tuple(waits_for[at]), now)
            if at not in leaving and not waits_for[at]:
                found.at_once.append(job.job_id)
        for at, other in sorted(gone.items()):
            found.stopped.append(stop_for(leaving[at], jobs[other], self._fleet.models.names[int(kind[at])], now))
        return found


def stop_for(claim: Claim, taker: Job, model: str, now: float) -> Preemption:
    """The stop of one whose place goes to `taker`; or, where that is itself, of one that goes on on `model`."""
    if claim.job.job_id == taker.job_id:
        message = f"goes on on {model}, where its work is worth more; the place is kept"
    else:
        message = f"its round is over: its place goes to {taker.name or taker.job_id}"
    lost = work_lost(claim, now)
    return Preemption(claim.job.job_id, claim.job.attempt, taker.job_id, PreemptionKind.ROUND, lost, message)


def _takers(leaving: Mapping[int, Claim], places: Mapping[int, tuple[Member, ...]]) -> dict[int, list[int]]:
    """By who leaves, those others who get one of its devices, in the order of `places`."""
    holder = {
        (member.node, device.device_id): at
        for at, claim in leaving.items()
        for member in claim.members
        for device in member.devices
    }
    found: dict[int, list[int]] = {}
    for at, members in places.items():
        keys = [(member.node, device.device_id) for member in members for device in member.devices]
        for other in dict.fromkeys(holder[key] for key in keys if key in holder):
            if other != at:
                found.setdefault(other, []).append(at)
    return found


def _goes_lower(contenders: Contenders, at: int, takers: Iterable[int]) -> bool:
    """Whether all who take what the job has are of lower priority."""
    return all(contenders.jobs[taker].priority < contenders.jobs[at].priority for taker in takers)
