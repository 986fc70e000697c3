"""What the rows of the fleet could still host, in thousandths of devices: what a placement should not waste.

A row is the devices of one model on one node. Its value has three parts:

- Fill: the milli that work of the known mix can be expected to fill on it, within its devices, CPU and memory.
  190 milli beside a task of 810 are nearly worthless; devices without CPU to feed them are, too; and so are seven free
  devices of eight where nearly all work asks for eight.
- Scarcity: how many of the special kinds (several devices, or a demanded model) it can host, each weighed by the
  demand to come against the room that the fleet has for it.
- Spare CPU: how much CPU-only work it can host on the CPU that its devices will not need, weighed in the same way.

A placement loses the value before less the value after; the row that loses least is the best fit. Fragmentation
gradient descent (USENIX ATC'23) asks what the next task could not use; this asks what the whole future could fill.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from placement_engine.domain.columns import Bools, Floats, Ints
from placement_engine.domain.model import WHOLE_DEVICE

__all__ = ["ExpectedFill", "Fill", "HostingValue", "Kind", "Mix", "Room", "fill_table"]

FILL_DRAWS = 64
"""Work that comes by a device before it counts as filled for good."""
SCARCITY_WEIGHT = 0.03
DEMANDED_MODEL_WEIGHT = 10.0
SLACK = 0.1
"""Demand is planned for beyond what is free, as a share of the fleet's devices."""
LEAST_TO_COME = 0.05
SMALLER_FILL = 2.0
"""Rests beside kinds of several devices are all filled where smaller kinds ask for half of all milli or more."""
MOST_CPU_ONLY = 8
"""CPU-only kinds that count, those that take most."""


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """What one member of a job takes: `devices` with `milli` on each; 0 devices is CPU only."""

    cpu: int
    memory: int
    devices: int
    milli: int
    """Thousandths; CPU and memory are in any unit that rooms are in, too."""

    @property
    def total_milli(self) -> int:
        return self.devices * self.milli

    @property
    def fraction(self) -> bool:
        return self.devices == 1 and self.milli < WHOLE_DEVICE


