"""Profiles as tables for a person: one workload's figures, its accelerators side by side, and predictions."""

from collections.abc import Mapping, Sequence
from typing import Any

from berth.cli import units
from berth.cli.output import render_table
from berth.v1 import profiles_pb2 as pb

__all__ = ["comparison", "details", "forecast", "learnt", "quantity"]

HOW = {
    pb.PROVENANCE_OBSERVED: "observed",
    pb.PROVENANCE_MEASURED: "measured",
    pb.PROVENANCE_INTERPOLATED: "interpolated",
    pb.PROVENANCE_TRANSFERRED: "transferred",
    pb.PROVENANCE_ROOFLINE: "roofline",
    pb.PROVENANCE_DECLARED: "declared",
}


def quantity(value: float | None) -> str:
    """Three digits: 31000 -> "31.0k", 0.0042 -> "0.0042"."""
    if value is None:
        return units.UNKNOWN
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            scaled = value / (1e3 if suffix == "k" else size)
            return f"{scaled:.3g}{suffix}" if scaled < 999.5 else f"{scaled:.0f}{suffix}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def details(profiles: Sequence[pb.Profile]) -> list[str]:
    """All that is known of one workload: systems first, what one stream sees apart, then where it comes from."""
    first = profiles[0]
    facts = [first.workload, *(fact for fact in (first.task, first.model) if fact and fact != first.workload)]
    lines = [" · ".join(facts), ""]
    systems = [one for one in profiles if not one.HasField("stream_throughput") or one.HasField("throughput")]
    streams = [one for one in profiles if one.HasField("stream_throughput")]
    if systems:
        titles = [
            "ACCELERATOR", "DEVICES", "RUN AS", "THROUGHPUT", "SPREAD", "P50", "P99", "POWER", "J/UNIT", "SAMPLES",
            "HOW",
        ]  # fmt: skip
        rows = [
            [
                one.accelerator,
                str(one.devices),
                _run(one),
                _rate(one),
                units.percent(_of(one, "relative_uncertainty")),
                units.duration(_of(one, "latency_p50_seconds")),
                units.duration(_of(one, "latency_p99_seconds")),
                units.watts(_of(one, "power_watts")),
                quantity(_of(one, "energy_joules_per_unit")),
                str(one.samples) if one.samples else units.UNKNOWN,
                _how(one),
            ]
            for one in systems
        ]
        lines += render_table(titles, rows, right=[False, True, False, *[True] * 7, False])
    if streams:
        lines += ["", "What one stream sees, as published: not the throughput of a system", ""]
        stream_rows = [
            [one.accelerator, str(one.devices), f"{quantity(one.stream_throughput)} tokens/s", _how(one), one.source]
            for one in streams
        ]
        titles = ["ACCELERATOR", "DEVICES", "ONE STREAM", "HOW", "SOURCE"]
        lines += render_table(titles, stream_rows, right=[False, True, True, False, False])
    return [*lines, "", *(f"source: {source}" for source in sorted({one.source for one in systems}))]


def learnt(taught: Sequence[pb.Learnt]) -> list[str]:
    """What running jobs taught, and what was set aside; nothing where none ran."""
    if not taught:
        return []
    rows = [
        [
            one.accelerator,
            str(one.devices),
            one.configuration or units.UNKNOWN,
            f"{quantity(one.throughput)} {one.throughput_unit}" if one.HasField("throughput") else units.UNKNOWN,
            units.percent(_of(one, "relative_uncertainty")),
            str(one.attempts),
            str(one.spans),
            str(one.spans_unwatched),
            ", ".join(f"{each.spans} {each.reason}" for each in one.set_aside) or "none",
        ]
        for one in taught
    ]
    titles = ["ACCELERATOR", "DEVICES", "RUN AS", "ESTIMATE", "SPREAD", "RUNS", "LEARNT", "HEAT UNKNOWN", "SET ASIDE"]
    table = render_table(titles, rows, right=[False, True, False, *[True] * 5, False])
    return ["", "Learnt from running jobs, in spans of work", "", *table]


def comparison(profiles: Sequence[pb.Profile], prices: Mapping[str, float]) -> list[str]:
    """Accelerators side by side, fastest first. `prices`: $ an hour for one device, where a profile has none."""
    best = next((one.throughput for one in profiles if one.HasField("throughput")), 0.0)
    rows = []
    for one in profiles:
        speed = _of(one, "throughput")
        price = _of(one, "price_per_hour") or prices.get(one.accelerator)
        dollars = price * one.devices / (speed * 3600) * 1e6 if price and speed else None
        rows.append(
            [
                one.accelerator,
                str(one.devices),
                _run(one),
                _rate(one),
                units.percent(speed / best) if speed and best else units.UNKNOWN,
                quantity(speed / one.devices if speed else None),
                units.duration(_of(one, "latency_p99_seconds")),
                units.UNKNOWN if dollars is None else f"${quantity(dollars)}",
                quantity(_of(one, "energy_joules_per_unit")),
                _how(one),
            ]
        )
    titles = [
        "ACCELERATOR", "DEVICES", "RUN AS", "THROUGHPUT", "OF BEST", "A DEVICE", "P99", "$/MILLION", "J/UNIT", "HOW",
    ]  # fmt: skip
    return render_table(titles, rows, right=[False, True, False, *[True] * 6, False])


def forecast(predictions: Sequence[pb.Prediction]) -> list[str]:
    """Fastest first, with the interval that holds the truth nine times of ten."""
    rows = []
    for one in predictions:
        low, high = (_of(one, f"throughput_{end}") for end in ("low", "high"))
        interval = units.UNKNOWN if low is None or high is None else f"{quantity(low)} to {quantity(high)}"
        rows.append(
            [
                one.profile.accelerator,
                str(one.profile.devices),
                _run(one.profile),
                _rate(one.profile),
                interval,
                _how(one.profile),
                _from(one),
            ]
        )
    titles = ["ACCELERATOR", "DEVICES", "RUN AS", "THROUGHPUT", "90 % WITHIN", "HOW", "FROM"]
    return render_table(titles, rows, right=[False, True, False, True, True, False, False])


def _from(prediction: pb.Prediction) -> str:
    """The basis without what the column before it says."""
    how = HOW.get(prediction.profile.provenance, units.UNKNOWN)
    return prediction.basis.removeprefix(how).removeprefix(" from").removeprefix(":").strip()


def _run(profile: pb.Profile) -> str:
    return profile.configuration or units.UNKNOWN


def _rate(profile: pb.Profile) -> str:
    if not profile.HasField("throughput"):
        return units.UNKNOWN
    return f"{quantity(profile.throughput)} {profile.throughput_unit}"


def _how(profile: pb.Profile) -> str:
    return HOW.get(profile.provenance, units.UNKNOWN) + (", low confidence" if profile.low_confidence else "")


def _of(message: Any, field: str) -> float | None:
    return float(getattr(message, field)) if message.HasField(field) else None
