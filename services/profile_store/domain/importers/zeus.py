"""Zeus' power sweeps (ml-energy/zeus, trace/summary_power_*.csv): s and W of one training epoch on one device, by
batch size and power limit. The file does not name its device: the hint `accelerator` must."""

from profile_store.domain.importers.document import NO_HINTS, Hints, Imported, joined, needed, table_of
from profile_store.domain.importers.numbers import Numbers
from profile_store.domain.profile import Profile, ProfileKey, Provenance

__all__ = ["COLUMNS", "read_zeus"]

COLUMNS = ("dataset", "network", "batch_size", "optimizer", "power_limit", "time_per_epoch", "average_power")
FIGURES = ("batch_size", "power_limit", "time_per_epoch", "average_power")


def read_zeus(content: bytes, source: str, hints: Hints = NO_HINTS) -> Imported:
    accelerator = needed(hints.accelerator, "accelerator", "a power sweep does not say on which device it ran")
    table = table_of(content, COLUMNS)
    numbers = Numbers((row[name] for _, row in table.rows for name in FIGURES), hints.decimal)
    found = []
    for line, row in table.rows:
        value = {name: numbers.read(f"line {line}.{name}", row[name]) for name in FIGURES}
        seconds, watts = value["time_per_epoch"], value["average_power"]
        found.append(
            Profile(
                key=ProfileKey(hints.workload or f"{row['dataset']}-{row['network']}", accelerator, 1),
                provenance=Provenance.MEASURED,
                source=source,
                task="training",
                model=row["network"],
                precision=hints.precision,
                throughput=1 / seconds if seconds > 0 else seconds,
                throughput_unit="epochs/s",
                power_watts=watts,
                energy_joules_per_unit=seconds * watts,
                batch_size=int(value["batch_size"]),
                power_limit_watts=value["power_limit"],
                settings=f"optimizer={row['optimizer']}",
            )
        )
    profiles = joined(found)
    return Imported(profiles, (), (f"{len(found)} runs are {len(profiles)} configurations",))
