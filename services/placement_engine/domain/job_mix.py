"""The mix of work, learnt from the jobs that come: each kind's weight halves as HALF_LIFE further members come.

Starts from a prior, so that a cold engine keeps whole nodes and rare models, too. Nothing but the order of the jobs
decides, no clock: the same jobs in the same order give the same mix.
"""

from dataclasses import dataclass

from placement_engine.domain.hosting_value import Kind
from placement_engine.domain.model import WHOLE_DEVICE, Job

__all__ = ["JobMix", "Request", "Share", "request_of"]

HALF_LIFE = 4096.0
"""Members of jobs."""
FORGOTTEN = 1e-9
"""Of the weight of one member: what weighs less was last seen a hundred thousand members ago."""
WARM = 64
"""Members until the learnt mix counts: before that only the prior does."""
REVIEW_MEMBERS = 1024
"""A learnt mix is compared with the one in use after so many members, or twice as many as at the last comparison."""
MOVED = 0.15
"""Share of the members that must be of other kinds (total variation) before the mix in use is replaced."""
MOST_KINDS = 64


@dataclass(frozen=True, slots=True, order=True)
class Request:
    """A kind, and what it demands of a device; empty accepts all."""

    kind: Kind
    models: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    stacks: tuple[str, ...] = ()


Share = tuple[Request, float]

PRIOR: tuple[tuple[int, int, float], ...] = (
    (1, WHOLE_DEVICE // 4, 0.2),
    (1, WHOLE_DEVICE // 2, 0.2),
    (1, WHOLE_DEVICE, 0.3),
    (2, WHOLE_DEVICE, 0.1),
    (4, WHOLE_DEVICE, 0.05),
    (8, WHOLE_DEVICE, 0.05),
)
"""Devices, milli of each, share. CPU and memory are not known and bound nothing."""
PRIOR_OF_MODELS = 0.1
"""Share of a whole device of one model each, spread evenly over the models that the fleet has: rare ones are kept."""


def request_of(job: Job, share: int = 0) -> Request:
    """Of a member of one shape. `share`: what a share of memory, or a partition, is in thousandths of a device."""
    whole, milli = job.devices > 0, job.device_milli or share
    kind = Kind(
        job.cpu_milli,
        job.memory_bytes,
        job.devices if whole else int(milli > 0),
        WHOLE_DEVICE if whole else milli,
    )
    return Request(kind, job.models, job.classes, job.stacks)


def prior(models: tuple[str, ...]) -> tuple[Share, ...]:
    """What is assumed of a fleet of these models before anything came."""
    known = [(Request(Kind(0, 0, devices, milli)), share) for devices, milli, share in PRIOR]
    names = sorted(set(models))
    return (*known, *((Request(Kind(0, 0, 1, WHOLE_DEVICE), (name,)), PRIOR_OF_MODELS / len(names)) for name in names))


class JobMix:
    """Counts what comes; `shares` is the mix in use, which `review` replaces."""

    def __init__(self) -> None:
        self._weights: dict[Request, float] = {}
        self._step = 1.0
        self._members = 0
        self._next_review = WARM
        self.shares: tuple[Share, ...] = ()
        """Empty while cold. Of work with devices: with those of `cpu_only` they sum up to 1, or less by the rarest."""
        self.cpu_only: tuple[Share, ...] = ()

    def observe(self, request: Request, members: int = 1) -> None:
        self._weights[request] = self._weights.get(request, 0.0) + members * self._step
        self._members += members
        self._step *= 2.0 ** min(members / HALF_LIFE, 1.0)
        if self._step > 1e12:
            scaled = {one: weight / self._step for one, weight in self._weights.items()}
            self._weights = {one: weight for one, weight in scaled.items() if weight > FORGOTTEN}
            self._step = 1.0

    def review(self) -> None:
        """Takes the learnt mix into use where it moved enough."""
        if self._members < self._next_review:
            return
        self._next_review = self._members + min(self._members, REVIEW_MEMBERS)
        learnt, cpu_only = self._learnt()
        old, new = dict((*self.shares, *self.cpu_only)), dict((*learnt, *cpu_only))
        # Both directions count, so half of the sum is the share of members that are of other kinds.
        moved = sum(abs(new.get(one, 0.0) - old.get(one, 0.0)) for one in sorted({*old, *new})) / 2
        if not self.shares or moved >= MOVED:
            self.shares, self.cpu_only = learnt, cpu_only

    def _learnt(self) -> tuple[tuple[Share, ...], tuple[Share, ...]]:
        """Of the kinds with devices, and of those without: by what they take of the milli and the CPU."""
        total = sum(self._weights.values())
        kept = sorted(self._weights.items(), key=lambda item: (-item[1] * item[0].kind.total_milli, item[0]))
        cpu_only = sorted(self._weights.items(), key=lambda item: (-item[1] * item[0].kind.cpu, item[0]))
        return (
            tuple([(one, weight / total) for one, weight in kept if one.kind.devices][:MOST_KINDS]),
            tuple([(one, weight / total) for one, weight in cpu_only if not one.kind.devices][:MOST_KINDS]),
        )
