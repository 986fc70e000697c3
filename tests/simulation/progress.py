"""What must not wait: conditions that suffice, for the plainest of jobs only, so that they are beyond doubt."""

from placement_engine.domain.model import Claim, CycleResult, Job, Node
from tests.simulation.oracle import Oracle

__all__ = ["grown_past_who_waits", "must_be_placed_on_an_empty_fleet", "passed_over_for_lower"]


def is_plain(oracle: Oracle, job: Job) -> bool:
    """One member of whole devices that nothing but devices, CPU and health can keep waiting."""
    limits = any(
        queue is not None and (queue.quotas or queue.device_limit is not None)
        for queue in map(oracle.queues.get, oracle.path(job.queue))
    )
    return bool(
        job.devices
        and job.replicas == 1
        and not (job.groups or job.topology_level or limits or job.workload or job.character)
        and job.deadline is None
        and not job.nodes.required
    )


def must_be_placed_on_an_empty_fleet(oracle: Oracle, job: Job) -> bool:
    """Where all is well and nothing else runs."""
    return is_plain(oracle, job) and any(could_hold(node, job) for node in oracle.nodes.values())


def could_hold(node: Node, job: Job) -> bool:
    """Empty. The draw of what is not known counts, so nodes with a budget are left out."""
    models = job.models or tuple({device.model for device in node.devices})
    fitting = sum(1 for device in node.devices if device.model in models and not device.held_by)
    cpu = node.cpu_milli - node.cpu_milli_elsewhere
    enough = fitting >= job.devices and cpu >= job.cpu_milli and node.power_cap_watts is None
    if node.pod_limit is not None and node.pods_elsewhere >= node.pod_limit:
        return False
    return enough and all(taint.effect == "PreferNoSchedule" for taint in node.taints)


def grown_past_who_waits(oracle: Oracle, result: CycleResult) -> str:
    """A member that a running gang got, though a job waits that could have the same once more is free. "": none."""
    plain = [job for job in oracle.waiting.values() if is_plain(oracle, job)]
    for resize in result.resizes:
        for member in resize.added:
            models = {claim.model for claim in member.devices}
            for job in plain:
                wants = models & set(job.models) if job.models else models
                if wants and could_hold(oracle.nodes[member.node], job):
                    return f"{resize.job_id} grows on {member.node}, and {job.job_id} waits for {sorted(wants)}"
    return ""


def passed_over_for_lower(oracle: Oracle, now: float) -> str:
    """Of the first job of the queue: what it could have had by stopping one job of lower priority. "": nothing."""
    if oracle.ending or oracle.leaving or not oracle.waiting:
        return ""  # what is being freed may be for it
    top = max(job.priority for job in oracle.waiting.values())
    first = [job for job in oracle.waiting.values() if job.priority == top]
    if len(first) > 1 or first[0].devices != 1 or not is_plain(oracle, first[0]):
        return ""
    job = first[0]
    for victim_id, claim in sorted(oracle.held.items()):
        if claim.job.priority < top and claim.job.preemptible and not oracle.is_protected(claim, now):
            for member in claim.members:
                if _gives_a_device(oracle, claim, member.node, job, now):
                    return f"{job.job_id} of priority {top} waits, though {victim_id} could be stopped for it"
    return ""


def _gives_a_device(oracle: Oracle, claim: Claim, name: str, job: Job, now: float) -> bool:
    """A whole device, well, on a node that is up to date and has the CPU."""
    node, sample = oracle.nodes[name], oracle.samples.get(name)
    if not node.schedulable or not could_hold(node, job):
        return False
    if sample is not None and not node.telemetry_exempt and now - sample.received_at > 30:
        return False
    others = [m for one in oracle.held.values() if one is not claim for m in one.members if m.node == name]
    if node.cpu_milli - node.cpu_milli_elsewhere - sum(member.cpu_milli for member in others) < job.cpu_milli:
        return False
    if node.pod_limit is not None and node.pods_elsewhere + len(others) >= node.pod_limit:
        return False
    shared = {device.device_id for member in others for device in member.devices}
    shared |= {device.device_id for device in node.devices if device.held_by}
    mine = {d.device_id: d.model for m in claim.members if m.node == name for d in m.devices}
    return any(
        device_id not in shared
        and (not job.models or model in job.models)
        and not (device_id in oracle.health and oracle.health[device_id].why_not())
        for device_id, model in mine.items()
    )