@dataclass(frozen=True, slots=True)
class Mix:
    """Kinds that take devices, the share of all members that each is, and the models each may use: (kinds, models).

    `cpu_only`: the kinds that take none, with their shares of all members.
    """

    kinds: tuple[Kind, ...]
    shares: tuple[float, ...]
    allowed: Bools
    cpu_only: tuple[tuple[Kind, float], ...] = ()

    def column(self, attribute: str) -> Floats:
        return np.array([getattr(kind, attribute) for kind in self.kinds], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Room:
    """What is left on k rows: milli of each device 0..1000 (slots, k), CPU and memory (k), model number (k)."""

    left: Ints
    cpu: Floats
    memory: Floats
    model: Ints

    def beside(self, other: "Room") -> "Room":
        """The rows of both, the other's last: two questions are asked at once."""
        return Room(
            np.concatenate((self.left, other.left), axis=1),
            np.concatenate((self.cpu, other.cpu)),
            np.concatenate((self.memory, other.memory)),
            np.concatenate((self.model, other.model)),
        )

    def without(self, kind: Kind, usable: Bools | None = None) -> "Room":
        """After the kind was put on each: a fraction on the device that holds it most tightly, or the first free.

        `usable`: the devices to be looked at, (slots, k). What does not fit leaves less than nothing: 0.
        """
        left = self.left
        if kind.devices:
            able = left >= kind.milli if usable is None else usable & (left >= kind.milli)
            left = left.copy()
            if kind.fraction:
                device = np.where(able, left, WHOLE_DEVICE + 1).argmin(axis=0)
                at = device * left.shape[1] + np.arange(left.shape[1])
                left.put(at, np.maximum(left.take(at) - kind.milli, 0))
            else:
                left[able & (np.add.accumulate(able, axis=0, dtype=np.intp) <= kind.devices)] = 0
        return Room(left, np.maximum(self.cpu - kind.cpu, 0), np.maximum(self.memory - kind.memory, 0), self.model)


class Fill(Protocol):
    """Milli that the mix can be expected to fill."""

    cpu_only_weight: ClassVar[float]
    cpu_only_rise: ClassVar[float]
    """Worth of cores for CPU-only work in milli that they would feed: the weight times the pressure to the rise."""
    cpu_only_from: ClassVar[float]
    """CPU-only work that asks for less of the room for it has room enough: it is not looked at."""

    def of(self, room: Room) -> Floats:
        """Of each row: (k)."""
        ...


def fill_table(kinds: Sequence[Kind], shares: Sequence[float]) -> Floats:
    """Milli filled of a device with l left, l = 0..1000, when FILL_DRAWS pieces of work come by, each by its share.

    Rises with l: more left never fills less, whatever comes.
    """
    weight: dict[int, float] = {}
    for kind, share in zip(kinds, shares, strict=True):
        weight[kind.milli] = weight.get(kind.milli, 0.0) + share * kind.devices
    total = sum(weight.values())
    table = np.zeros(WHOLE_DEVICE + 1)
    for _ in range(FILL_DRAWS if total else 0):
        after = np.zeros(WHOLE_DEVICE + 1)
        for milli, part in sorted(weight.items()):
            drawn = table.copy()
            drawn[milli:] = milli + table[: WHOLE_DEVICE + 1 - milli]
            after += part / total * drawn
        table = after
    return table


class Rests:
    """Bounds what a kind of several devices lets a row be filled to: whole multiples of them, and the rest of the row
    as far as smaller kinds come. Without it a row that can host no more of a kind counts as if others filled it."""

    def __init__(self, mix: Mix, table: Floats, weights: Floats) -> None:
        """`table`: milli filled of a device by what is left of it; `weights`: of the kinds; each by model."""
        count = mix.column("devices").astype(np.intp)
        self._sizes = np.unique(count[count > 1])
        self._column = np.where(count > 1, np.searchsorted(self._sizes, count) + 1, 0)
        smaller = weights @ (count[:, None] < self._sizes)
        comes = weights @ (count[:, None] == self._sizes) > 0
        self._filled: Floats = np.where(comes, np.minimum(SMALLER_FILL * smaller, 1.0), 1.0)
        self._device = table[:, WHOLE_DEVICE]
        self.bind = bool((self._filled < 1.0).any())
        """Whether they bound anything; where smaller work comes enough, all rests are filled."""

    def bound(self, room: Room, devices: Floats, others: Floats) -> Floats:
        """Of each row and kind: (k, kinds). `devices`: milli filled of its devices; `others`: for kinds of one."""
        free = np.add.reduce(room.left == WHOLE_DEVICE, axis=0, dtype=np.intp)
        hosted = free[:, None] // self._sizes * self._sizes * self._device.take(room.model)[:, None]
        rest = np.maximum(devices[:, None] - hosted, 0.0) * self._filled.take(room.model, axis=0)
        return np.column_stack((others, hosted + rest)).take(self._column, axis=1)

    def arrays(self) -> dict[str, Any]:
        """What `bound` is found from: see HostingValue.arrays. No rests: nothing is bounded."""
        return {
            "rests": self._sizes.size if self.bind else 0,
            "rest_size": self._sizes.astype(np.int64),
            "rest_of": self._column.astype(np.int64),
            "rest_filled": self._filled,
            "whole_filled": self._device,
        }


class ExpectedFill:
    """Device by device from a table, bounded by the CPU and memory as each kind of the mix would use them up."""

    cpu_only_weight: ClassVar[float] = 0.25
    cpu_only_rise: ClassVar[float] = 2.0
    cpu_only_from: ClassVar[float] = 0.1

    def __init__(self, mix: Mix) -> None:
        kinds, models = mix.allowed.shape
        milli, shares = mix.column("total_milli"), np.array(mix.shares)
        self._milli_per_cpu = milli / np.maximum(mix.column("cpu"), 1e-9)
        self._milli_per_memory = milli / np.maximum(mix.column("memory"), 1e-9)
        self._table = np.zeros((models, WHOLE_DEVICE + 1))
        self._weights = np.zeros((models, kinds))
        for model in range(models):
            mine = np.flatnonzero(mix.allowed[:, model])
            self._table[model] = fill_table([mix.kinds[k] for k in mine], [mix.shares[k] for k in mine])
            weight = shares * milli * mix.allowed[:, model]
            self._weights[model] = weight / weight.sum() if weight.any() else weight
        self._rests = Rests(mix, self._table, self._weights)

    def of(self, room: Room) -> Floats:
        devices = self._devices(room)
        bound = np.minimum(room.cpu[:, None] * self._milli_per_cpu, room.memory[:, None] * self._milli_per_memory)
        np.minimum(
            bound, self._rests.bound(room, devices, devices) if self._rests.bind else devices[:, None], out=bound
        )
        bound *= self._weights.take(room.model, axis=0)
        filled: Floats = np.add.reduce(bound, axis=1)
        return filled

    def arrays(self) -> dict[str, Any]:
        """What `of` is found from: see HostingValue.arrays."""
        return {
            "kinds": self._milli_per_cpu.size,
            "table": self._table,
            "per_cpu": self._milli_per_cpu,
            "per_memory": self._milli_per_memory,
            "weights": self._weights,
            **self._rests.arrays(),
        }

    def bounded(self, room: Room, filled: Floats) -> Floats:
        """Another estimate of what is filled, (k), within what kinds of several devices let a row be filled to."""
        if not self._rests.bind:
            return filled
        bound = self._rests.bound(room, self._devices(room), np.full(filled.shape, np.inf))
        np.minimum(bound, filled[:, None], out=bound)
        bound *= self._weights.take(room.model, axis=0)
        mean: Floats = np.add.reduce(bound, axis=1)
        return mean

    def _devices(self, room: Room) -> Floats:
        devices: Floats = np.add.reduce(self._table.take(room.model * (WHOLE_DEVICE + 1) + room.left), axis=0)
        return devices


class SpareCpu:
    """What CPU-only kinds can be hosted on: the CPU that what is left of a row's devices will not need.

    Chunks count: 31 cores are no room for work that asks for 32.
    """

    def __init__(self, mix: Mix, fill: Fill) -> None:
        # Where work with devices asks for no CPU there is nothing to weigh CPU against.
        milli, cpu = (float(np.array(mix.shares) @ mix.column(one)) for one in ("total_milli", "cpu"))
        known = [one for one in mix.cpu_only if one[0].cpu > 0 and cpu > 0]
        known.sort(key=lambda one: (-one[0].cpu * one[1], one[0]))
        del known[MOST_CPU_ONLY:]
        self._weight, self._rise, self._from = fill.cpu_only_weight, fill.cpu_only_rise, fill.cpu_only_from
        self._cpu_per_milli = cpu / milli if milli else 0.0
        self._kinds = np.array([[kind.cpu, max(kind.memory, 1e-9), share] for kind, share in known]).reshape(-1, 3).T
        self._cpu, self._memory, _ = self._kinds[:, :0]
        self._worth = np.zeros(0)

    def review(self, room: Room, to_come: float) -> None:
        """Sets the worth of one more host of each kind. `to_come`: members of all kinds."""
        if not self._kinds.size:
            return
        self._cpu, self._memory, share = self._kinds
        pressure = np.minimum(share * to_come / np.maximum(self._hosts(room).sum(axis=0), 1.0), 1.0)
        scarce = pressure >= self._from
        worth: Floats = self._weight * pressure**self._rise * self._cpu / self._cpu_per_milli
        self._cpu, self._memory, self._worth = self._cpu[scarce], self._memory[scarce], worth[scarce]

    def of(self, room: Room) -> Floats | float:
        """Of each row, in milli of devices that its CPU would feed: (k); 0.0 while there is room enough."""
        if not self._worth.size:
            return 0.0
        worth: Floats = np.add.reduce(self._hosts(room) * self._worth, axis=1)
        return worth

    def _hosts(self, room: Room) -> Floats:
        """Members of each scarce kind: (k, kinds)."""
        spare = np.maximum(room.cpu - np.add.reduce(room.left, axis=0) * self._cpu_per_milli, 0.0)
        hosts: Floats = spare[:, None] / self._cpu
        np.minimum(hosts, room.memory[:, None] / self._memory, out=hosts)
        return np.floor(hosts, out=hosts)

    def arrays(self) -> dict[str, Any]:
        """What `of` is found from: see HostingValue.arrays."""
        return {
            "spare_kinds": self._worth.size,
            "spare_cpu": self._cpu,
            "spare_memory": self._memory,
            "spare_worth": self._worth,
            "cpu_per_milli": self._cpu_per_milli,
        }


class HostingValue:
    """The value of rows under a mix of work. `review` sets what special kinds are worth; until then nothing."""

    def __init__(self, mix: Mix, present: Bools, fill: Fill | None = None) -> None:
        """`present`: the models that the fleet has; a kind that may not use all of them demands one."""
        self.fill: Fill = ExpectedFill(mix) if fill is None else fill
        shares, milli = np.array(mix.shares), mix.column("total_milli")
        demanded: Bools = np.logical_or.reduce(present & ~mix.allowed, axis=1)
        special: Ints = np.flatnonzero((mix.column("devices") > 1) | demanded)
        self._per_member = float(shares @ milli) / WHOLE_DEVICE
        self._share = shares[special]
        self._milli = milli[special]
        self._count = np.maximum(mix.column("devices")[special], 1.0)
        self._cpu = np.maximum(mix.column("cpu")[special], 1e-9)
        self._memory = np.maximum(mix.column("memory")[special], 1e-9)
        self._rank = np.where(demanded[special], DEMANDED_MODEL_WEIGHT, 1.0)
        self._allowed = mix.allowed[special].T.astype(np.float64)
        sizes, self._size = np.unique(mix.column("milli")[special].astype(np.intp), return_inverse=True)
        self._slots = (np.arange(WHOLE_DEVICE + 1)[:, None] // np.maximum(sizes, 1)).astype(np.float64)
        self._worth = np.zeros(special.size)
        self._spare_cpu = SpareCpu(mix, self.fill)

    def review(self, room: Room, capacity: float) -> None:
        """Sets the worth of one more host of each special or CPU-only kind: demand to come against room of all rows.

        The fleet has `capacity` milli of devices. As much is to come as is free, and SLACK more: no end is known.
        """
        if not self._per_member:
            return
        free = float(room.left.sum()) / max(capacity, 1.0)
        to_come = capacity / WHOLE_DEVICE / self._per_member * max(free + SLACK, LEAST_TO_COME)
        self._spare_cpu.review(room, to_come)
        if self._worth.size:
            hosts = np.maximum(self._hosts(room).sum(axis=0), 1.0)
            wanted = self._share * to_come / (self._per_member * hosts)
            self._worth = SCARCITY_WEIGHT * self._rank * wanted * self._milli

    def scarcity(self, room: Room) -> Floats:
        """Of hosts of special kinds and of spare CPU, of each row, in milli: (k)."""
        worth = np.zeros(room.model.shape[0])
        if self._worth.size:
            # Row by row: a product of matrices rounds a row otherwise in another company of rows.
            worth = np.add.reduce(self._hosts(room) * self._worth, axis=1)
        worth += self._spare_cpu.of(room)
        return worth

    def of(self, room: Room) -> Floats:
        """The value of each row, 0 or more: (k). With nothing left of its devices only its spare CPU has any."""
        value: Floats = self.fill.of(room) + self.scarcity(room)
        return value

    def lost(self, room: Room, kind: Kind, usable: Bools | None = None) -> Floats:
        """What the kind takes from the value of each row, 0 or more: (k)."""
        rows = room.model.shape[0]
        value = self.of(room.beside(room.without(kind, usable)))
        lost: Floats = np.maximum(value[:rows] - value[rows:], 0.0)
        return lost

    def arrays(self) -> dict[str, Any] | None:
        """What `lost` is found from, for scoring.c, which does the same. None: the fill is no table."""
        fill = self.fill
        if not isinstance(fill, ExpectedFill):
            return None
        return {
            **fill.arrays(),
            "specials": self._worth.size,
            "sizes": self._slots.shape[1],
            "fits": self._slots,
            "size": self._size.astype(np.int64),
            "count": self._count,
            "allowed": self._allowed,
            "needs_cpu": self._cpu,
            "needs_memory": self._memory,
            "worth": self._worth,
            **self._spare_cpu.arrays(),
        }

    def _hosts(self, room: Room) -> Floats:
        """Members of each special kind that a row could host: (k, kinds). Not rounded, but 0 where not one fits."""
        slots = np.add.reduce(self._slots.take(room.left, axis=0), axis=0)
        hosts: Floats = np.floor(slots.take(self._size, axis=1) / self._count)
        hosts *= self._allowed.take(room.model, axis=0)
        for has, needs in ((room.cpu, self._cpu), (room.memory, self._memory)):
            np.minimum(hosts, has[:, None] / needs, out=hosts)
        hosts *= hosts >= 1
        return hosts
