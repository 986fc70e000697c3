"""From what the cluster says of a node and its pods to the node's record."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from berth.kubernetes import names
from berth.kubernetes.devices import DeviceResources
from telemetry_ingest.domain.inventory import CORDON_PREFIX, FROM_KUBERNETES, DeviceRecord, NodeRecord
from telemetry_ingest.domain.kubernetes.nodes import NodeFacts
from telemetry_ingest.domain.kubernetes.pods import PodUse, holders

__all__ = ["joined", "record_of"]


def record_of(
    facts: NodeFacts,
    uses: Sequence[PodUse],
    before: NodeRecord | None,
    resources: DeviceResources,
    named: Callable[[DeviceRecord], DeviceRecord],
    *,
    has_sources: bool,
) -> NodeRecord:
    """The node as it is now. `before`: its record so far, from wherever it came; `named` adds what the catalogue knows.

    A device that the node has no longer stays, not present: work on it is claimed until it settles. An operator's
    cordon stays beside the cluster's. Without a source of telemetry, or before its first page, the node needs none.
    """
    known = {device.device_id: device for device in before.devices} if before else {}
    devices = [
        _device(named(one) if not one.partition else one, known.pop(one.device_id, None)) for one in facts.devices
    ]
    devices += [replace(one, present=False, held_by="") for one in known.values()]
    claimed = {one.device_id: one.held_by for one in facts.devices if one.held_by}
    own = before is not None and before.of_kubernetes
    by_operator = (
        before.cordon_reason
        if before is not None and own and not before.schedulable and not before.cordon_reason.startswith(CORDON_PREFIX)
        else None
    )
    cordon_reason = facts.cordon_reason if by_operator is None else by_operator
    return NodeRecord(
        name=facts.name,
        pool=facts.pool,
        devices=tuple(
            replace(one, held_by=claimed[one.device_id]) if one.device_id in claimed else one
            for one in holders(
                devices, uses, resources, allocatable=dict(facts.allocatable), unavailable=facts.unavailable
            )
        ),
        cpu_milli=facts.cpu_milli,
        memory_bytes=facts.memory_bytes,
        topology=facts.topology,
        labels=facts.labels,
        power_cap_watts=before.power_cap_watts if before else 0.0,
        executors=(names.EXECUTOR,),
        schedulable=by_operator is None and not facts.cordon_reason,
        cordon_reason=cordon_reason,
        boot_id=facts.boot_id,
        telemetry_exempt=not has_sources or not own or before is None or before.telemetry_exempt,
        origin=FROM_KUBERNETES,
        taints=facts.taints,
        cpu_milli_elsewhere=sum(use.cpu_milli for use in uses if use.elsewhere),
        memory_bytes_elsewhere=sum(use.memory_bytes for use in uses if use.elsewhere),
        pod_limit=facts.pod_limit,
        pods_elsewhere=sum(1 for use in uses if use.elsewhere),
    )


def joined(devices: Sequence[DeviceRecord], observed: Sequence[tuple[str, int, str]]) -> dict[str, DeviceRecord]:
    """Which advertised device each observed one (identity, index on the node, stack) is.

    A plugin and an exporter count the same devices: those of one stack are joined by index, or in the order of the
    index where the exporter counts otherwise. What the kubelet does not offer joins nothing, and the operator's cuts
    (MIG) neither: the exporter speaks of the whole device.
    """
    found: dict[str, DeviceRecord] = {}
    for stack in {stack for _, _, stack in observed}:
        ours = [one for one in devices if one.stack == stack and not one.partition and one.present]
        theirs = sorted((index, identity) for identity, index, of in observed if of == stack)
        indices = [index for index, _ in theirs]
        same = [one.index for one in ours] == list(range(len(ours)))
        if same and len(set(indices)) == len(indices) and all(0 <= index < len(ours) for index in indices):
            found.update((identity, ours[index]) for index, identity in theirs)
        else:
            found.update((identity, one) for (_, identity), one in zip(theirs, ours, strict=False))
    return found


def _device(new: DeviceRecord, old: DeviceRecord | None) -> DeviceRecord:
    """What the cluster says, with what it leaves open taken from what was known before."""
    if old is None:
        return new
    same_model = new.model == old.model or not new.model
    return replace(
        new,
        model=new.model or old.model,
        memory_bytes=new.memory_bytes or old.memory_bytes,
        reported_model=new.reported_model or old.reported_model,
        power_limit_watts=(old.power_limit_watts if same_model else 0.0) or new.power_limit_watts,
        topology=new.topology or old.topology,
        held_by=old.held_by,
    )
