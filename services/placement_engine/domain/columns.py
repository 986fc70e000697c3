"""The fleet as column arrays, for vector operations over many nodes at once.

A *row* is the devices of one accelerator model on one node (a plain node is one row, a node with two
models two, a node without devices one row with no slots filled). Arrays are column-major: the row is the
last axis, so each column is contiguous and reductions over slots run along whole columns.
"""

from dataclasses import dataclass
from typing import Any

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
JUDGED, HEATS, TRAITS_ONLY = slice(FREE, SLICES + 1), slice(MARGIN, FORECAST + 1), slice(TRAITS, TRAITS + 1)
DEVICE_COLUMNS = 9
BOUNDED_DEVICE = slice(FREE, WATTS + 1)  # what filters may set a floor to; never nan
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
TIER_ONLY = slice(TIER, TIER + 1)
ROW_COLUMNS = 13
BOUNDED = slice(SCHEDULABLE, NODE_WATTS + 1)  # what filters may set a floor to; never nan

LOGGED = 16384
"""Changes that the log keeps at least, once there were so many."""

FRESH, AGEING, DEGRADED, UNSCHEDULABLE, UNHEARD = 0.0, 1.0, 2.0, 3.0, 4.0
TIERS = 5


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
        """Of these rows, by position in the view; copied as they are asked for."""
        return PartView(self, rows)

    def rows(self, column: int) -> Floats:
        """A row column: (k)."""
        values: Floats = self.row[column]
        return values

    def devices(self, column: int) -> Floats:
        """A device column: (slots, k)."""
        values: Floats = self.device[column]
        return values


class PartView(View):
    """Of some rows of a view: each column is copied once it is asked for. Scoring reads few of the columns."""

    __slots__ = ("_columns", "_of", "_picked")

    def __init__(self, of: View, picked: Ints) -> None:
        put = object.__setattr__
        put(self, "_of", of)
        put(self, "_picked", picked)
        put(self, "_columns", {})
        put(self, "model", of.model.take(picked))

    def __getattr__(self, name: str) -> Any:
        """What is not copied yet."""
        if name in ("node", "executors"):
            value = getattr(self._of, name).take(self._picked)
        elif name in ("device", "row"):
            value = getattr(self._of, name).take(self._picked, axis=-1)
        else:
            raise AttributeError(name)
        object.__setattr__(self, name, value)
        return value

    def only(self, rows: Ints) -> View:
        return PartView(self._of, self._picked.take(rows))

    def rows(self, column: int) -> Floats:
        known: Floats | None = self._columns.get(column)
        if known is None:
            known = self._columns[column] = self._of.row[column].take(self._picked)
        return known

    def devices(self, column: int) -> Floats:
        known: Floats | None = self._columns.get(-1 - column)
        if known is None:
            known = self._columns[-1 - column] = self._of.device[column].take(self._picked, axis=1)
        return known


class PackedView(View):
    """Of some rows, from copies in which all that is known of a row lies together: to pick few rows is one step."""

    __slots__ = ("_of", "_picked")

    def __init__(self, of: "Columns", picked: Ints) -> None:
        put = object.__setattr__
        put(self, "_of", of)
        put(self, "_picked", picked)
        put(self, "model", of.model.take(picked))
        put(self, "row", of.packed_row.take(picked, axis=0).T)

    def __getattr__(self, name: str) -> Any:
        """What is not copied yet."""
        if name == "device":
            value = self._of.packed_device.take(self._picked, axis=0).transpose(1, 2, 0)
        elif name in ("node", "executors"):
            value = getattr(self._of, name).take(self._picked)
        else:
            raise AttributeError(name)
        object.__setattr__(self, name, value)
        return value

    def only(self, rows: Ints) -> View:
        return PackedView(self._of, self._picked.take(rows))


class Columns:
    """Allocates rows and slots, growing by doubling; freed rows are used again.

    `version[row]` is the number of the last change to the row, and a log has the rows that changed last: a reader
    that remembers where the log was finds what changed since at the cost of what did.
    """

    def __init__(self) -> None:
        self.rows = 0
        """Rows ever used: arrays are longer."""
        self.clock = 0
        self._free: list[int] = []
        self._log: list[int] = []
        """Rows in the order of their changes, the last ones of them."""
        self._logged = 0
        """Changes that were dropped from the log."""
        self._last = -1
        """The last row of the log; -1: a reader has seen it."""
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
        # The same by rows, to pick from.
        self.packed_device: Floats = np.zeros((capacity, DEVICE_COLUMNS, slots))
        self.packed_device[:, FREE] = ABSENT
        self.packed_row: Floats = np.zeros((capacity, ROW_COLUMNS))

    @property
    def capacity(self) -> int:
        return int(self.row.shape[1])

    def _grow(self, capacity: int, slots: int) -> None:
        old, rows, old_slots = self.__dict__.copy(), self.rows, self.device.shape[1]
        self._allocate(capacity, slots)
        self.device[:, :old_slots, :rows] = old["device"][:, :, :rows]
        self.row[:, :rows] = old["row"][:, :rows]
        self.packed_device[:rows, :, :old_slots] = old["packed_device"][:rows]
        self.packed_row[:rows] = old["packed_row"][:rows]
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
        for block in (self.device[:, :, row], self.packed_device[row]):
            block[:] = 0.0
            block[FREE] = ABSENT
        self.write_row(row, slice(0, ROW_COLUMNS), 0.0)
        self.model[row] = 0
        self.executors[row] = 0
        self.node[row] = -1
        self.received[row] = np.nan
        self.exempt[row] = False
        self.touch(row)
        self._free.append(row)

    def write_device(self, row: int, slot: int, columns: slice, values: tuple[float, ...]) -> None:
        """These columns of a device. To be followed by `touch` where a score could change."""
        written = np.array(values)
        self.device[columns, slot, row] = written
        self.packed_device[row, columns, slot] = written

    def write_row(self, row: int, columns: slice, values: tuple[float, ...] | float) -> None:
        """These columns of a row. To be followed by `touch` where a score could change."""
        written = np.array(values)
        self.row[columns, row] = written
        self.packed_row[row, columns] = written

    def touch(self, row: int) -> None:
        self.clock += 1
        self.version[row] = self.clock
        if row != self._last:
            self._last = row
            self._log.append(row)
            if len(self._log) > 2 * LOGGED:
                del self._log[:LOGGED]
                self._logged += LOGGED

    def changes(self) -> int:
        """A mark in the log of changes, for `changed_since`. What changes from now on comes after it."""
        self._last = -1
        return self._logged + len(self._log)

    def changed_since(self, mark: int, version: int) -> Ints:
        """Rows that changed since the mark, ascending; by the version where the log no longer goes back so far."""
        if mark < self._logged:
            return np.flatnonzero(self.version[: self.rows] > version)
        rows = sorted(set(self._log[mark - self._logged :]))
        return np.array(rows, dtype=np.intp)

    def view(self, rows: Ints | None = None) -> View:
        """These rows, copied as they are asked for; None: all rows, not copied. To be read before anything changes."""
        if rows is not None:
            return PackedView(self, rows)
        n = self.rows
        return View(self.device[:, :, :n], self.row[:, :n], self.model[:n], self.executors[:n], self.node[:n])
