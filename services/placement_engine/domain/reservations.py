"""What is kept for jobs that wait: reservations with backfill (EASY), and what preemption frees.

EASY (Lifka, "The ANL/IBM SP scheduling system", 1995): the first blocked job of a cycle, in queue order, that
could ever start by the forecast gets a reservation: a time and the devices and host resources it will hold
then. A job behind it may use them only if it is expected to end before that time, by the upper end of what
is known of its duration; where that is unknown it may not. So no job behind delays the reserved start.

A nomination keeps what a preemption frees, and the free devices that go with it, for the job it was done
for, against every job that is not of higher priority.

In a cycle both are claims in the name of the waiting job: the columns show them as taken, so they need no
mask of their own. Outside of a cycle the columns are free of them.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum

from placement_engine.domain.fleet import Fleet
from placement_engine.domain.forecast import Ends, Start, earliest_start
from placement_engine.domain.model import Claim, DeviceClaim, Job, Member, Reason
from placement_engine.domain.policy import Policy
from placement_engine.domain.reserve import Reservation, Reserver
from placement_engine.domain.shapes import Ask, lead_job, least_replicas
from placement_engine.domain.tables import Table, Tables
from placement_engine.domain.victims import in_words, work_lost

MOST_NAMED = 3
MOST_EXPLAINED = 8
"""Most jobs in a cycle for which it is looked whether a booking holds them back."""


class Keep(Enum):
    RESERVED = "reserved"
    NOMINATED = "nominated"


@dataclass(frozen=True, slots=True)
class Booking:
    """`members` are kept for the waiting job from `at` on; `after` are the running jobs it waits for."""

    job: Job
    keep: Keep
    at: float
    members: tuple[Member, ...]
    after: tuple[str, ...]
    watts: float
    """Expected peak on each device, W; 0 where unknown."""
    fraction: float


class Bookings:
    """The reservations and nominations of one engine. `claims`, `ending` and `leaving` are the engine's own."""

    def __init__(
        self,
        fleet: Fleet,
        tables: Tables,
        reserver: Reserver,
        ends: Ends,
        policy: Policy,
        *,
        claims: Mapping[str, Claim],
        ending: Collection[str],
        leaving: Mapping[str, Claim],
    ) -> None:
        self._fleet = fleet
        self._tables = tables
        self._reserver = reserver
        self._ends = ends
        self._policy = policy
        self._claims = claims
        self._ending = ending
        self._parting = leaving
        self.nominations: dict[str, Booking] = {}
        self._freed_at: dict[str, float] = {}
        self._given_up: dict[str, list[tuple[Booking, float | None]]] = {}
        """In the present cycle or else the last: nominations dropped as a job was placed, and since when free."""
        self.reservations: dict[str, Booking] = {}
        """Of the present cycle, or else of the last."""
        self._on: dict[str, tuple[Booking, tuple[Member, ...]]] = {}
        self._tries = 0
        self._words = 0
        self._generation = 0
        self._clock_left = -1
        self._forecasts: dict[str, tuple[int, float, Job, Start | None, float]] = {}
        """Generation, until when it is taken as it is, the job, its start, until when it is if nothing changes."""
        self._forecasts_left = 0

    # -- a cycle ---------------------------------------------------------------------------------

    @contextmanager
    def cycle(self, waiting: Mapping[str, Job], now: float) -> Iterator[None]:
        """Nominations are kept from the start, reservations as they are made; both are let go at the end."""
        if self._fleet.columns.clock != self._clock_left:
            self._generation += 1
        for job_id, booking in list(self.nominations.items()):
            job = waiting.get(job_id)
            if job_id not in self._ending and (job is None or not _same(job, booking.job)):
                self.drop(job_id)
            else:
                # Here and not where the job is tried: behind one alike that does not fit it is not tried at all.
                self._give_up_in_time(job_id, booking, now)
        self._forecasts = {j: known for j, known in self._forecasts.items() if j in waiting}
        self.reservations = {}
        self._given_up = {}
        self._tries, self._words = self._policy.backfill_tries, MOST_EXPLAINED
        self._forecasts_left = self._policy.forecasts_per_cycle
        with self._kept(self.nominations.values()):
            yield
        self._clock_left = self._fleet.columns.clock

    @contextmanager
    def as_of_last_cycle(self, job_id: str) -> Iterator[None]:
        """For questions between cycles: all bookings but the job's own are kept."""
        self._tries, self._words = 1, 1
        bookings = (*self.nominations.values(), *self.reservations.values())
        with self._kept(b for b in bookings if b.job.job_id != job_id):
            yield

    @contextmanager
    def _kept(self, bookings: Collection[Booking] | Iterator[Booking]) -> Iterator[None]:
        try:
            for booking in bookings:
                self._put(booking)
            yield
        finally:
            for job_id in reversed(list(self._on)):
                self._take(job_id)

    @contextmanager
    def in_full(self) -> Iterator[None]:
        """For suppositions, in which jobs that bookings wait for may be taken out: those devices stay booked."""
        bookings = [booking for booking, _ in self._on.values()]
        for booking in bookings:
            self._take(booking.job.job_id)
            self._put(booking, in_full=True)
        try:
            yield
        finally:
            for booking in bookings:
                self._take(booking.job.job_id)
                self._put(booking)

    @contextmanager
    def without(self, job_ids: Collection[str]) -> Iterator[None]:
        """These bookings are let go meanwhile."""
        taken = [self._on[job_id][0] for job_id in job_ids if job_id in self._on]
        for booking in taken:
            self._take(booking.job.job_id)
        try:
            yield
        finally:
            for booking in taken:
                self._put(booking)

    def _put(self, booking: Booking, *, in_full: bool = False) -> None:
        members = booking.members if in_full else self._beyond_what_ends(booking)
        self._on[booking.job.job_id] = booking, members
        watts = 0.0 if in_full else booking.watts
        self._fleet.hold_all(_holder(booking.job.job_id), members, float("inf"), watts, booking.fraction)

    def _take(self, job_id: str) -> None:
        _, members = self._on.pop(job_id)
        self._fleet.let_go_all(_holder(job_id), members)

    def _beyond_what_ends(self, booking: Booking) -> tuple[Member, ...]:
        """What must stay free now: the members, less what the jobs it waits for still hold there themselves."""
        milli: dict[tuple[str, str], int] = {}
        host: dict[str, tuple[int, int, int]] = {}
        for job_id in booking.after if booking.keep is Keep.RESERVED else self._leaving(booking):
            claim = self._claim(job_id)
            for member in claim.members if claim is not None else ():
                cpu, memory, pods = host.get(member.node, (0, 0, 0))
                host[member.node] = cpu + member.cpu_milli, memory + member.memory_bytes, pods + member.pods
                for device in member.devices:
                    key = member.node, device.device_id
                    milli[key] = milli.get(key, 0) + device.milli
        result = []
        for member in booking.members:
            devices: list[DeviceClaim] = []
            for device in member.devices:
                key = member.node, device.device_id
                covered = min(device.milli, milli.get(key, 0))
                milli[key] = milli.get(key, 0) - covered
                if device.milli > covered:
                    devices.append(replace(device, milli=device.milli - covered))
            cpu, memory, pods = host.get(member.node, (0, 0, 0))
            less_cpu, less_memory = min(cpu, member.cpu_milli), min(memory, member.memory_bytes)
            less_pods = min(pods, member.pods)
            host[member.node] = cpu - less_cpu, memory - less_memory, pods - less_pods
            left = replace(
                member,
                devices=tuple(devices),
                cpu_milli=member.cpu_milli - less_cpu,
                memory_bytes=member.memory_bytes - less_memory,
                pods=member.pods - less_pods,
            )
            if left.devices or left.cpu_milli or left.memory_bytes or left.pods:
                result.append(left)
        return tuple(result)

    # -- placing ---------------------------------------------------------------------------------

    def place(self, job: Job, ask: Ask, table: Table, now: float) -> tuple[Table, Reservation] | None:
        """Claims for the job beside what is kept for others, or in it where the job may. None: it does not fit."""
        if not self._on:
            reservation = self._reserver.reserve(job, ask, table, now)
            return None if reservation is None else (table, reservation)
        with self.without((job.job_id,)):
            if job.job_id in self.nominations:
                table = self._tables.get(ask.shape)
            reservation = self._reserver.reserve(job, ask, table, now)
            if reservation is not None:
                return table, reservation
            return self._pass_over(job, ask, now)

    def placed(self, job: Job, members: tuple[Member, ...]) -> None:
        """The job has its claims: nothing is kept for it, nor for those of lower priority whose place it took."""
        self._generation += 1
        if not self.nominations and not self.reservations:
            return
        gone = [
            b.job.job_id
            for b in (*self.nominations.values(), *self.reservations.values())
            if b.job.job_id == job.job_id
            or (b.keep is Keep.NOMINATED and b.job.priority < job.priority and _collide(members, b.members))
        ]
        nominated = [(self.nominations[one], self._freed_at.get(one)) for one in gone if one in self.nominations]
        if nominated:
            self._given_up[job.job_id] = nominated
        for job_id in gone:
            self.drop(job_id)

    def not_placed(self, job_id: str) -> None:
        """The job's claims of the last cycle were taken back: what was kept then is kept again."""
        for booking, freed_at in self._given_up.pop(job_id, ()):
            self.nominations.setdefault(booking.job.job_id, booking)
            if freed_at is not None:
                self._freed_at.setdefault(booking.job.job_id, freed_at)

    def drop(self, job_id: str) -> None:
        """Nothing is kept any more for the job."""
        if job_id in self._on:
            self._take(job_id)
        self.nominations.pop(job_id, None)
        self._freed_at.pop(job_id, None)
        self.reservations.pop(job_id, None)

    def _pass_over(self, job: Job, ask: Ask, now: float) -> tuple[Table, Reservation] | None:
        """Lower nominations give way; a reservation does to a job that ends before its start."""
        lower = [job_id for job_id in self.yielding_to(job) if job_id in self._on]
        reserved = [b for b, members in self._on.values() if b.keep is Keep.RESERVED and members]
        if reserved:
            in_time = self._ends_before(job, ask, now, min(b.at for b in reserved))
            if in_time is not None:
                ask = in_time
            else:
                reserved = []
        over = [*lower, *(b.job.job_id for b in reserved)]
        if not over or self._tries <= 0:
            return None
        self._tries -= 1
        with self.without(over):
            table = self._tables.get(ask.shape)
            reservation = self._reserver.reserve(job, ask, table, now)
        return None if reservation is None else (table, reservation)

    def _ends_before(self, job: Job, ask: Ask, now: float, at: float) -> Ask | None:
        """The ask on the accelerators where the job surely ends by then; None: on none."""
        if (job.expected_duration_seconds is None and job.character is None) or now >= at:
            return None
        if not ask.shape.needs_devices:
            seconds = job.expected_duration_seconds
            return ask if seconds is not None and now + seconds <= at else None
        lead, models = lead_job(job), self._fleet.models
        longest = lead.replicas / least_replicas(lead)  # an elastic gang may get no more than its least
        in_time = ask.in_time.copy()
        for m in range(in_time.shape[0]):
            if in_time[m] and ask.allowed[m] and models.counts[m] > 0:
                expected = self._ends.expectation(job, models.names[m], ask.shape)
                likely = expected.duration_seconds
                most = None if likely is None else likely * (1 + (expected.relative_uncertainty or 0.0)) * longest
                in_time[m] = most is not None and now + most <= at
        return replace(ask, in_time=in_time) if bool((in_time & ask.allowed).any()) else None

    # -- nominations -----------------------------------------------------------------------------

    def _leaving(self, booking: Booking) -> list[str]:
        """Those whose end the job still waits for. One that was stopped may have been placed again since."""
        return [key for key in booking.after if key in self._ending or key in self._parting]

    def _claim(self, key: str) -> Claim | None:
        """Of a job, or of members of one that are on their way out."""
        return self._claims.get(key) or self._parting.get(key)

    def resized(self) -> None:
        """A gang has got members: what was forecast is to be looked at again."""
        self._generation += 1

    def _give_up_in_time(self, job_id: str, booking: Booking, now: float) -> None:
        """Where the job does not fit though all are gone (what they did is still to leave telemetry), its place is kept
        for some seconds more."""
        if self._leaving(booking):
            return
        if now - self._freed_at.setdefault(job_id, now) >= self._policy.nomination_seconds:
            self.drop(job_id)

    def yielding_to(self, job: Job) -> list[str]:
        """Whose nominations do not count for the job: its own, and those of lower priority."""
        return [
            job_id
            for job_id, booking in self.nominations.items()
            if job_id == job.job_id or booking.job.priority < job.priority
        ]

    def stays(self, job_id: str) -> None:
        """A job that was to be stopped was not: what was kept in its place is not to be had, and it needs no other."""
        self.drop(job_id)
        for booking in [b for b in self.nominations.values() if job_id in b.after]:
            self.drop(booking.job.job_id)

    # -- reserving -------------------------------------------------------------------------------

    def nominate(self, job: Job, ask: Ask, members: tuple[Member, ...], after: tuple[str, ...], now: float) -> None:
        """Keeps `members` for the job, against all of not higher priority, until it is placed."""
        for booking in [b for b in self.nominations.values() if b.job.priority < job.priority]:
            if _collide(members, booking.members):
                self.drop(booking.job.job_id)
        self._generation += 1
        booking = self._booking(job, ask, Keep.NOMINATED, Start(now, members, after))
        self.nominations[job.job_id] = booking
        self._put(booking)

    def reserve(self, job: Job, ask: Ask, now: float) -> bool:
        """Reserves for a blocked job, if its turn has come and the forecast sees a start. True: a new promise."""
        policy = self._policy
        if job.job_id in self.nominations:
            return False
        if len(self.reservations) >= policy.reservations or now - job.submitted_at < policy.reservation_after_seconds:
            return False
        if self._forecasts_left <= 0:
            return False
        # Counted whether it is known or not: what is remembered must not decide how far down the queue it goes.
        self._forecasts_left -= 1
        known = self._forecasts.get(job.job_id)
        if (
            known is not None
            and known[2] == job
            and not self._taken_since(known[3])
            and (now < known[1] or (known[0] == self._generation and now < known[4]))
        ):
            start = known[3]
        else:
            start = self._forecast(job, ask, now)
        if start is None:
            return False
        if any(member.node not in self._fleet.nodes for member in start.members):
            return False
        booking = self._booking(job, ask, Keep.RESERVED, start)
        self.reservations[job.job_id] = booking
        self._put(booking)
        return known is None or known[3] is None or known[3].at != start.at

    def _taken_since(self, start: Start | None) -> bool:
        """Whether a nomination has been given what an earlier forecast counted on."""
        return start is not None and any(_collide(start.members, b.members) for b in self.nominations.values())

    def _forecast(self, job: Job, ask: Ask, now: float) -> Start | None:
        with self.in_full():
            start = earliest_start(
                self._fleet,
                self._tables,
                self._reserver,
                self._ends,
                job=job,
                ask=ask,
                now=now,
                ending=self._ending,
                most=self._policy.forecast_claims,
            )
        until = now + self._policy.plan_retry_seconds
        if start is not None:
            until = min(until, start.at)
        unchanged_until = next((end for end, _ in self._ends.in_order(now, self._ending)), float("inf"))
        self._forecasts[job.job_id] = self._generation, until, job, start, unchanged_until
        return start

    def _booking(self, job: Job, ask: Ask, keep: Keep, start: Start) -> Booking:
        first = start.members[0]
        facts = self._fleet.nodes[first.node]
        watts = 0.0
        device = facts.devices.get(first.devices[0].device_id) if first.devices else None
        if device is not None:
            watts = float(ask.watts[self._fleet.by_row[device.row][1].model])
        return Booking(job, keep, start.at, start.members, start.after, watts, ask.shape.fraction)

    # -- words -----------------------------------------------------------------------------------

    def promise(self, job_id: str, now: float) -> tuple[Reason, ...]:
        """What is kept for the job itself, as a reason why it waits."""
        booking = self.nominations.get(job_id) or self.reservations.get(job_id)
        if booking is None:
            return ()
        wait = max(0.0, booking.at - now)
        after = list(booking.after) if booking.keep is Keep.RESERVED else self._leaving(booking)
        numbers = {"jobs_before": float(len(after)), "devices": _devices(booking.members)}
        if booking.keep is Keep.NOMINATED:
            message = (
                f"is given the devices of {self._named(after)}, being stopped"
                if after
                else "its devices are kept for it"
            )
            stopped = [claim for job_id in after if (claim := self._claim(job_id)) is not None]
            # As of when they were told: what is said stays the same while they end.
            lost = sum(work_lost(claim, booking.at) for claim in stopped)
            numbers["work_lost_seconds"] = lost
            message += f": {words}" if (words := in_words(lost)) else ""
            return (Reason("Preemption", "PREEMPTING", 0, 0, message, numbers),)
        message = f"starts in about {_spoken(wait)}, after {self._named(after)}"
        return (Reason("Reservation", "RESERVED", 0, 0, message, numbers | {"starts_in_seconds": wait}),)

    def _named(self, job_ids: Collection[str]) -> str:
        """By their names where they are known."""
        jobs: dict[str, str] = {}  # members of one gang are named once, by the gang
        for key in job_ids:
            claim = self._claim(key)
            jobs[key if claim is None else claim.job.job_id] = key if claim is None else claim.job.name or key
        names = list(jobs.values())[:MOST_NAMED]
        more = len(jobs) - len(names)
        return f"{'job' if len(jobs) == 1 else 'jobs'} {', '.join(names)}" + (f" and {more} more" if more else "")

    def kept_on(self, nodes: Collection[str]) -> dict[str, Reason]:
        """Those nodes on which something is kept for a job, with a sentence that names it."""
        found: dict[str, Reason] = {}
        for booking, members in self._on.values():
            for node in {member.node for member in members} & set(nodes) - set(found):
                name, nominated = booking.job.name or booking.job.job_id, booking.keep is Keep.NOMINATED
                code = "HELD_FOR_NOMINATION" if nominated else "HELD_FOR_RESERVATION"
                found[node] = Reason("Reservation", code, 1, 0, f"what is free there is kept for job {name}")
        return found

    def held_back(self, job: Job, ask: Ask, now: float) -> tuple[tuple[Reason, ...], tuple[str, ...]]:
        """Reason and remedy, where the job would fit but for what is kept for others."""
        kept = [(b, members) for b, members in self._on.values() if members and b.job.job_id != job.job_id]
        if not kept or self._words <= 0:
            return (), ()
        self._words -= 1
        with self.without([b.job.job_id for b, _ in kept]):
            found = self._reserver.reserve(job, ask, self._tables.get(ask.shape), now)
            if found is not None:
                self._fleet.let_go_all(job.job_id, found.members)
        if found is None:
            return (), ()
        booking = min((b for b, _ in kept), key=lambda b: (b.keep is Keep.NOMINATED, b.at, b.job.job_id))
        wait = max(0.0, booking.at - now)
        name = booking.job.name or booking.job.job_id
        if booking.keep is Keep.NOMINATED:
            message = f"what is free is kept for job {name}, for which jobs are being stopped"
            return (Reason("Reservation", "HELD_FOR_NOMINATION", 0, 0, message),), ()
        numbers = {"reserved_start_in_seconds": wait}
        message = f"would delay the start of job {name} in about {wait:.0f} s"
        remedy = f"declare an expected_duration below {wait:.0f} s to be backfilled"
        return (Reason("Reservation", "HELD_FOR_RESERVATION", 0, 0, message, numbers),), (remedy,)


def _holder(job_id: str) -> str:
    """In whose name a booking is held in the columns: not the job's, which may take its claims meanwhile."""
    return f"kept for {job_id}"


def _same(job: Job, booked: Job) -> bool:
    """Whether the waiting job is the one that was booked for: another attempt at it is."""
    return replace(job, attempt=booked.attempt, not_before=booked.not_before) == booked


def _collide(members: tuple[Member, ...], others: tuple[Member, ...]) -> bool:
    """Whether both want a device, or, without devices, a node."""
    mine = {(m.node, d.device_id) for m in members for d in m.devices} or {(m.node, "") for m in members}
    theirs = {(m.node, d.device_id) for m in others for d in m.devices} or {(m.node, "") for m in others}
    return not mine.isdisjoint(theirs)


def _devices(members: tuple[Member, ...]) -> float:
    return sum(device.milli for member in members for device in member.devices) / 1000


def _spoken(seconds: float) -> str:
    """As a person says it: "200 s", "45 min", "5 h", "30 days"."""
    for unit, size, least in (("days", 86400, 172800), ("h", 3600, 7200), ("min", 60, 600)):
        if seconds >= least:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
