"""What a page or a report says, in Berth's units. None is unknown, never zero."""

from dataclasses import dataclass, field

__all__ = [
    "HARDWARE_SLOWDOWN",
    "HARDWARE_THERMAL",
    "POWER_BRAKE",
    "SOFTWARE_POWER_CAP",
    "SOFTWARE_THERMAL",
    "DeviceReading",
    "NodeReading",
    "Observation",
    "ObservedDevice",
]

SOFTWARE_POWER_CAP = 0x4
HARDWARE_SLOWDOWN = 0x8
SOFTWARE_THERMAL = 0x20
HARDWARE_THERMAL = 0x40
POWER_BRAKE = 0x80


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """One device at one moment: bytes, degrees Celsius, W, utilisation 0..1, NVML's throttle bits."""

    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_celsius: float | None = None
    memory_temperature_celsius: float | None = None
    slowdown_celsius: float | None = None
    memory_max_celsius: float | None = None
    margin_celsius: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    utilisation: float | None = None
    throttle_bits: int | None = None
    error_code: int | None = None
    healthy: bool | None = None


@dataclass(frozen=True, slots=True)
class ObservedDevice:
    """A device on a page. `device_id` is the vendor's UUID where there is one, else "<node>/<index>"."""

    device_id: str
    index: int
    reported_model: str
    device_class: str
    stack: str
    reading: DeviceReading
    memory_bytes: int | None = None
    power_limit_watts: float | None = None


@dataclass(frozen=True, slots=True)
class NodeReading:
    """The node as a whole: W, utilisation 0..1, bytes, degrees Celsius, seconds since the epoch.

    `power_watts` is the whole node's draw; `cpu_watts` that of its CPU packages alone.
    """

    power_watts: float | None = None
    cpu_watts: float | None = None
    cpu_utilisation: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    inlet_celsius: float | None = None
    boot_time: float | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """One page, normalised.

    `shared` holds what one chassis sensor says for all devices of the node; it fills only what a device does
    not say itself. `source_time` (seconds since the epoch) is the page's own clock, where it carries one. `fills`: it
    speaks of devices that others know better, makes none, and says only what they leave open.
    """

    format: str
    devices: tuple[ObservedDevice, ...] = ()
    node: NodeReading = field(default_factory=NodeReading)
    shared: DeviceReading | None = None
    source_time: float | None = None
    hostname: str = ""
    fills: bool = False
