"""The members of an elastic gang above its minimum: what can be taken from it while it runs on.

The surplus is the members of the highest numbers beyond the least; each is a unit by itself, so that only what is
needed is taken, wherever it sits. A gang in groups (`group_size`) gives whole groups, and one whose last group is
smaller all of its surplus at once, since only a gang of its wished size has such a group. A gang of several shapes
keeps its size.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

from placement_engine.domain.gangs import need_of
from placement_engine.domain.model import Claim, Job, Member
from placement_engine.domain.spreading import Need
from placement_engine.domain.topology import wishes_of

Units = tuple[tuple[Member, ...], ...]


def is_elastic(job: Job) -> bool:
    """Whether a running gang may have more or fewer members."""
    if job.groups or not job.min_replicas:
        return False
    need = size_of(job)
    return need.least < need.wished


def size_of(job: Job) -> Need:
    """The least (of whole groups), the wished number, and how many go together. `job` is of one shape."""
    return need_of(job, wishes_of(job))


def part_key(job_id: str, member: int) -> str:
    """Names one member of a job among jobs and parts that are on their way out."""
    return f"{job_id}#{member}"


def part_of(claim: Claim, members: tuple[Member, ...]) -> Claim:
    """These members as a claim: their work began when the gang had them, at the latest when it was resized."""
    began = claim.started_at
    if began is not None and claim.resized_at is not None:
        began = max(began, claim.resized_at)
    return replace(claim, members=members, started_at=began)


def staying(claim: Claim, leaving: Mapping[str, Claim]) -> tuple[Member, ...]:
    """The members that are not on their way out."""
    if not leaving:
        return claim.members
    job_id = claim.job.job_id
    return tuple(member for member in claim.members if part_key(job_id, member.member) not in leaving)


def surplus(claim: Claim, leaving: Mapping[str, Claim]) -> Units:
    """What can be taken: units of members, those that are on their way out not counted."""
    if not is_elastic(claim.job):
        return ()
    need, members = size_of(claim.job), staying(claim, leaving)
    beyond = members[need.least :]
    size = need.group_size
    if size == 1 or len(members) % size == 0:
        return tuple(beyond[start : start + size] for start in range(0, len(beyond), size))
    return (beyond,) if beyond else ()


def numbers_for(job: Job, taken: Collection[int]) -> tuple[int, int]:
    """First number and how many members join next: the lowest free numbers, a whole group where it has groups."""
    need = size_of(job)
    size = need.group_size
    for first in range(0, need.wished, size):
        numbers = range(first, min(first + size, need.wished))
        if not any(number in taken for number in numbers):
            return first, len(numbers)
    return need.wished, 0


def worked_until(claim: Claim, now: float) -> float:
    """Member-seconds of work done: all members work alike."""
    began = claim.placed_at if claim.started_at is None else claim.started_at
    since = claim.resized_at if claim.resized_at is not None else began
    return claim.worked + len(claim.members) * (0.0 if since is None else max(0.0, now - since))
