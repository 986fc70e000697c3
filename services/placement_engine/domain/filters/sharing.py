"""Shares of a device's memory and partitions of a device: asked only for jobs that want one."""

import numpy as np

from placement_engine.domain.columns import SLICES, TOTAL, Bools, Floats, View
from placement_engine.domain.model import WHOLE_DEVICE
from placement_engine.domain.partitions import MASKS, UNDIVIDED, UNPARTITIONABLE
from placement_engine.domain.plugins import Description, Selective
from placement_engine.domain.shapes import Ask


def milli_needed(view: View, ask: Ask) -> Floats:
    """Thousandths of each device that the memory share is, rounded up: (slots, k); 1 where its size is unknown."""
    total = view.devices(TOTAL)
    needed = np.ceil(ask.shape.share_bytes * float(WHOLE_DEVICE) / np.maximum(total, 1.0))
    found: Floats = np.where(total > 0, needed, 1.0)
    return found


class Sharing(Selective):
    """Concerns shares and partitions only: for others it passes everything."""

    name = ""
    code = ""

    def concerns(self, ask: Ask) -> bool:
        return ask.shape.by_model

    def passes(self, view: View, ask: Ask) -> Bools:
        raise NotImplementedError

    def describe(self, view: View, ask: Ask) -> Description:
        raise NotImplementedError


class Partitionable(Sharing):
    """The device may be cut, and its model has that partition, with as much memory as the job needs."""

    name = "Partition"
    code = "PARTITION_UNSUPPORTED"

    def passes(self, view: View, ask: Ask) -> Bools:
        if ask.cuts is None:
            return np.ones(view.device.shape[1:], dtype=np.bool_)
        cuttable: Bools = view.devices(SLICES) != UNPARTITIONABLE
        return cuttable & (ask.cuts.count[:, 0] > 0).take(view.model)

    def describe(self, view: View, ask: Ask) -> Description:
        whole = view.devices(SLICES) == UNPARTITIONABLE
        return (
            f"needs partition {ask.shape.partition}: these devices are not partitionable, or their model has none "
            "of that name and memory",
            {"devices_not_partitionable": float((whole & (view.devices(TOTAL) > 0)).sum())},
        )


class PartitionRoom(Sharing):
    """Free slices at one of the allowed starts; a device in use undivided has none."""

    name = "Partition"
    code = "PARTITION_NO_ROOM"

    def passes(self, view: View, ask: Ask) -> Bools:
        if ask.cuts is None:
            return np.ones(view.device.shape[1:], dtype=np.bool_)
        return ask.cuts.fits(view.model, view.devices(SLICES))

    def describe(self, view: View, ask: Ask) -> Description:
        state = view.devices(SLICES)
        undivided, divided = float((state == UNDIVIDED).sum()), float(((state > 0) & (state < MASKS)).sum())
        return (
            f"needs partition {ask.shape.partition}: {divided:g} devices have no free slices at an allowed start, "
            f"{undivided:g} are in use undivided",
            {"devices_without_slices": divided, "devices_undivided": undivided},
        )


class KnownMemory(Sharing):
    """A share of memory says nothing where the size of the device is unknown."""

    name = "DeviceMemory"
    code = "DEVICE_MEMORY_UNKNOWN"

    def passes(self, view: View, ask: Ask) -> Bools:
        if not ask.shape.share_bytes:
            return np.ones(view.device.shape[1:], dtype=np.bool_)
        known: Bools = view.devices(TOTAL) > 0
        return known

    def describe(self, view: View, ask: Ask) -> Description:
        share = float(ask.shape.share_bytes)
        return f"needs {share / 2**30:g} GiB of a device whose memory is not known", {"share_bytes": share}
