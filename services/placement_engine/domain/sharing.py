"""How a member shares one device: a fraction, a share of its memory, or a partition of it."""

from collections.abc import Iterable, Iterator

import numpy as np

from placement_engine.domain.columns import FREE, SLICES, Floats, View
from placement_engine.domain.facts import DeviceFacts
from placement_engine.domain.filters.sharing import milli_needed
from placement_engine.domain.model import WHOLE_DEVICE, DeviceClaim
from placement_engine.domain.shapes import Ask


def share_milli(share_bytes: int, total_bytes: int | None) -> int:
    """Thousandths of a device that a share of its memory is, rounded up. ValueError: its size is unknown."""
    if not total_bytes:
        raise ValueError("a share of memory needs a device whose memory is known")
    return -(-share_bytes * WHOLE_DEVICE // total_bytes)


def most_milli(ask: Ask) -> int:
    """The most thousandths of a device that a share or partition is, over the models that it may get."""
    return 0 if ask.milli is None else int(np.where(ask.allowed, ask.milli, 0.0).max())


def claim_on(device: DeviceFacts, ask: Ask, model: int) -> DeviceClaim:
    """What a member that was found to fit takes of the device."""
    shape, milli = ask.shape, ask.shape.milli_per_device
    cut = None if ask.cuts is None else ask.cuts.by_model[model]
    if shape.share_bytes:
        milli = share_milli(shape.share_bytes, device.total_bytes)
    elif cut is not None and ask.milli is not None:
        milli = int(ask.milli[model])
    return DeviceClaim(
        device_id=device.device.device_id,
        index=device.device.index,
        milli=milli,
        memory_bytes=int(ask.memory[model]),
        model=device.device.model,
        partition=shape.partition,
        partition_start=0 if cut is None else cut.start[device.slices()],
    )


def claims_on(devices: Iterable[DeviceFacts], ask: Ask, model: int) -> Iterator[DeviceClaim]:
    """What a member takes of each of these."""
    if ask.shape.by_model:
        yield from (claim_on(device, ask, model) for device in devices)
        return
    milli, memory = ask.shape.milli_per_device, int(ask.memory[model])
    for facts in devices:
        device = facts.device
        yield DeviceClaim(device.device_id, device.index, milli, memory, device.model)


def fits_per_device(view: View, ask: Ask) -> Floats:
    """How many members that share one device each device could take by what they share: (slots, k)."""
    each: Floats
    if ask.cuts is not None:
        each = ask.cuts.counts(view.model, view.devices(SLICES)).astype(np.float64)
    elif ask.shape.share_bytes:
        each = np.floor(view.devices(FREE) / milli_needed(view, ask))
    else:
        each = view.devices(FREE) // ask.shape.milli
    return each


def fit_on_empty(device: DeviceFacts, ask: Ask, model: int) -> int:
    """How many such members the device could hold, were it empty and well."""
    shape, total = ask.shape, device.total_bytes
    if ask.cuts is not None:
        cut = ask.cuts.by_model[model]
        return cut.count[0] if cut is not None and device.partitions else 0
    if shape.share_bytes:
        return WHOLE_DEVICE // share_milli(shape.share_bytes, total) if total else 0
    return WHOLE_DEVICE // shape.milli
