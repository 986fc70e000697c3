"""Intel VTune (`vtune -report hotspots -format csv`): CPU time by function. Columns vary with the version and the
report; what is needed is a function and its CPU time, in seconds. Delimiter and decimals as the locale has them."""

from berth.errors import InvalidInput
from profile_store.domain.importers.document import NO_HINTS, Hints, Imported, needed, table_of
from profile_store.domain.importers.numbers import Numbers
from profile_store.domain.profile import Profile, ProfileKey, Provenance

__all__ = ["read_vtune"]

TIMES = ("CPU Time", "CPU Time:Self", "CPU Time (s)", "CPU Time:Total")
FUNCTIONS = ("Function", "Function Stack", "Source Function", "Function / Call Stack")


def read_vtune(content: bytes, source: str, hints: Hints = NO_HINTS) -> Imported:
    table = table_of(content, ("Function", "CPU Time"), exact=False)
    time = next((name for name in TIMES if name in table.columns), None)
    function = next((name for name in FUNCTIONS if name in table.columns), None)
    if time is None or function is None:
        raise InvalidInput.of("content", ", ".join(table.columns)[:80], f"columns {FUNCTIONS[0]} and {TIMES[0]}")
    numbers = Numbers((row[time] for _, row in table.rows), hints.decimal)
    seconds = [(numbers.read(f"line {line}.{time}", row[time]), row[function]) for line, row in table.rows]
    total, top = sum(value for value, _ in seconds), max(seconds)[1]
    profile = Profile(
        key=ProfileKey(
            needed(hints.workload, "workload", "a VTune report does not name the workload"),
            hints.accelerator or "CPU",
            hints.devices or 1,
        ),
        provenance=Provenance.MEASURED,
        source=source,
        precision=hints.precision,
        batch_size=hints.batch_size or None,
        settings="profiler=VTune",
        busy_seconds=total,
        samples=1,
    )
    return Imported((profile,), (), (f"{len(seconds)} functions; most time in {top[:60]}",))
