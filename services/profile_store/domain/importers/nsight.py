"""NVIDIA's profilers: Nsight Compute (`ncu --csv`) and Nsight Systems (`nsys stats -r cuda_gpu_kern_sum -f csv`).

Both tell what one run did on the device, not how fast the workload is: busy seconds, and from Nsight Compute bytes
to and from memory and floating point operations where these metrics were collected. A roofline needs just these.
Workload and accelerator are hints. Nsight Compute scales its units and writes numbers as the locale has them.
"""

import re
from collections import defaultdict

from berth.errors import InvalidInput
from profile_store.domain.importers.document import NO_HINTS, Hints, Imported, LeftOut, needed, table_of
from profile_store.domain.importers.numbers import Numbers
from profile_store.domain.profile import Profile, ProfileKey, Provenance

__all__ = ["read_nsight_compute", "read_nsight_systems"]

NCU = ("Kernel Name", "Metric Name", "Metric Unit", "Metric Value")
SCALES = {"": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
UNIT = re.compile(r"(n|u|m|k|K|M|G|T)?(second|s|byte|inst)")
TIME = ("gpu__time_duration.sum", "Duration")
BYTES = ("dram__bytes.sum", "dram__bytes_read.sum", "dram__bytes_write.sum")
# Operations of one thread's instruction; a fused multiply-add is two.
OPERATIONS = re.compile(r"smsp?__sass_thread_inst_executed_op_([dfh])(add|mul|fma)_pred_on\.sum")
NSYS = ("Total Time", "Instances", "Name")
NSYS_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0}


def read_nsight_compute(content: bytes, source: str, hints: Hints = NO_HINTS) -> Imported:
    table = table_of(content, NCU)
    numbers = Numbers((row["Metric Value"] for _, row in table.rows), hints.decimal)
    totals: dict[str, float] = defaultdict(float)
    left, kernels = LeftOut(), set()
    for line, row in table.rows:
        name, path = row["Metric Name"], f"line {line}.Metric Value"
        kernels.add((row.get("ID", ""), row["Kernel Name"]))
        if name not in TIME + BYTES and not OPERATIONS.fullmatch(name):
            left.add(f"metric {name}: tells neither time, bytes nor floating point operations")
            continue
        totals[name] += _scaled(f"line {line}.Metric Unit", row["Metric Unit"], numbers.read(path, row["Metric Value"]))
    moved = totals.get(BYTES[0]) or sum(totals.get(name, 0.0) for name in BYTES[1:])
    work = sum(
        total * (2 if match[2] == "fma" else 1)
        for name, total in totals.items()
        if (match := OPERATIONS.fullmatch(name))
    )
    seconds = totals.get(TIME[0]) or totals.get(TIME[1])
    if not seconds and not moved and not work:
        raise InvalidInput.of("content", f"{len(table.rows)} rows", f"none is of {TIME[0]}, {BYTES[0]} or operations")
    # Tensor cores do most of the work and have no such counter: their operations would be missing.
    remark = f"{len(kernels)} kernels" + ("; operations without those of tensor cores" if work else "")
    profile = _profile(source, hints, "Nsight Compute", seconds, work or None, moved or None, 1)
    return Imported((profile,), left.sentences("rows"), (remark,))


def _scaled(path: str, unit: str, value: float) -> float:
    match = UNIT.fullmatch(unit)
    if not match:
        raise InvalidInput.of(path, unit, "a unit such as nsecond, us, Mbyte or inst")
    return value * SCALES[match[1] or ""]


def read_nsight_systems(content: bytes, source: str, hints: Hints = NO_HINTS) -> Imported:
    table = table_of(content, NSYS, exact=False)
    column = next((name for name in table.columns if name.startswith("Total Time")), None)
    if column is None or not {"Instances", "Name"} <= set(table.columns):
        remedy = "columns Total Time (ns), Instances and Name: export it with `nsys stats -r cuda_gpu_kern_sum -f csv`"
        raise InvalidInput.of("content", ", ".join(table.columns)[:80], remedy)
    unit = column.removeprefix("Total Time").strip(" ()")
    if unit not in NSYS_UNITS:
        raise InvalidInput.of("Total Time", column, f"a unit of {', '.join(NSYS_UNITS)} in the column's name")
    numbers = Numbers((row[name] for _, row in table.rows for name in (column, "Instances")), hints.decimal)
    seconds = {
        row["Name"]: numbers.read(f"line {line}.{column}", row[column]) * NSYS_UNITS[unit] for line, row in table.rows
    }
    launches = sum(numbers.read(f"line {line}.Instances", row["Instances"]) for line, row in table.rows)
    total = sum(seconds.values())
    top = max(seconds, key=lambda name: seconds[name])
    remark = f"{launches:g} launches of {len(seconds)} kernels; most time in {top[:60]}"
    return Imported((_profile(source, hints, "Nsight Systems", total, None, None, 1),), (), (remark,))


def _profile(
    source: str, hints: Hints, tool: str, seconds: float | None, work: float | None, moved: float | None, runs: int
) -> Profile:
    return Profile(
        key=ProfileKey(
            needed(hints.workload, "workload", f"{tool} does not name the workload"),
            needed(hints.accelerator, "accelerator", f"{tool} does not name the model of the device"),
            hints.devices or 1,
        ),
        provenance=Provenance.MEASURED,
        source=source,
        precision=hints.precision,
        batch_size=hints.batch_size or None,
        settings=f"profiler={tool}",
        busy_seconds=seconds,
        operations=work,
        bytes_moved=moved,
        samples=runs,
    )
