"""What a queue's quotas come to: the figures for a read-out, and why a job must wait for one."""

import numpy as np

from placement_engine.domain.entitlement import entitled, reclaimable
from placement_engine.domain.model import Job, Reason
from placement_engine.domain.queues import Queues, Totals
from placement_engine.domain.quotas import Ledger, Line, least_milli
from placement_engine.domain.readouts import QuotaUsage
from placement_engine.domain.shapes import Ask

MOST_NAMED = 3


def accounts(queues: Queues, name: str) -> tuple[QuotaUsage, ...]:
    """One for each ledger that limits the queue, by accelerator."""
    found = []
    for ledger in queues.quotas.ledgers:
        line = ledger.line(name)
        if line is None:
            continue
        used = _used(queues, ledger, name)
        unused = max(0, line.nominal - used)
        found.append(
            QuotaUsage(
                accelerator=ledger.accelerator,
                nominal=line.nominal,
                used=used,
                borrowed=max(0, used - line.nominal),
                lent=ledger.lent(name),
                borrowable=max(0, line.room() - unused),
            )
        )
    return tuple(found)


def _used(queues: Queues, ledger: Ledger, name: str) -> int:
    usage = queues.usage.get(name)
    covering = queues.quotas.covering
    return sum(milli for model, milli in usage.models.items() if ledger in covering(model)) if usage else 0


def quota_exceeded(
    queues: Queues, totals: Totals, job: Job, ask: Ask
) -> tuple[tuple[Reason, ...], tuple[str, ...]] | None:
    """Reason and remedies where quotas leave the job none of the accelerators that it takes, else None.

    Of these the figures are of the one that comes nearest to having room.
    """
    if ask.within_quota is None:
        return None
    models, quotas = queues.models, queues.quotas
    wanted = [m for m in np.flatnonzero(ask.allowed).tolist() if models.counts[m]]
    if not wanted or any(ask.within_quota[m] for m in wanted):
        return None
    short = []
    for number in wanted:
        name, asked = models.names[number], least_milli(job, models, number)
        lines = [
            (line.room(), ledger, line)
            for ledger in quotas.covering(name.casefold())
            if (line := ledger.line(job.queue)) is not None
        ]
        room, ledger, line = min(lines, key=lambda one: (one[0], one[1].key))
        short.append((asked - room, name, number, asked, room, ledger, line))
    _, name, number, asked, room, ledger, line = min(short, key=lambda one: one[:3])
    used = _used(queues, ledger, job.queue)
    borrowed, lendable = max(0, used - line.nominal), max(0, room - max(0, line.nominal - used))
    kind = ledger.accelerator or "devices"
    reason = Reason(
        plugin="QueueQuota",
        code="QUEUE_QUOTA_EXCEEDED",
        nodes=0,
        devices=0,
        message=(
            f"queue {job.queue!r} owns {_devices(line.nominal)} {kind}, uses {_devices(used)} "
            f"({_devices(borrowed)} borrowed) and may take {_devices(room)} now "
            f"({_devices(lendable)} lent by others), the job asks for {_devices(asked)}"
        ),
        numbers={
            "nominal": line.nominal / 1000,
            "used": used / 1000,
            "borrowed": borrowed / 1000,
            "lendable": lendable / 1000,
            "asked": asked / 1000,
        },
    )
    remedies = [*_reclaims(queues, totals, job, number, asked, room, ledger), *_other_kinds(queues, job, ask)]
    remedies += _limits(line, asked, kind)
    return (reason,), tuple(remedies)


def _reclaims(
    queues: Queues, totals: Totals, job: Job, number: int, asked: int, room: int, ledger: Ledger
) -> list[str]:
    kind, milli = ledger.accelerator or "devices", {number: asked}
    found = [
        (reclaimable(queues, ledger, name, job.queue), name)
        for name in sorted(queues.own)
        if entitled(queues, totals, job.queue, milli, against=name)
    ]
    return [
        f"{_devices(milli)} {kind} of queue {name!r}, which borrows them, are reclaimable"
        for milli, name in sorted(found, key=lambda one: (-one[0], one[1]))[:MOST_NAMED]
        if milli > 0
    ]


def _other_kinds(queues: Queues, job: Job, ask: Ask) -> list[str]:
    """Accelerators that the job does not name and on which its queue has room for it."""
    models, found = queues.models, []
    for number in range(1, len(models)):
        if ask.allowed[number] or not models.counts[number]:
            continue
        name, asked = models.names[number], least_milli(job, models, number)
        room = queues.quotas.room(job.queue, name.casefold())
        if room is None:
            found.append(f"another kind: no quota limits {name}")
        elif room >= asked:
            found.append(f"another kind: {name} has {_devices(room)} within quota")
    return sorted(set(found))[:MOST_NAMED]


def _limits(line: Line, asked: int, kind: str) -> list[str]:
    """The borrowing limit on the way up that is in the way, or what must be owned or released first."""
    at, needed = line, asked
    found = []
    while at.parent is not None:
        needed = max(0, needed - max(0, at.kept - at.used))
        beyond = max(0, at.used - at.kept) + needed - (at.stored - at.kept)
        if at.borrowing is not None and beyond > at.borrowing:
            found.append(f"queue {at.name!r} needs a borrowing_limit of {_devices(beyond)} {kind} or more")
        at = at.parent
    if needed > at.stored:
        more = _devices(line.nominal + needed - at.stored)
        return [f"queue {line.name!r} needs a quota of {more} {kind} or more"]
    short = needed - (at.stored - at.used)
    if short <= 0:
        return found
    if found:
        return [f"{_devices(asked - line.room())} {kind} of queue {line.name!r} must be released first"]
    return [f"{_devices(short)} {kind} that queues with quotas hold must be released first"]


def _devices(milli: int) -> str:
    return f"{milli / 1000:g}"
