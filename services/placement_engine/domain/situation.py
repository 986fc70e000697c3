"""What is the case, apart from an engine: facts, work and rules from which an engine can be built anew, changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from placement_engine.domain.fleet import Fleet
from placement_engine.domain.forecast import Ends
from placement_engine.domain.model import (
    Accelerator,
    Claim,
    Job,
    Node,
    NodeSample,
    PowerDomain,
    Profile,
    Queue,
)
from placement_engine.domain.policy import Policy
from placement_engine.domain.queues import Queues
from placement_engine.domain.views import node_view

__all__ = ["Situation", "situation_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """At the time `now`. `running` are the claims; `ends` has the expected end of those whose duration is known."""

    now: float
    pool: str = "default"
    policy: Policy = field(default_factory=Policy)
    nodes: tuple[Node, ...] = ()
    samples: tuple[NodeSample, ...] = ()
    power_domains: tuple[PowerDomain, ...] = ()
    queues: tuple[Queue, ...] = ()
    profiles: tuple[Profile, ...] = ()
    accelerators: tuple[Accelerator, ...] = ()
    running: tuple[Claim, ...] = ()
    ends: Mapping[str, float] = field(default_factory=dict)
    waiting: tuple[Job, ...] = ()


def situation_of(
    fleet: Fleet, queues: Queues, claims: Mapping[str, Claim], ends: Ends, *, policy: Policy, pool: str, now: float
) -> Situation:
    """The situation as it can be run forward without telemetry to come.

    Heat, errors and throttling stay as they were last heard. Nodes become exempt from telemetry; one that takes no
    work now, stale telemetry included, is cordoned with that reason. Measured draw and memory of Berth's own work
    are left out: what its claims expect stands for them, so that they end with the work.
    """
    nodes, samples = [], []
    for name in sorted(fleet.nodes):
        facts, view = fleet.nodes[name], node_view(fleet, policy, name, now)
        blocked = view.blocked if view is not None else ""
        nodes.append(
            replace(
                facts.node,
                telemetry_exempt=True,
                schedulable=facts.node.schedulable and not blocked,
                cordon_reason=facts.node.cordon_reason or blocked,
            )
        )
        if facts.sample is None:
            continue
        devices = tuple(
            replace(
                device.sample,
                power_watts=None,
                memory_used_bytes=None if device.holds else device.sample.memory_used_bytes,
            )
            for device in facts.devices.values()
            if device.sample is not None
        )
        samples.append(replace(facts.sample, devices=devices, power_watts=None))
    expected = {job_id: end for job_id in sorted(claims) if (end := ends.of(job_id, now)) is not None}
    return Situation(
        now=now,
        pool=pool,
        policy=policy,
        nodes=tuple(nodes),
        samples=tuple(samples),
        power_domains=tuple(
            PowerDomain(level, name, domain.cap) for (level, name), domain in sorted(fleet.power_domains().items())
        ),
        queues=tuple(queues.known[name] for name in sorted(queues.known)),
        profiles=tuple(fleet.models.estimator.profiles()),
        accelerators=tuple(fleet.models.estimator.catalogue()),
        running=tuple(claims[job_id] for job_id in sorted(claims)),
        ends=expected,
        waiting=tuple(queues.jobs[job_id] for job_id in sorted(queues.jobs)),
    )
