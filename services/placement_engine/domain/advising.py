"""What the engine proposes when a device is cordoned: where each job on it could go now. Nothing is moved."""

from collections.abc import Mapping

from placement_engine.domain.facts import DeviceFacts
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.health_watch import Cordon
from placement_engine.domain.model import Advice, AdviceKind, Claim, Member, Move
from placement_engine.domain.reserve import Reserver
from placement_engine.domain.shapes import shape_of
from placement_engine.domain.tables import Tables

MOST_MIGRATIONS = 16
"""Proposals of one cycle: each is a placement tried on the whole fleet. The rest follow in the next cycles."""


class Adviser:
    def __init__(self, fleet: Fleet, tables: Tables, reserver: Reserver) -> None:
        self._fleet = fleet
        self._tables = tables
        self._reserver = reserver
        self.due: dict[str, str] = {}
        """Jobs whose migration is to be proposed, with the cordoned device."""

    def advise(self, claims: Mapping[str, Claim], now: float) -> tuple[Advice, ...]:
        """Cordons that are new, each told once, and proposals for the jobs on them."""
        if not self._fleet.fresh_cordons and not self.due:
            return ()
        advice = []
        fresh, self._fleet.fresh_cordons = sorted(set(self._fleet.fresh_cordons)), []
        for node, device_id in fresh:
            facts = self._fleet.nodes.get(node)
            device = facts.devices.get(device_id) if facts else None
            if device is None or device.watch is None or device.watch.cordon is None:
                continue  # gone or well again before anybody looked
            jobs = sorted({hold.job_id for hold in device.holds.values()})
            advice.append(_cordoned(node, device, device.watch.cordon, len(jobs)))
            for job_id in jobs:
                self.due.setdefault(job_id, device_id)
        for job_id in sorted(self.due)[:MOST_MIGRATIONS]:
            device_id = self.due.pop(job_id)
            claim = claims.get(job_id)
            if claim is not None:
                advice.append(self._migration(claim, device_id, now))
        return tuple(advice)

    def _migration(self, claim: Claim, device_id: str, now: float) -> Advice:
        job = claim.job
        lifted = [hold for member in claim.members if (hold := self._fleet.lift(job.job_id, member)) is not None]
        table = self._tables.get(shape_of(job))
        found = self._reserver.reserve(job, table.ask, table, now)
        members = () if found is None else found.members
        for member in members:
            self._fleet.let_go(job.job_id, member)
        for hold in lifted:
            self._fleet.put_back(hold)
        numbers = {"members": float(len(claim.members)), "preemptible": float(job.preemptible)}
        if not members:
            return Advice(
                kind=AdviceKind.MIGRATE,
                subject=job.job_id,
                message=f"sits on cordoned device {device_id}; it fits nowhere else now",
                numbers=numbers,
            )
        move = Move(job.job_id, tuple(m.node for m in claim.members), tuple(m.node for m in members))
        return Advice(
            kind=AdviceKind.MIGRATE,
            subject=job.job_id,
            message=f"sits on cordoned device {device_id}; it could go to {_places(members)}",
            moves=(move,),
            numbers=numbers,
        )


def _cordoned(node: str, device: DeviceFacts, cordon: Cordon, jobs: int) -> Advice:
    numbers = {"jobs": float(jobs), "code": float(cordon.code), "throttled_seconds": cordon.seconds}
    if device.margin is not None:
        numbers["margin_celsius"] = device.margin
    return Advice(
        kind=AdviceKind.CORDON,
        subject=device.device.device_id,
        message=f"device {device.device.index} of {node} takes no new work: {cordon.message}; {jobs} jobs run there",
        numbers=numbers,
    )


def _places(members: tuple[Member, ...], most: int = 3) -> str:
    places = [
        f"{member.node} ({', '.join(claim.device_id for claim in member.devices)})" if member.devices else member.node
        for member in members
    ]
    return ", ".join(places[:most]) + (", ..." if len(places) > most else "")
