"""The accelerator models present in the fleet, numbered. Number 0 is "no device"."""

from placement_engine.domain.estimates import Estimator
from placement_engine.domain.model import Device, Partition
from placement_engine.domain.partitions import COMPUTE_SLICES, MEMORY_SLICES
from placement_engine.domain.policy import Policy
from placement_engine.domain.roofline import Roofline

CPU_CLASS = "CPU"


class Models:
    """A number per (model, class, stack, cut), with the present devices of each."""

    def __init__(self, policy: Policy = Policy()) -> None:  # noqa: B008
        self.names: list[str] = [""]
        self.classes: list[str] = [""]
        self.stacks: list[str] = [""]
        self.cuts: list[str] = [""]
        """The partition that each device of the kind itself is; "": whole devices."""
        self.counts: list[int] = [0]
        """Present devices of each."""
        self.sizes: list[int] = [0]
        """Largest memory that a device of each declared, bytes; 0: none did."""
        self.estimator = Estimator(Roofline(policy.class_rates), policy.risk_aversion)
        self._numbers: dict[tuple[str, str, str, str], int] = {}
        self.traits: dict[frozenset[str], int] = {frozenset(): 0}
        """A number per set of traits that a device ever had."""

    def __len__(self) -> int:
        return len(self.names)

    def identify(self, device: Device) -> int:
        key = (device.model, device.device_class, device.stack, device.partition)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.names)
            for store, value in zip((self.names, self.classes, self.stacks, self.cuts), key, strict=True):
                store.append(value)
            self.counts.append(0)
            self.sizes.append(0)
        self.sizes[number] = max(self.sizes[number], device.memory_bytes or 0)
        return number

    def traits_of(self, device: Device) -> int:
        return self.traits.setdefault(frozenset(device.traits), len(self.traits))

    def count(self, model: int, change: int) -> None:
        self.counts[model] += change

    def memory(self, device: Device) -> int | None:
        """Nominal bytes: the device's own word, else the catalogue's."""
        entry = self.estimator.accelerator(device.model)
        return device.memory_bytes if device.memory_bytes is not None else entry.memory_bytes if entry else None

    def tdp(self, device: Device) -> float | None:
        entry = self.estimator.accelerator(device.model)
        return entry.tdp_watts if entry else None

    def partitions(self, device: Device) -> tuple[Partition, ...]:
        """What it may be cut into: none unless it is partitionable. One that is a cut itself: just that one."""
        if device.partition:
            return self.partitions_of(self.identify(device))
        entry = self.estimator.accelerator(device.model) if device.partitionable else None
        return entry.partitions if entry else ()

    def partitions_of(self, model: int) -> tuple[Partition, ...]:
        """What devices of that number may be cut into, where they may. A device that is a cut itself is taken whole
        by it, and counts as the thousandths of a device that the catalogue gives the cut."""
        entry, name = self.estimator.accelerator(self.names[model]), self.cuts[model]
        known = entry.partitions if entry else ()
        if not name:
            return known
        listed = next((one for one in known if one.name == name), None)
        memory = self.sizes[model] or (listed.memory_bytes if listed else 0)
        return (Partition(name, listed.compute_slices if listed else COMPUTE_SLICES, MEMORY_SLICES, (0,), memory),)

    def admits(self, model: int, models: tuple[str, ...], classes: tuple[str, ...], stacks: tuple[str, ...]) -> bool:
        """Whether a job that names these may use the model. A CPU takes device work only when named."""
        name, kind, stack = (store[model].casefold() for store in (self.names, self.classes, self.stacks))
        if model == 0:
            return False
        named = name in (m.casefold() for m in models)
        classed = kind in (c.casefold() for c in classes)
        if kind == CPU_CLASS.casefold() and not (named or classed):
            return False
        return (
            (named or not models)
            and (classed or not classes)
            and (not stacks or stack in (s.casefold() for s in stacks))
        )
