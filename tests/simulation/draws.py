"""What a history draws: nodes as others leave them, and jobs of any shape."""

import random
from dataclasses import replace
from typing import Any

from berth import catalogue
from placement_engine.adapters import translate
from placement_engine.domain.model import Character, Device, Job, MemberGroup, Node, Objective
from placement_engine.domain.node_constraints import NodeConstraints, NodeRequirement, Taint, Toleration

GIB = 2**30
MODELS = {
    "H100-SXM": ("GPU", "CUDA"),
    "L4": ("GPU", "CUDA"),
    "MI300X": ("GPU", "ROCm"),
    "Cerebras-WSE-3": ("WAFER", "Cerebras"),
}
CATALOGUE = tuple(translate.accelerator_from(catalogue.by_name(name)) for name in MODELS)


def crowded(node: Node, dice: random.Random) -> Node:
    """What it takes of pods, and what others have of that, anew."""
    limit = dice.choice((None, 0, 1, 2, 2, 3, 4, 8))
    return replace(node, pod_limit=limit, pods_elsewhere=dice.choice((0, 0, 0, 1, 3)))


def by_others(node: Node, dice: random.Random) -> Node:
    """What others have of it, its labels and its taints, anew."""
    return replace(
        node,
        devices=tuple(
            replace(device, held_by=dice.choice(("", "", "ml/a", "ml/b")) if dice.random() < 0.4 else "")
            for device in node.devices
        ),
        cpu_milli_elsewhere=dice.choice((0, 0, 3_000, node.cpu_milli)),
        memory_bytes_elsewhere=dice.choice((0, 0, GIB)),
        labels={"disk": dice.choice(("ssd", "hdd"))} if dice.random() < 0.7 else {},
        taints=tuple(
            Taint(key, "", effect)
            for key, effect in (("team", "NoSchedule"), ("spot", "NoExecute"), ("slow", "PreferNoSchedule"))
            if dice.random() < 0.2
        ),
    )


def constraints(dice: random.Random) -> NodeConstraints:
    terms = (
        (),
        (),
        ((NodeRequirement("disk", "In", ("ssd",)),),),
        ((NodeRequirement("disk", "DoesNotExist"),), (NodeRequirement("metadata.name", "In", ("n0",)),)),
    )
    tolerations = ((), (), (Toleration("team", "Exists"),), (Toleration("", "Exists"),))
    return NodeConstraints(dice.choice(terms), dice.choice(tolerations))


def a_device(node: str, index: int, model: str, count: int) -> Device:
    kind, stack = MODELS[model]
    memory = next(one.memory_bytes for one in CATALOGUE if one.name == model)
    return Device(
        device_id=f"{node}/{index}",
        index=index,
        model=model,
        device_class=kind,
        stack=stack,
        memory_bytes=memory,
        topology={"numa": str(2 * index // count)},
        partitionable=model == "H100-SXM",
    )


def a_job(dice: random.Random, job_id: str, now: float) -> Job:
    """Of any shape."""
    if dice.random() < 0.3:
        return plain_job(dice, job_id, now)
    shape: dict[str, Any] = dice.choice(
        (
            {"devices": 1},
            {"devices": dice.choice((2, 4))},
            {"devices": 1, "max_devices": 2},
            {"device_milli": dice.choice((200, 500, 700))},
            {"device_share_bytes": dice.choice((5, 10, 30)) * GIB},
            {"partition": dice.choice(("1g.10gb", "2g.20gb", "3g.40gb", "1g.20gb"))},
            {"cpu_milli": 2_000},
        )
    )
    gang: dict[str, Any] = {}
    if dice.random() < 0.35:
        replicas = dice.randint(2, 4)
        gang = {"replicas": replicas, "min_replicas": dice.choice((0, 0, 1, replicas - 1))}
        if dice.random() < 0.5:
            gang |= {
                "topology_level": dice.choice(("rack", "node", "block")),
                "topology_required": dice.random() < 0.6,
            }
            if dice.random() < 0.3:
                gang["preferred_level"] = dice.choice(("rack", "node"))
        elif replicas == 4 and dice.random() < 0.5:
            gang |= {"group_size": 2, "group_level": "node", "min_replicas": 0}
    elif dice.random() < 0.1:
        shape, gang = (
            {},
            {
                "replicas": 3,
                "groups": (
                    MemberGroup("leader", 1, 1, cpu_milli=1_000),
                    MemberGroup("worker", 2, dice.choice((1, 2)), devices=1),
                ),
            },
        )
    return Job(
        job_id=job_id,
        queue=dice.choice(("a", "b", "c")),
        priority=dice.choice((0, 0, 0, 1, 2)),
        preemptible=dice.random() < 0.6,
        models=dice.choice(((), (), (), ("H100-SXM",))),
        workload=dice.choice(("", "", "w")),
        objective=dice.choice(list(Objective)),
        expected_duration_seconds=dice.choice((None, 20.0, 60.0, 300.0)),
        checkpoint_seconds=dice.choice((None, 10.0)),
        deadline=dice.choice((None, None, None, now + 90)),
        character=dice.choice((None, None, Character(1e18, 1e15, dice.choice((0.1, 1.0))))),
        submitted_at=now,
        attempt=1,
        **{"cpu_milli": dice.choice((0, 1_000))} | shape | gang,
    )


def in_turns(job: Job, dice: random.Random) -> Job:
    """The job as one that may be stopped at the end of a round, where it asks for whole devices."""
    elastic = job.min_replicas and dice.random() < 0.7
    return replace(
        job,
        preemptible=True,
        checkpoint_seconds=dice.choice((1.0, 10.0, 200.0)),
        deadline=None,
        max_devices=0,
        min_replicas=0 if elastic else job.min_replicas,
    )


def plain_job(dice: random.Random, job_id: str, now: float) -> Job:
    """One for which it is beyond doubt what it may have: see progress.py."""
    return Job(
        job_id=job_id,
        queue="plain",
        devices=dice.choice((1, 1, 2)),
        priority=dice.choice((0, 0, 1, 2)),
        preemptible=dice.random() < 0.6,
        expected_duration_seconds=dice.choice((None, 60.0)),
        submitted_at=now,
        attempt=1,
    )


def led(job: Job, dice: random.Random) -> Job:
    """A leader and workers."""
    leader = MemberGroup("leader", 1, 1, cpu_milli=1_000)
    worker = MemberGroup("worker", job.replicas, dice.randint(1, job.replicas), devices=dice.choice((1, 1, 2)))
    return replace(
        job, replicas=1 + job.replicas, min_replicas=0, groups=(leader, worker), group_size=0, group_level="",
        devices=0, device_milli=0, partition="", max_devices=0, cpu_milli=0,
    )  # fmt: skip
