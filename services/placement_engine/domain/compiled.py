"""The scoring pass in C (`scoring.c`), where it was built and the ask is of the common sort: to the last bit what
`Pipeline.score` says by arrays, at a fraction of their cost for the few rows that change between two decisions.

Whoever installs Berth without a C compiler has the arrays alone, and the same decisions. An ask is of the common sort
if its filters are floors, the executor, the age of telemetry and the power of the node, and its scores have a form (see
plugins): a plugin that tells of neither is asked by arrays, as are all others then.
"""

import ctypes
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from placement_engine.domain.columns import (
    ACCELERATORS,
    BLOCKED,
    BOUNDED,
    BOUNDED_DEVICE,
    CPU,
    CPU_TOTAL,
    FREE,
    HOST_MEMORY,
    IDLE_WATTS,
    NODE_WATTS,
    TIER,
    TIERS,
    Bools,
    Columns,
    Floats,
    Ints,
)
from placement_engine.domain.hosting_value import HostingValue, Kind
from placement_engine.domain.plugins import (
    ByExecutor,
    ByPower,
    ByTier,
    Form,
    Hosted,
    OfColumn,
    OfModel,
    OfSteps,
    RowFilter,
)
from placement_engine.domain.shapes import Ask

__all__ = ["Compiled", "compiled", "library"]

VERSION = 3
"""Of what the pass does; the library must be of the same."""
MOST_SLOTS, MOST_KINDS = 64, 128

_INT, _DOUBLE, _AT = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


def _structure(name: str, **parts: tuple[Any, str]) -> type[ctypes.Structure]:
    fields = [(field, kind) for kind, names in parts.values() for field in names.split()]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


_Columns = _structure("Columns", a=(_AT, "row device model executors"), b=(_INT, "row_columns device_columns slots"))
_Value = _structure(
    "Value",
    a=(_INT, "kinds"),
    b=(_AT, "table per_cpu per_memory weights"),
    c=(_INT, "rests"),
    d=(_AT, "rest_size rest_of rest_filled whole_filled"),
    e=(_INT, "specials sizes"),
    f=(_AT, "fits size count allowed needs_cpu needs_memory worth"),
    g=(_INT, "spare_kinds"),
    h=(_AT, "spare_cpu spare_memory spare_worth"),
    i=(_DOUBLE, "cpu_per_milli"),
)
_Ask = _structure(
    "Ask",
    a=(_INT, "models executor row_first row_floored device_first device_floored"),
    b=(_AT, "row_floors device_floors"),
    c=(_INT, "blocked tier idle_watts node_watts free cpu memory cpu_total accelerators"),
    d=(_AT, "tiers watts"),
    e=(_INT, "whole needed"),
    f=(_DOUBLE, "kind_cpu kind_memory scale"),
    g=(_INT, "devices milli fraction scores"),
    h=(_AT, "form column values weights"),
)
_LAYOUT = ((VERSION * 1000 + ctypes.sizeof(_Columns)) * 1000 + ctypes.sizeof(_Value)) * 1000 + ctypes.sizeof(_Ask)
_FORMS: dict[type, int] = {OfModel: 0, OfColumn: 1, OfSteps: 2, Hosted: 3}


def _load() -> Any:
    """None: it was not built, is older than its source, or of other structures."""
    path = Path(__file__).with_name(f"_scoring{sysconfig.get_config_var('EXT_SUFFIX')}")
    source = Path(__file__).with_name("scoring.c")
    try:
        if source.exists() and source.stat().st_mtime > path.stat().st_mtime:
            return None
        found = ctypes.PyDLL(str(path))
        found.scoring_layout.restype = _INT
        if found.scoring_layout() != _LAYOUT:
            return None
    except (OSError, AttributeError):
        return None
    found.score_rows.argtypes = [_AT, _AT, _AT, _AT, _INT, _DOUBLE, _AT, _AT, _AT]
    found.score_rows.restype = None
    return found


library = _load()


class _Filled:
    """A structure, and the arrays that it points to."""

    def __init__(self, kind: type[ctypes.Structure], **fields: Any) -> None:
        self._kept = [np.ascontiguousarray(one) if isinstance(one, np.ndarray) else one for one in fields.values()]
        values = [one.ctypes.data if isinstance(one, np.ndarray) else one for one in self._kept]
        self._structure = kind(**dict(zip(fields, values, strict=True)))
        self.at = ctypes.addressof(self._structure)


