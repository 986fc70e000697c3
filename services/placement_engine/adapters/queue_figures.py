"""What queues wait for and use, over the pools that this instance plans."""

from collections.abc import Iterable, Sequence

from berth.v1 import fleet_pb2
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
    return list(shown.values())
