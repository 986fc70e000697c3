"""The hosting value of a fleet under the mix of work that its engine has seen."""

import numpy as np

from placement_engine.domain.columns import CPU, CPU_TOTAL, DEVICES, FREE, HOST_MEMORY, Bools, Floats, View
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.hosting_value import HostingValue, Kind, Mix, Room
from placement_engine.domain.job_mix import JobMix, Share, prior, request_of
from placement_engine.domain.model import WHOLE_DEVICE, Job
from placement_engine.domain.policy import Policy
from placement_engine.domain.quotas import member_milli
from placement_engine.domain.shapes import jobs_of
from placement_engine.domain.thrift import Thrift

__all__ = ["Hosting", "room_of"]

REVIEW_EVERY = 0.05
"""Scarcity is reviewed when what is free moved by this share of the fleet's devices, or of its CPU."""


def room_of(view: View) -> Room:
    """The rows of the view. Claims may exceed what there is: what is left is then nothing."""
    left = np.maximum(view.devices(FREE), 0.0).astype(np.intp, order="C")
    return Room(left, np.maximum(view.rows(CPU), 0.0), np.maximum(view.rows(HOST_MEMORY), 0.0), view.model)


class Hosting:
    """Learns from jobs, and values rows. What a row is worth changes only where `version` does.

    Cold, the value follows from the fleet's nodes alone: engines that are told the same in another order agree.
    Nodes with devices of two models are two rows that share CPU and memory: each is valued as if it had them alone.
    """

    def __init__(self, fleet: Fleet, policy: Policy) -> None:
        self._fleet = fleet
        self._thrift = Thrift(fleet.models, policy)
        self._mix = JobMix()
        self._value: HostingValue | None = None
        self._of: tuple[object, ...] = ()
        self._free = self._free_cpu = 0.0
        self._reviewed = 0
        self._looked_at = -1
        """Clock of the columns when the room was looked at last."""
        self.version = 0

    def observe(self, job: Job) -> None:
        """A job came."""
        for one in jobs_of(job):
            self._mix.observe(request_of(one, self._share_of(one)), max(1, one.replicas))

    def _share_of(self, job: Job) -> int:
        """Thousandths of a device that a share of memory or a partition is, the mean over the models of the fleet."""
        if not (job.device_share_bytes or job.partition):
            return 0
        models = self._fleet.models
        parts = [member_milli(job, models, number) for number, count in enumerate(models.counts) if number and count]
        return round(sum(parts) / len(parts)) if parts else WHOLE_DEVICE

    def review(self) -> None:
        """Takes what was learnt, and the room there is now, into use if either moved enough. Once a cycle."""
        self._mix.review()
        self.prepare()
        if self._value is None or not (self._mix.shares or self._thrift.on):
            return
        clock = self._fleet.columns.clock
        if self._reviewed == self.version and self._looked_at == clock:
            return
        self._looked_at = clock
        columns = self._fleet.columns.view()
        capacity = WHOLE_DEVICE * float(columns.rows(DEVICES).sum())
        free = float(np.clip(columns.devices(FREE), 0, WHOLE_DEVICE).sum()) / max(capacity, 1.0)
        cpu = float(np.maximum(columns.rows(CPU), 0.0).sum()) / max(float(columns.rows(CPU_TOTAL).sum()), 1.0)
        moved = max(abs(free - self._free), abs(cpu - self._free_cpu))
        if self._reviewed != self.version or moved >= REVIEW_EVERY:
            if self._mix.shares:
                self._value.review(room_of(columns), capacity)
            self._thrift.review(free)
            self._free, self._free_cpu = free, cpu
            self.version += 1
            self._reviewed = self.version

    def prepare(self) -> None:
        """Makes the value fit the fleet; before it is asked for."""
        models = self._fleet.models
        shares = self._mix.shares
        # Beside a prior there is nothing to weigh CPU-only work by.
        cpu_only = self._mix.cpu_only if shares else ()
        # Cold, room is that of empty nodes, whose shape is the structure's.
        of = (len(models), shares, cpu_only, None if shares else self._fleet.structure)
        if self._value is not None and of == self._of:
            return
        self._of = of
        present = np.array([count > 0 for count in models.counts], dtype=np.bool_)
        names = tuple(name for name, count in zip(models.names, models.counts, strict=True) if count > 0)
        known = self._known(shares or prior(names), cpu_only)
        self._value = HostingValue(known, present)
        self.version += 1
        columns = self._fleet.columns.view()
        slots = np.arange(columns.device.shape[1])[:, None]
        empty = np.where(slots < columns.rows(DEVICES), WHOLE_DEVICE, 0).astype(np.intp)
        unbounded = np.full(columns.model.shape[0], np.inf)
        self._value.review(Room(empty, unbounded, unbounded, columns.model), float(empty.sum()))

    def _known(self, shares: tuple[Share, ...], cpu_only: tuple[Share, ...]) -> Mix:
        admits = self._fleet.models.admits
        allowed = [
            [admits(model, one.models, one.classes, one.stacks) for model in range(len(self._fleet.models))]
            for one, _ in shares
        ]
        return Mix(
            tuple(one.kind for one, _ in shares),
            tuple(share for _, share in shares),
            np.array(allowed, dtype=np.bool_).reshape(len(shares), len(self._fleet.models)),
            tuple((one.kind, share) for one, share in cpu_only),
        )

    @property
    def value(self) -> HostingValue | None:
        """As `version` tells; None: before it is prepared."""
        return self._value

    @property
    def plain(self) -> bool:
        """Whether `lost` is the value's alone: no watts of thrift beside it."""
        return not self._thrift.on

    def lost(self, view: View, usable: Bools, kind: Kind) -> Floats:
        """Milli of value that the kind takes from each row, with the watts it wakes there where thrift is on.

        0 or more: (k). Each row has the devices for it.
        """
        assert self._value is not None, "prepare comes first"
        lost = self._value.lost(room_of(view), kind, usable if kind.devices else None)
        if self._thrift.on:
            lost += self._thrift.milli(view, usable, kind)
        return lost
