"""What queues wait for and use, over the pools that this instance plans."""

from collections.abc import Iterable, Sequence

from berth.v1 import fleet_pb2
from placement_engine.domain.readouts import QuotaUsage
from placement_engine.planner import Planner

__all__ = ["with_usage"]


def with_usage(queues: Sequence[fleet_pb2.Queue], planners: Iterable[Planner]) -> list[fleet_pb2.Queue]:
    """Copies with their outputs. Counts and devices add up over pools; of shares the largest is shown."""
    shown = {}
    for queue in queues:
        shown[queue.name] = fleet_pb2.Queue()
        shown[queue.name].CopyFrom(queue)
    for planner in planners:
        if not planner.active:
            continue
        for usage in planner.engine.queue_usage():
            if (one := shown.get(usage.name)) is not None:
                one.pending_jobs += usage.pending_jobs
                one.running_jobs += usage.running_jobs
                one.devices_in_use += usage.used_milli / 1000
                one.share = max(one.share, usage.share + usage.past_share)
                one.devices_borrowed += max((quota.borrowed for quota in usage.quotas), default=0) / 1000
                for quota in usage.quotas:
                    _add(one, quota)
    return list(shown.values())


def _add(queue: fleet_pb2.Queue, quota: QuotaUsage) -> None:
    """Each pool has quotas of its own: devices add up."""
    use = next((one for one in queue.quota_use if one.accelerator == quota.accelerator), None)
    if use is None:
        use = queue.quota_use.add(accelerator=quota.accelerator)
    use.owned += quota.nominal / 1000
    use.used += quota.used / 1000
    use.borrowed += quota.borrowed / 1000
    use.lent += quota.lent / 1000
    use.borrowable += quota.borrowable / 1000
