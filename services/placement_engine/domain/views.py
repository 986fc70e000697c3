"""Read-outs of the core's state, and its digest."""

import hashlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from placement_engine.domain import columns as col
from placement_engine.domain.asks import counts_of, make_ask
from placement_engine.domain.facts import DeviceFacts, NodeFacts
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import Claim, Job, Node
from placement_engine.domain.node_constraints import first_not_tolerated, selects
from placement_engine.domain.partitions import MEMORY_SLICES, UNDIVIDED, UNPARTITIONABLE
from placement_engine.domain.policy import Policy
from placement_engine.domain.queues import Queues, Totals
from placement_engine.domain.quota_accounts import accounts
from placement_engine.domain.readouts import DeviceView, MatchingCapacity, NodeView, QueueUsage
from placement_engine.domain.shapes import Shape, shape_of
from placement_engine.domain.sharing import fit_on_empty


def node_view(fleet: Fleet, policy: Policy, name: str, now: float) -> NodeView | None:
    facts = fleet.nodes.get(name)
    if facts is None:
        return None
    age = None if facts.sample is None else max(0.0, now - facts.sample.received_at)
    blocked = _node_blocked(facts, policy, age)
    devices = tuple(
        _device_view(fleet, policy, facts, device, now)
        for device in sorted(facts.devices.values(), key=lambda d: (d.device.index, d.device.device_id))
    )
    return NodeView(
        node=facts.node,
        used_cpu_milli=facts.used_cpu,
        used_memory_bytes=facts.used_memory,
        used_pods=facts.used_pods,
        sample=facts.sample,
        age_seconds=age,
        devices_free=0 if blocked else sum(1 for d in devices if not d.blocked and d.used_milli == 0),
        devices=devices,
        blocked=blocked,
    )


def _node_blocked(facts: NodeFacts, policy: Policy, age: float | None) -> str:
    if not facts.node.schedulable:
        return f"cordoned: {facts.node.cordon_reason}" if facts.node.cordon_reason else "cordoned"
    if facts.node.telemetry_exempt:
        return ""
    if age is None:
        return "never heard of" if policy.unknown_telemetry.value == "refuse" else ""
    return f"telemetry is {age:.0f} s old" if age > policy.unschedulable_seconds else ""


def _device_view(fleet: Fleet, policy: Policy, facts: NodeFacts, device: DeviceFacts, now: float) -> DeviceView:
    return DeviceView(
        device=device.device,
        used_milli=device.used_milli,
        claimed_memory_bytes=sum(hold.memory_bytes for hold in device.holds.values()),
        sample=device.sample,
        age_seconds=None if device.heard_at is None else max(0.0, now - device.heard_at),
        blocked=_device_blocked(fleet, policy, device),
        job_ids=tuple(sorted({hold.job_id for hold in device.holds.values()})),
        margin_celsius=device.margin,
        forecast_celsius=device.trend.forecast(policy),
        free_slices=_free_slices(device),
    )


def _device_blocked(fleet: Fleet, policy: Policy, device: DeviceFacts) -> str:
    blocked = int(fleet.columns.device[col.BLOCKED, device.slot, device.row])
    sample = device.sample
    if not device.device.present:
        return "gone"
    if device.device.held_by:
        return f"held by {device.device.held_by}"
    if device.watch is not None and device.watch.cordon is not None:
        return f"cordoned: {device.watch.cordon.message}"
    if blocked & col.SICK:
        code = sample.error_code if sample else None
        return f"error {code}" if code else "unhealthy"
    if blocked & (col.HOT | col.HEATING):
        return _heat(policy, device)
    if blocked & col.THROTTLED:
        return f"throttled: reasons {sample.throttle_bits or 0:#x}" if sample else "throttled"
    return "telemetry no longer names it" if blocked & col.SILENT else ""


def _heat(policy: Policy, device: DeviceFacts) -> str:
    margin, resume = device.margin, policy.heat_floor_celsius + policy.heat_hysteresis_celsius
    forecast, slope = device.trend.forecast(policy), device.trend.slope
    if margin is None:
        return "heat margin unknown"
    if device.heats_up(policy) and slope is not None and forecast is not None:
        ahead = f"{slope:+.2f} a second, {forecast:.1f} in {policy.heat_forecast_seconds:g} s"
        return f"heats up: margin {margin:.1f} degrees, {ahead}, takes work from {resume:g}"
    return f"heat margin {margin:.1f} degrees, takes work from {resume:g}"


def _free_slices(device: DeviceFacts) -> int | None:
    state = device.slices()
    if state == UNPARTITIONABLE:
        return None
    return 0 if state == UNDIVIDED else MEMORY_SLICES - state.bit_count()


def queue_usage(queues: Queues, totals: Totals) -> tuple[QueueUsage, ...]:
    queues.refresh()
    names = sorted({*queues.known, *queues.usage, *queues.order})
    result = []
    for name in names:
        queue, usage = queues.known.get(name), queues.usage.get(name)
        result.append(
            QueueUsage(
                name=name,
                parent=queue.parent if queue else "",
                weight=queue.weight if queue else 1.0,
                device_limit=queue.device_limit if queue else None,
                used_milli=usage.devices if usage else 0,
                used_cpu_milli=usage.cpu if usage else 0,
                used_memory_bytes=usage.memory if usage else 0,
                running_jobs=usage.jobs if usage else 0,
                pending_jobs=queues.waiting_below(name),
                share=queues.share(name, totals),
                past_share=queues.past_share(name),
                quotas=accounts(queues, name),
            )
        )
    return tuple(result)


