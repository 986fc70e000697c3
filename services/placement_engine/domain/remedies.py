"""The smallest changes that would admit a waiting job, found by asking the engine about varied jobs.

`fits` is the engine's whole pipeline on a job as it might be: gates, filters, topology and all. Each number is
found by bisection: where a job of some size fits, so does a smaller one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from placement_engine.domain.model import Decision, Job, Reason, Remedy, RemedyKind
from placement_engine.domain.node_constraints import NodeConstraints, Taint, Toleration
from placement_engine.domain.topology import DEVICE_LEVELS

__all__ = ["after_job_ends", "changes_for", "wider_nodes"]

MOST_NAMED = 3
MOST_KINDS = 12
MOST_MEMBERS = 1024
MILLI_STEP = 10

Fits = Callable[[Job], Decision | None]


def changes_for(
    job: Job,
    fits: Fits,
    *,
    reasons: Sequence[Reason],
    levels: Sequence[str],
    kinds: Sequence[str],
    taints: Sequence[tuple[Taint, int]] = (),
    excluded: int = 0,
) -> list[Remedy]:
    """Changes of which each alone makes the job fit now, the smallest first: those that keep its size, then those
    that give up the least part of it.

    `reasons`: why it waits. `levels`: topology levels of the fleet, the tightest first. `kinds`: accelerators that
    the job does not accept. `taints`: those that keep it off nodes, with how many; `excluded`: nodes that its selector
    leaves out. A gang of more than MOST_MEMBERS is not tried in other forms, which would take seconds:
    only the members that its reasons count are told.
    """
    if job.replicas > MOST_MEMBERS:
        counted = max((int(one.numbers.get("replicas_that_fit", 0)) for one in reasons), default=0)
        least = job.min_replicas or job.replicas
        return [_of_replicas(counted, least)] if 0 < counted < least else []
    kept = [
        *_looser_topology(job, fits, levels),
        *_other_nodes(job, fits, taints, excluded),
        *_other_kind(job, fits, kinds),
    ]
    smaller = [*_fewer_devices(job, fits), *_fewer_replicas(job, fits)]
    return kept + [remedy for _, remedy in sorted(smaller, key=lambda one: one[0])]


def after_job_ends(seconds: float, after: Sequence[str], name_of: Callable[[str], str] = str) -> Remedy:
    """No change of the job: what runs has to end first. `after`: ids; `name_of`: what a person calls them."""
    named = ", ".join(map(name_of, after[:MOST_NAMED])) + (
        f" and {len(after) - MOST_NAMED} more" if len(after) > MOST_NAMED else ""
    )
    ends = "ends" if len(after) == 1 else "end"
    message = f"it would fit once {named} {ends}, expected in {seconds:.0f} s"
    return Remedy(RemedyKind.AFTER_JOB_ENDS, message, {"seconds": seconds, "jobs": float(len(after))}, tuple(after))


def _looser_topology(job: Job, fits: Fits, levels: Sequence[str]) -> list[Remedy]:
    found = []
    several = job.replicas > 1 or bool(job.groups)
    if job.topology_required and job.topology_level and (several or job.topology_level in DEVICE_LEVELS):
        known = job.topology_level in levels
        for level in levels[levels.index(job.topology_level) + 1 :] if known else ():
            if fits(replace(job, topology_level=level)) is not None:
                found.append(_remedy(RemedyKind.LOOSER_TOPOLOGY, f"it would fit now within one {level}", level))
                break
        if fits(replace(job, topology_required=False)) is not None:
            message = f"it would fit now if one {job.topology_level} were preferred, not required"
            found.append(_remedy(RemedyKind.LOOSER_TOPOLOGY, message, job.topology_level))
    if job.group_size:
        known = job.group_level in levels
        for level in levels[levels.index(job.group_level) + 1 :] if known else ():
            if fits(replace(job, group_level=level)) is not None:
                message = f"it would fit now with each group of {job.group_size} in one {level}"
                found.append(_remedy(RemedyKind.LOOSER_TOPOLOGY, message, level))
                break
        if fits(replace(job, group_size=0, group_level="")) is not None:
            message = f"it would fit now if groups of {job.group_size} needed no {job.group_level} of their own"
            found.append(_remedy(RemedyKind.LOOSER_TOPOLOGY, message, job.group_level))
    return found


def wider_nodes(
    nodes: NodeConstraints, taints: Sequence[tuple[Taint, int]], excluded: int
) -> Iterator[tuple[NodeConstraints, str, tuple[str, ...]]]:
    """Looser constraints, each with what it would mean, and of what: a taint more tolerated, all of them, no selector.

    `taints`: those that keep the job off nodes, with how many; `excluded`: nodes that its selector leaves out.
    """
    extra = [Toleration(taint.key, "Equal", taint.value, taint.effect) for taint, _ in taints]
    for (taint, count), one in list(zip(taints, extra, strict=True))[:MOST_NAMED]:
        message = f"it would fit now if it tolerated the taint {taint} ({count} nodes)"
        yield replace(nodes, tolerations=(*nodes.tolerations, one)), message, (str(taint),)
    if len(taints) > 1:
        named = tuple(str(taint) for taint, _ in taints)
        message = f"it would fit now if it tolerated all of {', '.join(named[:MOST_NAMED])}"
        message += f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
        yield replace(nodes, tolerations=(*nodes.tolerations, *extra)), message, named
    if excluded and nodes.required:
        message = f"it would fit now without its node selector, which excludes {excluded} nodes"
        yield replace(nodes, required=()), message, (nodes.selector,)


def _other_nodes(job: Job, fits: Fits, taints: Sequence[tuple[Taint, int]], excluded: int) -> list[Remedy]:
    """Of groups with constraints of their own only what the job's would change."""
    found: list[Remedy] = []
    for wider, message, subjects in wider_nodes(job.nodes, taints, excluded):
        # Where one taint will do, all of them are no news.
        one_will_do = len(subjects) > 1 and bool(found)
        if not one_will_do and fits(replace(job, nodes=wider)) is not None:
            found.append(_remedy(RemedyKind.OTHER_NODES, message, *subjects))
    return found


