"""Profiles as heard, by how the workload was run, and the one of each workload, accelerator and count that speaks.

The core knows one profile for these three. Of several configurations it hears the best fitting: sure before unsure,
observed here before measured, interpolated, declared, transferred and roofline, then the fastest. What it does not
say of memory and power is filled from the next best that does, so that a limit that was known is not lost. Latency
follows the batch and the requests in flight: it is filled from a record of the same configuration only (ADR 0032).
"""

from berth.v1 import profiles_pb2 as pb

__all__ = ["Profiles"]

Key = tuple[str, str, int]

SUREST_FIRST = (
    pb.PROVENANCE_OBSERVED,
    pb.PROVENANCE_MEASURED,
    pb.PROVENANCE_INTERPOLATED,
    pb.PROVENANCE_DECLARED,
    pb.PROVENANCE_TRANSFERRED,
    pb.PROVENANCE_ROOFLINE,
)
RANK = {provenance: rank for rank, provenance in enumerate(SUREST_FIRST)}
KNOWN_TO_THE_CORE = ("throughput", "latency_p99_seconds", "memory_bytes", "power_watts", "peak_power_watts")
LATENCY = ("latency_p99_seconds", "latency_p99_high_seconds")
FILLED = (("memory_bytes",), LATENCY, ("power_watts", "peak_power_watts"))
"""What limits are checked by. Those of one bracket are of one record."""
OBSERVED = "observed"
"""The word by which the store tells what was observed from what was measured in the same configuration."""


class Profiles:
    """Takes records in any order; of one configuration the highest version counts."""

    def __init__(self) -> None:
        self._known: dict[Key, dict[str, pb.Profile]] = {}

    def hear(self, profile: pb.Profile) -> pb.Profile | None:
        """The profile that speaks from now on for the record's workload, accelerator and count; None: no news."""
        if profile.co_located_with or not any(profile.HasField(name) for name in KNOWN_TO_THE_CORE):  # type: ignore[arg-type]
            return None
        by_configuration = self._known.setdefault((profile.workload, profile.accelerator, profile.devices), {})
        configuration = _configuration(profile)
        known = by_configuration.get(configuration)
        if known is not None and known.version >= profile.version:
            return None
        by_configuration[configuration] = profile
        return _fitting(by_configuration)

    def fitting(self) -> list[pb.Profile]:
        return [_fitting(by_configuration) for by_configuration in self._known.values()]


def _configuration(profile: pb.Profile) -> str:
    """Records from before configurations had a precision only; the store names them so since."""
    return profile.configuration or (f"precision={profile.precision}" if profile.precision else "")


def _alike(one: pb.Profile, other: pb.Profile) -> bool:
    """Whether both were run in the same way, whoever measured it."""
    ways = ([word for word in _configuration(each).split() if word != OBSERVED] for each in (one, other))
    return next(ways) == next(ways)


def _fitting(by_configuration: dict[str, pb.Profile]) -> pb.Profile:
    def order(item: tuple[str, pb.Profile]) -> tuple[bool, bool, int, float, str]:
        configuration, profile = item
        rank = RANK.get(profile.provenance, len(RANK))
        return not profile.throughput, profile.low_confidence, rank, -profile.throughput, configuration

    ranked = [profile for _, profile in sorted(by_configuration.items(), key=order)]
    found = pb.Profile()
    found.CopyFrom(ranked[0])
    for names in FILLED:
        asked = [one for one in ranked if _alike(one, ranked[0])] if names is LATENCY else ranked
        one = next((one for one in asked if any(one.HasField(name) for name in names)), found)  # type: ignore[arg-type]
        for name in names:
            if one.HasField(name):  # type: ignore[arg-type]
                setattr(found, name, getattr(one, name))
            else:
                found.ClearField(name)  # type: ignore[arg-type]
    return found
