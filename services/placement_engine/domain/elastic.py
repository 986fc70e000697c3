"""How many members an elastic gang may wish for: no more than the limits and the quotas of its queue leave."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from placement_engine.domain.columns import Bools
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import Job
from placement_engine.domain.policy import Policy
from placement_engine.domain.queues import Queues
from placement_engine.domain.quotas import within_quota
from placement_engine.domain.reserve import Reservation, Reserve, Reserver
from placement_engine.domain.shapes import Ask, cut_to, least_replicas
from placement_engine.domain.spreading import Need
from placement_engine.domain.tables import Table
from placement_engine.domain.topology import wishes_of


class LimitedReserver(Reserver):
    """A reserver that gives an elastic gang no more than its queue may have. `member_milli`: thousandths of devices
    of a member of a job of one shape."""

    def __init__(
        self,
        fleet: Fleet,
        policy: Policy,
        gang: Reserve,
        queues: Queues,
        member_milli: Callable[[Job], int],
    ) -> None:
        super().__init__(fleet, policy, gang)
        self._queues = queues
        self._member_milli = member_milli
        self._whole_groups = policy.resize_gangs

    def reserve(self, job: Job, ask: Ask, table: Table, now: float) -> Reservation | None:
        if _is_fixed(job):
            return super().reserve(job, ask, table, now)
        # What is asked for counts, which may be more devices a member than the least.
        counted = replace(job, devices=ask.shape.whole) if ask.shape.flexible else job
        whole = self._whole_groups
        for sized, narrowed in within_limits(counted, ask, self._queues, self._member_milli, whole_groups=whole):
            reservation = super().reserve(replace(sized, devices=job.devices), narrowed, table, now)
            if reservation is not None:
                return reservation
        return None


def within_limits(
    job: Job, ask: Ask, queues: Queues, member_milli: Callable[[Job], int], *, whole_groups: bool = False
) -> Iterator[tuple[Job, Ask]]:
    """The job and its ask at sizes that it may have, the largest first; a job of a fixed size as it is.

    A quota may leave room for more members on one accelerator than on another: each size comes with the
    accelerators that take all of it, and a smaller one only where it brings further accelerators in.
    Groups (`group_size`) are not cut, but to come to the very minimum: that is what limits and quotas count when
    they let the job in, and who writes it can do with it. `whole_groups`: not even then, since gangs that are
    resized come and go in whole groups. `member_milli`: thousandths of devices of a member of a job of one shape.
    """
    if _is_fixed(job):
        yield job, ask
        return
    group = 1 if job.groups else wishes_of(job).group_size
    wished, least = job.replicas, least_replicas(job)
    if whole_groups:
        least = Need.of(least, wished, group).least
    job = cut_to(job, member_milli, lambda milli: queues.limit_hit(job.queue, milli) is None)
    if not job.groups and job.replicas < wished:
        size = max(job.replicas - job.replicas % group, least)
        if size > job.replicas:
            return
        job = replace(job, replicas=size)
    if not queues.quotas.limits(job.queue):
        yield job, ask
        return
    seen: Bools | None = None
    for sized in _sizes(job, least, group):
        may = queues.quotas.mask(_fixed(sized))
        narrowed = within_quota(ask, may)
        if bool(narrowed.in_time.any()) and (seen is None or bool((narrowed.in_time & ~seen).any())):
            yield sized, narrowed
            seen = narrowed.in_time
        if may is None:
            return


def _is_fixed(job: Job) -> bool:
    """Of one shape, and no fewer members than it wishes for."""
    return not job.groups and (not job.min_replicas or least_replicas(job) == job.replicas)


def _sizes(job: Job, least: int, group: int) -> Iterator[Job]:
    """From the wished size down to the least, between them in whole groups of members. Groups of several shapes are cut
    together: all at their wish, or all at their least."""
    if job.groups:
        yield job
        yield replace(job, groups=tuple(replace(group, replicas=group.min_replicas) for group in job.groups))
        return
    for size in range(job.replicas, least - 1, -1):
        if size in (job.replicas, least) or size % group == 0:
            yield replace(job, replicas=size)


def _fixed(job: Job) -> Job:
    """The job as one that takes no fewer than it wishes."""
    groups = tuple(replace(group, min_replicas=group.replicas) for group in job.groups)
    return replace(job, min_replicas=0, groups=groups)
