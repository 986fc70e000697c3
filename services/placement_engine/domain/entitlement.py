"""What a queue owns, and from whom it may take it back: the two questions of a reclaim.

A queue with a quota owns it. Queues without one share by weight what their parent owns beyond its
children's quotas, counting only queues that have work; the root owns the pool. Both answers look at the
same figures, from two sides: who is entitled stays at or below what it owns, who loses stays at or above.
So what was reclaimed cannot be reclaimed back, and no chain of reclaims goes round in a circle: each one
lowers what queues hold beyond what they own, and raises it nowhere.
"""

from collections.abc import Mapping

from placement_engine.domain.model import Reclaim
from placement_engine.domain.queues import Queues, Totals


def entitled(queues: Queues, totals: Totals, queue: str, asked: Mapping[int, int]) -> bool:
    """Whether the queue, with `asked` (milli by model number) more, stays within what it owns at every
    level of its path. A job without devices is entitled to nobody else's."""
    milli = sum(asked.values())
    if not totals.devices or milli <= 0:
        return False
    owned = float(totals.devices)
    for at in queues.path(queue):
        owned *= _part(queues, at, queue)
        if _used(queues, at) + milli > owned:
            return False
    return True


def may_take_from(
    queues: Queues,
    totals: Totals,
    victim_queue: str,
    for_queue: str,
    freed: Mapping[int, int],
    *,
    victim_priority: int = 0,
    for_priority: int = 0,
) -> bool:
    """Whether `for_queue` may take `freed` (milli by model number) from jobs of `victim_queue`.

    Below the least common ancestor of both, every queue on the victim's side must still hold at least what
    it owns afterwards. `for_queue`'s reclaim policy is kept: the priorities matter for `lower_priority`
    only. Within one queue nothing is reclaimed. Whether `for_queue` is `entitled` is asked apart.
    """
    milli = sum(freed.values())
    if victim_queue == for_queue or not totals.devices or milli <= 0:
        return False
    known = queues.known.get(for_queue)
    policy = known.reclaim if known else Reclaim.ANY
    if policy is Reclaim.NEVER or (policy is Reclaim.LOWER_PRIORITY and victim_priority >= for_priority):
        return False
    owned = float(totals.devices)
    above, mine = queues.path(victim_queue), queues.path(for_queue)
    shared = next((i for i, (a, b) in enumerate(zip(above, mine, strict=False)) if a != b), min(len(above), len(mine)))
    if shared == len(above):
        return False
    for depth, at in enumerate(above):
        owned *= _part(queues, at, for_queue)
        if depth >= shared and _used(queues, at) - milli < owned:
            return False
    return True


def _used(queues: Queues, name: str) -> int:
    usage = queues.usage.get(name)
    return usage.devices if usage else 0


def _part(queues: Queues, name: str, asking: str) -> float:
    """The queue's weight among its siblings that have work, the asking one's side included."""
    parent = queues.known[name].parent if name in queues.known else ""
    weights = {q.name: q.weight for q in queues.known.values() if q.parent == parent}
    if name not in queues.known or not parent:
        weights |= {other: 1.0 for other in {*queues.usage, *queues.order, name} if other not in queues.known}
    at_work = {at for at in (name, *queues.path(asking)) if at in weights}
    at_work |= {at for at in weights if (u := queues.usage.get(at)) is not None and u.jobs}
    at_work |= {at for at in weights if queues.waiting_below(at)}
    return weights[name] / sum(weights[at] for at in sorted(at_work))
