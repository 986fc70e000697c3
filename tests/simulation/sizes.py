"""What must hold of the size of an elastic gang that runs, kept apart from the core."""

from collections.abc import Callable, Sequence

from placement_engine.domain.model import Job, Member
from tests.simulation.broken import require

__all__ = ["bounds", "check", "check_together"]


def bounds(job: Job) -> dict[str, tuple[int, int]]:
    """Least and wished number by shape. A gang in groups has whole ones."""
    if job.groups:
        return {one.name: (one.min_replicas or one.replicas, one.replicas) for one in job.groups}
    size = max(1, job.group_size if job.group_level else 1)
    return {"": (min(job.replicas, -(-(job.min_replicas or job.replicas) // size) * size), job.replicas)}


def check(job: Job, members: Sequence[Member], where: str) -> None:
    """From the least to the wish, numbered within the wish; less than the wish are whole groups."""
    numbers = [member.member for member in members]
    require(bool(job.min_replicas) or bool(job.groups), f"{where}, and is not elastic")
    found, wished = bounds(job), 0
    require({member.group for member in members} <= set(found), f"{where}: members of unknown groups")
    for name, (least, most) in found.items():
        count = sum(1 for member in members if member.group == name)
        require(least <= count <= most, f"{where}: {count} of {least}..{most} {name!r}")
        wished += most
    require(numbers == sorted(set(numbers)), f"{where}: members are numbered {numbers}")
    require(all(0 <= number < wished for number in numbers), f"{where}: members are numbered {numbers}")
    if job.group_size > 1 and len(members) < job.replicas:
        groups = {number // job.group_size for number in numbers}
        require(len(numbers) == len(groups) * job.group_size, f"{where}: not whole groups: {numbers}")


def check_together(job: Job, members: Sequence[Member], domain_of: Callable[[str, str], str], where: str) -> None:
    """On one model, in the required domain, each group in one domain. `domain_of`: of a node, at a level."""
    for name in {member.group for member in members}:
        models = {claim.model for member in members if member.group == name for claim in member.devices}
        require(len(models) <= 1, f"{where}: {name!r} on several models: {sorted(models)}")
    nodes = {member.node for member in members}
    if job.topology_required and job.topology_level not in ("", "numa", "link") and len(nodes) > 1:
        domains = {domain_of(node, job.topology_level) for node in nodes}
        require(
            len(domains) == 1 and "" not in domains, f"{where}: {job.topology_level} is required: {sorted(domains)}"
        )
    if job.group_size > 1 and job.group_level not in ("numa", "link"):
        for group in {member.member // job.group_size for member in members}:
            part = {m.node for m in members if m.member // job.group_size == group}
            domains = {domain_of(node, job.group_level) for node in part}
            require(len(part) == 1 or len(domains) == 1, f"{where}: group {group} lies in {sorted(domains)}")