class Compiled:
    """The pass for one ask, on the arrays of its table: (n), (n, scores) and (n, slots)."""

    def __init__(
        self,
        ask: _Filled,
        value: _Filled,
        score: Floats,
        terms: npt.NDArray[np.float32],
        usable: Bools,
        excluded: float,
    ) -> None:
        self._ask, self._value = ask, value
        self._kept = score, terms, usable
        self._call = library.score_rows
        self._written = excluded, *(one.ctypes.data for one in self._kept)
        self._columns: _Filled | None = None
        self._of: Floats | None = None

    def score(self, columns: Columns, rows: Ints) -> None:
        """Writes what is said of these rows."""
        if self._columns is None or self._of is not columns.packed_row:
            self._of = columns.packed_row
            row, device = columns.packed_row, columns.packed_device
            sizes = {"row_columns": row.shape[1], "device_columns": device.shape[1], "slots": device.shape[2]}
            self._columns = _Filled(
                _Columns, row=row, device=device, model=columns.model, executors=columns.executors, **sizes
            )
        self._call(self._columns.at, self._ask.at, self._value.at, rows.ctypes.data, rows.shape[0], *self._written)


def compiled(
    ask: Ask,
    filters: Sequence[RowFilter],
    floors: tuple[Floats, Floats],
    forms: Sequence[Form | None],
    weights: Sequence[float],
    value: HostingValue | None,
    written: tuple[Floats, npt.NDArray[np.float32], Bools],
    excluded: float,
) -> Compiled | None:
    """`filters`: those without floors; `floors`: as in a sieve. None: it is a matter for arrays."""
    hosted = [form for form in forms if isinstance(form, Hosted)]
    parts = None if value is None else value.arrays()
    if library is None or None in forms or len(hosted) != 1 or parts is None:
        return None
    if (
        written[2].shape[1] > MOST_SLOTS
        or max(parts["kinds"], parts["rests"], parts["specials"], parts["spare_kinds"]) > MOST_KINDS
    ):
        return None
    executor = whole = 0
    tiers, watts = np.ones(TIERS, dtype=np.uint8), np.full(ask.allowed.shape[0], -np.inf)
    for plugin in filters:
        if isinstance(plugin, ByTier):
            tiers &= plugin.tiers().astype(np.uint8)
        elif isinstance(plugin, ByPower):
            watts, whole = ask.watts, ask.shape.whole
        elif isinstance(plugin, ByExecutor):
            executor = ask.executor_bit
        else:
            return None
    kind: Kind = hosted[0].kind
    values = [_values(form) for form in forms]
    if any(isinstance(form, OfModel) and form.values.shape[0] < ask.allowed.shape[0] for form in forms):
        return None
    filled = _Filled(
        _Ask,
        models=ask.allowed.shape[0],
        executor=executor,
        row_first=BOUNDED.start,
        row_floored=floors[0].shape[1],
        device_first=BOUNDED_DEVICE.start,
        device_floored=floors[1].shape[1],
        row_floors=floors[0],
        device_floors=floors[1],
        blocked=BLOCKED,
        tier=TIER,
        idle_watts=IDLE_WATTS,
        node_watts=NODE_WATTS,
        free=FREE,
        cpu=CPU,
        memory=HOST_MEMORY,
        cpu_total=CPU_TOTAL,
        accelerators=ACCELERATORS,
        tiers=tiers,
        watts=watts,
        whole=whole,
        needed=ask.shape.slots,
        kind_cpu=kind.cpu,
        kind_memory=kind.memory,
        scale=hosted[0].scale,
        devices=kind.devices,
        milli=kind.milli,
        fraction=kind.fraction,
        scores=len(forms),
        form=np.array([_FORMS[type(form)] for form in forms], dtype=np.int64),
        column=np.array([getattr(form, "column", 0) for form in forms], dtype=np.int64),
        values=np.array([one.ctypes.data for one in values], dtype=np.int64),
        weights=np.array(weights, dtype=np.float64),
    )
    filled._kept.extend(values)
    return Compiled(filled, _Filled(_Value, **parts), *written, excluded)


def _values(form: Form | None) -> Floats:
    return np.ascontiguousarray(form.values, dtype=np.float64) if isinstance(form, OfModel | OfSteps) else np.zeros(1)