UNBOUNDED = 10**9
"""Members that a node's CPU and memory hold of a job that asks for none of them."""


def matching_capacity(
    fleet: Fleet, job: Job, without: Collection[str] = (), *, where_it_may: bool = False
) -> MatchingCapacity:
    """Nominal sizes, of all nodes but those `without`: claims, health, heat and cordons pass, so they are not counted
    against the job. The answer is the same for jobs of one shape, whatever their number of members: it is kept by
    shape. `where_it_may`: only of nodes that the job's conditions allow and whose taints it tolerates, as they are now;
    not the same for a shape."""
    shape = shape_of(job)
    if where_it_may:
        nodes = (one.node for one in fleet.nodes.values())
        without = {*without, *(node.name for node in nodes if not _may_have(node, job))}
    sizes = [_matching(fleet, job, shape.at(count), without) for count in counts_of(fleet, shape)]
    devices, members = max(sizes, key=lambda size: size[1])
    return MatchingCapacity(
        devices=devices,
        members=members,
        pool_devices=sum(fleet.models.counts),
        pool_nodes=len(fleet.nodes),
    )


def _may_have(node: Node, job: Job) -> bool:
    allowed = selects(job.nodes, node.name, node.labels)
    return allowed and first_not_tolerated(job.nodes, node.taints) is None


def _matching(fleet: Fleet, job: Job, shape: Shape, without: Collection[str]) -> tuple[int, int]:
    """(devices, members of the gang) that could ever match."""
    ask = make_ask(fleet, shape)
    devices = 0
    members: dict[int, int] = {}
    for name in sorted(fleet.nodes):
        node = fleet.nodes[name].node
        if name in without or (job.executor and job.executor not in node.executors):
            continue
        host = UNBOUNDED if node.pod_limit is None else node.pod_limit
        if shape.cpu_milli > 0:
            host = min(host, node.cpu_milli // shape.cpu_milli)
        if shape.memory > 0:
            host = min(host, node.memory_bytes // shape.memory)
        if not shape.needs_devices:
            members[0] = members.get(0, 0) + host
            continue
        for row in fleet.nodes[name].rows:
            if not ask.allowed[row.model] or not ask.meets_latency[row.model]:
                continue
            need = ask.memory[row.model]
            fitting = [d for d in row.devices if d.device.present and _could_hold(d, need)]
            if shape.whole:
                devices += len(fitting)
                each = len(fitting) // shape.whole
            else:
                fits = [fit_on_empty(device, ask, row.model) for device in fitting]
                devices += sum(1 for one in fits if one)
                each = sum(fits)
            members[row.model] = members.get(row.model, 0) + min(host, each)
    return devices, max(members.values(), default=0)


def _could_hold(device: DeviceFacts, need: float) -> bool:
    total = device.total_bytes
    return need <= 0 or total is None or total >= need


def digest(fleet: Fleet, queues: Queues, claims: Mapping[str, Claim], kept: Sequence[str] = ()) -> bytes:
    """`kept`: nominations, and the jobs that are being stopped. Advice and rejections still to be told are no
    state: they follow from it."""
    state = hashlib.sha256(repr(kept).encode())
    for name in sorted(fleet.nodes):
        facts = fleet.nodes[name]
        state.update(
            repr((facts.node, facts.used_cpu, facts.used_memory, facts.used_pods, facts.pending_watts)).encode()
        )
        state.update(repr((facts.sample, facts.draw, facts.total_watts, facts.fresh_starts)).encode())
        for row in facts.rows:
            # The tier follows from the time of the last cycle: it is no fact.
            values = np.delete(fleet.columns.row[:, row.row], col.TIER)
            state.update(values.tobytes())
            for device in row.devices:
                state.update(fleet.columns.device[: col.MARGIN, device.slot, row.row].tobytes())
                holds = sorted(device.holds.items())
                state.update(repr((device.device, device.sample, device.cool, device.draw, holds)).encode())
                state.update(repr((device.foreign_bytes, device.pending_watts, device.heard_at)).encode())
                state.update(repr((device.trend, device.watch, device.fresh_starts)).encode())
    for name in sorted(fleet.held):
        state.update(repr((name, sorted(fleet.held[name]))).encode())
    for key, domain in sorted(fleet.power_domains().items()):
        state.update(repr((key, domain.cap, domain.draw, domain.headroom, sorted(domain.nodes))).encode())
    for job_id in sorted(claims):
        state.update(repr(claims[job_id]).encode())
    for job_id in sorted(queues.jobs):
        state.update(repr(queues.jobs[job_id]).encode())
    for name, usage in sorted(queues.usage.items()):
        if usage.devices or usage.cpu or usage.memory or usage.jobs:
            held = (usage.devices, usage.cpu, usage.memory, usage.jobs, sorted(usage.models.items()))
            state.update(repr((name, held)).encode())
    state.update(repr(queues.usage_history()).encode())
    state.update(repr(sorted(queues.known.items())).encode())
    state.update(repr((fleet.models.estimator.profiles(), fleet.models.estimator.catalogue())).encode())
    return state.digest()