def _other_kind(job: Job, fits: Fits, kinds: Sequence[str]) -> list[Remedy]:
    if job.groups or not (job.models or job.classes or job.stacks):
        return []
    free = [
        kind for kind in kinds[:MOST_KINDS] if fits(replace(job, models=(kind,), classes=(), stacks=())) is not None
    ]
    if not free:
        return []
    return [_remedy(RemedyKind.OTHER_KIND, "it would fit now on " + ", ".join(free[:MOST_NAMED]), *free)]


def _fewer_devices(job: Job, fits: Fits) -> list[tuple[float, Remedy]]:
    if job.groups:
        return []
    if job.devices > 1:
        most = _most(job.devices - 1, lambda n: fits(replace(job, devices=n, max_devices=0)) is not None)
        message = f"a replica with {most} instead of {job.devices} devices would fit now"
        wished = job.devices
    elif job.device_milli > MILLI_STEP:
        step = MILLI_STEP
        most = step * _most(
            (job.device_milli - 1) // step, lambda n: fits(replace(job, device_milli=n * step)) is not None
        )
        message = f"{most / 1000:g} instead of {job.device_milli / 1000:g} of a device would fit now"
        wished = job.device_milli
    else:
        return []
    if not most:
        return []
    numbers = {"devices": float(most), "devices_asked": float(wished)}
    if job.device_milli:
        numbers = {name: value / 1000 for name, value in numbers.items()}
    return [(1 - most / wished, Remedy(RemedyKind.FEWER_DEVICES, message, numbers))]


def _fewer_replicas(job: Job, fits: Fits) -> list[tuple[float, Remedy]]:
    least = job.min_replicas or job.replicas
    if job.groups or least < 2:
        return []
    step = max(1, job.group_size)  # a job of whole groups stays one
    most = step * _most(
        (least - 1) // step, lambda n: fits(replace(job, replicas=n * step, min_replicas=0)) is not None
    )
    if not most:
        return []
    return [(1 - most / least, _of_replicas(most, least))]


def _of_replicas(most: int, least: int) -> Remedy:
    numbers = {"replicas": float(most), "replicas_asked": float(least)}
    return Remedy(RemedyKind.FEWER_REPLICAS, f"{most} of {least} replicas would fit now", numbers)


def _most(limit: int, holds: Callable[[int], bool]) -> int:
    """The largest of 1..limit for which it holds, by bisection; 0: none."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _remedy(kind: RemedyKind, message: str, *subjects: str) -> Remedy:
    return Remedy(kind, message, subjects=subjects)
