"""SambaNova: sambanova_exporter (9101) names RDUs; the XRDU exporter (9821, /probe?target=) speaks for a chassis.

`xrdu` means different things in the two: in the first a label of a device, in the second the box probed. So the
second gives one reading for all devices of the node, and none of its own.
"""

from telemetry_ingest.domain.exposition import Sample
from telemetry_ingest.domain.formats.context import Context, index_of, index_order
from telemetry_ingest.domain.formats.plausible import celsius, finite, ratio
from telemetry_ingest.domain.model import DeviceReading, NodeReading, Observation, ObservedDevice

__all__ = [
    "MARKERS",
    "NAME",
    "WANTED",
    "XRDU_MARKERS",
    "XRDU_NAME",
    "XRDU_WANTED",
    "normalise",
    "normalise_xrdu",
]

NAME = "sambanova"
MARKERS = ("sambanova_",)
WANTED = {
    "sambanova_tile_aload_percent": "load",
    "sambanova_platform_error_count": "errors",
    "sambanova_platform_error_count_total": "errors",
}
XRDU_NAME = "xrdu"
XRDU_MARKERS = ("xrdu_",)
XRDU_WANTED = {"xrdu_temperature_celsius": "temperature", "xrdu_up": "up"}


def normalise(samples: tuple[Sample, ...], context: Context) -> Observation:
    """One device an RDU; its utilisation is the mean of its tiles. Health is bad while the error count rises."""
    tiles: dict[tuple[str, str], list[float]] = {}
    errors = 0.0
    heard = False
    for name, labels, value in samples:
        if name == "errors":
            heard = heard or finite(value) is not None
            errors += finite(value) or 0.0
            continue
        key = (labels.get("xrdu", ""), labels.get("rdu", ""))
        known = ratio(value, 100.0)
        loads = tiles.setdefault(key, [])
        if known is not None:
            loads.append(known)
    rising = context.counters.rose("errors", errors, context.now) if heard else None
    ordered = sorted(tiles, key=lambda key: (index_order(key[0]), index_order(key[1])))
    devices = tuple(
        ObservedDevice(
            device_id=f"{context.node}/xrdu{index_of(xrdu) or 0}/rdu{index_of(rdu) or 0}",
            index=position,
            reported_model="",
            device_class="RDU",
            stack="SambaFlow",
            reading=DeviceReading(
                utilisation=sum(tiles[xrdu, rdu]) / len(tiles[xrdu, rdu]) if tiles[xrdu, rdu] else None,
                healthy=False if rising else None,
            ),
        )
        for position, (xrdu, rdu) in enumerate(ordered)
    )
    return Observation(NAME, devices)


def normalise_xrdu(samples: tuple[Sample, ...], context: Context) -> Observation:
    """The chassis: the hottest sensor counts for every RDU in it, an inlet sensor for the node."""
    inlet: float | None = None
    hottest: float | None = None
    up: bool | None = None
    for name, labels, value in samples:
        if name == "up":
            up = value == 1
            continue
        known = celsius(value)
        if known is None:
            continue
        if "inlet" in labels.get("sensor", "").lower():
            inlet = known if inlet is None else max(inlet, known)
        else:
            hottest = known if hottest is None else max(hottest, known)
    return Observation(
        XRDU_NAME,
        node=NodeReading(inlet_celsius=inlet),
        shared=DeviceReading(temperature_celsius=hottest, healthy=False if up is False else None),
    )
