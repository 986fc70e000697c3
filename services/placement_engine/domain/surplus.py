"""The members of an elastic gang above its minimum: what can be taken from it while it runs on.

The surplus is, of each shape, the members of the highest numbers beyond the least; each is a unit by itself, so that
only what is needed is taken, wherever it sits. A gang in groups (`group_size`) gives whole groups, and one whose last
group is smaller all of its surplus at once, since only a gang of its wished size has such a group.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from placement_engine.domain.gangs import need_of
from placement_engine.domain.model import Claim, Job, Member
from placement_engine.domain.shapes import jobs_of, lead_of
from placement_engine.domain.spreading import Need
from placement_engine.domain.topology import wishes_of

Units = tuple[tuple[Member, ...], ...]


@dataclass(frozen=True, slots=True)
class Shaped:
    """The members of one shape of a gang: `job` is they alone; `index` counts the shapes."""

    index: int
    name: str
    job: Job
    need: Need


@dataclass(frozen=True, slots=True)
class Opening:
    """`count` members of one shape that a gang wishes for and has not, numbered from `first`."""

    of: Shaped
    first: int
    count: int


def shaped(job: Job) -> tuple[Shaped, ...]:
    """By shape, in the job's order: the least (of whole groups) and the wished number, and how many go together."""
    names, wishes = [group.name for group in job.groups] or [""], wishes_of(job)
    parts = zip(names, jobs_of(job), strict=True)
    return tuple(Shaped(index, name, one, need_of(one, wishes)) for index, (name, one) in enumerate(parts))


def is_elastic(job: Job) -> bool:
    """Whether a running gang may have more or fewer members. One of several shapes in groups keeps its size."""
    if not job.min_replicas and not job.groups:
        return False
    if job.groups and wishes_of(job).group_size > 1:
        return False
    return any(one.need.least < one.need.wished for one in shaped(job))


def least_of(job: Job) -> int:
    return sum(one.need.least for one in shaped(job))


def wished_of(job: Job) -> int:
    return sum(one.need.wished for one in shaped(job))


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
    members = staying(claim, leaving)
    return tuple(
        unit
        for one in shaped(claim.job)
        for unit in _beyond(tuple(member for member in members if member.group == one.name), one.need)
    )


def _beyond(members: tuple[Member, ...], need: Need) -> Units:
    beyond = members[need.least :]
    size = need.group_size
    if size == 1 or len(members) % size == 0:
        return tuple(beyond[start : start + size] for start in range(0, len(beyond), size))
    return (beyond,) if beyond else ()


def openings(claim: Claim) -> Iterator[Opening]:
    """What the gang may get next, by shape: the lowest free numbers, a whole group where it has groups."""
    taken = {member.member for member in claim.members}
    for one in shaped(claim.job):
        size = one.need.group_size
        if sum(1 for member in claim.members if member.group == one.name) >= one.need.wished:
            continue
        # Of one shape in groups the numbers are the places in groups; else any free number will do.
        for first in range(0, wished_of(claim.job), size):
            numbers = range(first, min(first + size, wished_of(claim.job)))
            if not any(number in taken for number in numbers):
                yield Opening(one, first, len(numbers))
                break


def working(claim: Claim) -> int:
    """The members by whose number the time of the work is told: those of the lead shape."""
    if not claim.job.groups:
        return len(claim.members)
    lead = claim.job.groups[lead_of(claim.job)].name
    return sum(1 for member in claim.members if member.group == lead)


def worked_until(claim: Claim, now: float) -> float:
    """Member-seconds of work done: all members of the lead shape work alike."""
    began = claim.placed_at if claim.started_at is None else claim.started_at
    since = claim.resized_at if claim.resized_at is not None else began
    return claim.worked + working(claim) * (0.0 if since is None else max(0.0, now - since))
