"""The fleet as column arrays, for vector operations over many nodes at once.

A *row* is the devices of one accelerator model on one node (a plain node is one row, a node with two
models two, a node without devices one row with no slots filled). Arrays are column-major: the row is the
last axis, so each column is contiguous and reductions over slots run along whole columns.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]

# Device columns, `device[COLUMN, slot, row]`.
FREE = 0  # thousandths not claimed, below 0 where claims exceed it, 0 at most if partitioned; ABSENT: no device
MEMORY = 1  # bytes really free: total - claims - what others use; inf is never, unknown is 0
BLOCKED = 2  # why it takes no new work: the sum of the bits below, 0 if it does
WATTS = 3  # W of headroom under the device's own limit; inf where unknown
TOTAL = 4  # bytes of memory; 0 where unknown
SLICES = 5  # mask of memory slices that partitions use, or a state of partitions.py
# Only for reasons: kept where the device is hot or heats up, and a change of them changes no score.
MARGIN = 6  # degrees Celsius to slowdown
FORECAST = 7  # the same, the policy's horizon ahead
TRAITS = 8  # number of its set of traits in models.py, 0: none
DEVICE_COLUMNS = 9
ABSENT = -1e9

# Bits of BLOCKED.
SILENT = 1  # its node's telemetry no longer speaks of it
SICK = 2  # an error, or unhealthy
HOT = 4  # heat margin rule with hysteresis
HEATING = 8  # the same, by forecast: it heats up towards the floor
THROTTLED = 16  # a throttle bit that blocks
CORDONED = 32  # see health_watch.py
HELD = 64  # somebody outside Berth has it

# Row columns, `row[COLUMN, row]`. First what is the node's own, written together ...
SCHEDULABLE = 0
CPU = 1  # thousandths of a core free on the node
HOST_MEMORY = 2  # bytes free on the node
PRIMARY = 3  # the one row of its node that takes jobs without devices
DEVICES = 4  # present devices in the row
ACCELERATORS = 5  # present devices of the node that are not CPUs
IDLE_WATTS = 6  # least draw of the row's idle devices, replaced by a job's own draw
CPU_TOTAL = 7
PODS = 8  # members that the node takes beside those it has; inf where no limit is known
OWN = slice(SCHEDULABLE, PODS + 1)
# ... then what it shares with others, also written together ...
NODE_WATTS = 9  # W of headroom, least of node and the power domains above it; inf where no cap
POWER = 10  # 0..1, part of the power budget left
HEAT = 11  # 0..1, higher is cooler: the row, and a little of the domain around it
SHARED = slice(NODE_WATTS, HEAT + 1)
# ... and what time alone changes.
TIER = 12  # age of telemetry: see FRESH .. UNHEARD
ROW_COLUMNS = 13

FRESH, AGEING, DEGRADED, UNSCHEDULABLE, UNHEARD = 0.0, 1.0, 2.0, 3.0, 4.0


@dataclass(frozen=True, slots=True)
class View:
    """Some rows (k of them) of the fleet: device (9, slots, k), row (13, k), model (k), executors (k), node (k)."""

    device: Floats
    row: Floats
    model: Ints
    executors: npt.NDArray[np.int64]
    node: Ints
    """Number of the node."""

    def only(self, rows: Ints) -> "View":
        """Of these rows, by position in the view; copied."""
        return View(
            self.device.take(rows, axis=2),
            self.row.take(rows, axis=1),
            self.model.take(rows),
            self.executors.take(rows),
            self.node.take(rows),
        )

    def rows(self, column: int) -> Floats:
        """A row column: (k)."""
        values: Floats = self.row[column]
        return values

    def devices(self, column: int) -> Floats:
        """A device column: (slots, k)."""
        values: Floats = self.device[column]
        return values


class Columns:
    """Allocates rows and slots, growing by doubling; freed rows are used again.

    `version[row]` is the number of the last change to the row: a reader that remembers the number it
    saw last finds what changed since with one comparison.
    """

    def __init__(self) -> None:
        self.rows = 0
        """Rows ever used: arrays are longer."""
        self.clock = 0
        self._free: list[int] = []
        self._allocate(16, 1)

    def _allocate(self, capacity: int, slots: int) -> None:
        self.device: Floats = np.zeros((DEVICE_COLUMNS, slots, capacity))
        self.device[FREE] = ABSENT
        self.row: Floats = np.zeros((ROW_COLUMNS, capacity))
        self.model: Ints = np.zeros(capacity, dtype=np.intp)
        self.executors: npt.NDArray[np.int64] = np.zeros(capacity, dtype=np.int64)
        self.version: npt.NDArray[np.int64] = np.zeros(capacity, dtype=np.int64)
        self.node: Ints = np.full(capacity, -1, dtype=np.intp)
        self.received: Floats = np.full(capacity, np.nan)
        self.exempt: Bools = np.zeros(capacity, dtype=np.bool_)

    @property
    def capacity(self) -> int:
        return int(self.row.shape[1])

    def _grow(self, capacity: int, slots: int) -> None:
        old, rows, old_slots = self.__dict__.copy(), self.rows, self.device.shape[1]
        self._allocate(capacity, slots)
        self.device[:, :old_slots, :rows] = old["device"][:, :, :rows]
        self.row[:, :rows] = old["row"][:, :rows]
        for name in ("model", "executors", "version", "node", "received", "exempt"):
            getattr(self, name)[:rows] = old[name][:rows]

    def take(self, slots: int) -> int:
        """A clean row with room for `slots` devices."""
        if slots > self.device.shape[1]:
            self._grow(self.capacity, max(slots, 2 * self.device.shape[1]))
        if self._free:
            return self._free.pop()
        if self.rows == self.capacity:
            self._grow(2 * self.capacity, self.device.shape[1])
        self.rows += 1
        return self.rows - 1

    def give_back(self, row: int) -> None:
        self.device[:, :, row] = 0.0
        self.device[FREE, :, row] = ABSENT
        self.row[:, row] = 0.0
        self.model[row] = 0
        self.executors[row] = 0
        self.node[row] = -1
        self.received[row] = np.nan
        self.exempt[row] = False
        self.touch(row)
        self._free.append(row)

    def touch(self, row: int) -> None:
        self.clock += 1
        self.version[row] = self.clock

    def changed_since(self, version: int) -> Ints:
        return np.flatnonzero(self.version[: self.rows] > version)

    def view(self, rows: Ints | None = None) -> View:
        """These rows, copied; None: all rows, not copied."""
        if rows is None:
            n = self.rows
            return View(self.device[:, :, :n], self.row[:, :n], self.model[:n], self.executors[:n], self.node[:n])
        return View(
            self.device.take(rows, axis=2),
            self.row.take(rows, axis=1),
            self.model.take(rows),
            self.executors.take(rows),
            self.node.take(rows),
        )
