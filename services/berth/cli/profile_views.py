"""Profiles as tables for a person: one workload's figures, its accelerators side by side, and predictions."""

from collections.abc import Callable, Mapping, Sequence
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


DOLLARS = "dollars_per_million_units"


def quantity(value: float | None) -> str:
    """Three digits: 31000 -> "31.0k", 0.0042 -> "0.0042"."""
    if value is None:
        return units.UNKNOWN
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            scaled = value / (1e3 if suffix == "k" else size)
            return f"{scaled:.3g}{suffix}" if scaled < 999.5 else f"{scaled:.0f}{suffix}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _dollars(value: float) -> str:
    return f"${quantity(value)}"


FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "latency_mean_seconds": ("latency, mean", units.duration),
    "latency_p50_seconds": ("latency, p50", units.duration),
    "latency_p90_seconds": ("latency, p90", units.duration),
    "latency_p95_seconds": ("latency, p95", units.duration),
    "latency_p99_seconds": ("latency, p99", units.duration),
    "first_token_p50_seconds": ("first token, p50", units.duration),
    "first_token_p99_seconds": ("first token, p99", units.duration),
    "token_p50_seconds": ("next token, p50", units.duration),
    "token_p99_seconds": ("next token, p99", units.duration),
    "memory_bytes": ("memory a device", units.bytes_of),
    "power_watts": ("power a device", units.watts),
    "peak_power_watts": ("peak power a device", units.watts),
    "energy_joules_per_unit": ("J a unit", quantity),
    DOLLARS: ("a million units", _dollars),
}
"""Of a prediction: what it is called, and how it is written."""


COLUMNS = (
    ("P50", "latency_p50_seconds"),
    ("P99", "latency_p99_seconds"),
    ("MEMORY", "memory_bytes"),
    ("POWER", "power_watts"),
    ("J/UNIT", "energy_joules_per_unit"),
    ("$/MILLION", DOLLARS),
)
"""Of many predictions side by side."""


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
    """Fastest first, with the interval that holds the truth nine times of ten. Figures that none has get no column."""
    present = {figure.name for one in predictions for figure in one.figures}
    columns = [(title, name) for title, name in COLUMNS if name in present]
    rows = []
    for one in predictions:
        known = {figure.name: FIGURES[figure.name][1](figure.value) for figure in one.figures if figure.name in FIGURES}
        rows.append(
            [
                one.profile.accelerator,
                str(one.profile.devices),
                _run(one.profile),
                _rate(one.profile),
                _within(_of(one, "throughput_low"), _of(one, "throughput_high"), quantity),
                *(known.get(name, units.UNKNOWN) for _, name in columns),
                _how(one.profile),
                _from(one.basis),
            ]
        )
    titles = ["ACCELERATOR", "DEVICES", "RUN AS", "THROUGHPUT", "90 % WITHIN", *(title for title, _ in columns)]
    right = [False, True, False, True, True, *(True for _ in columns)]
    shown = render_table([*titles, "HOW", "FROM"], rows, right=right)
    if len(predictions) == 1 and predictions[0].figures:
        shown += ["", *_figures(predictions[0])]
    return shown


def _figures(prediction: pb.Prediction) -> list[str]:
    """Each with its own interval and way."""
    rows = []
    for figure in prediction.figures:
        title, written = FIGURES.get(figure.name, (figure.name, quantity))
        rows.append(
            [
                title,
                written(figure.value),
                _within(_of(figure, "low"), _of(figure, "high"), written),
                HOW.get(figure.provenance, units.UNKNOWN),
                _from(figure.basis),
            ]
        )
    return render_table(["FIGURE", "VALUE", "90 % WITHIN", "HOW", "FROM"], rows, right=[False, True, True])


def _within(low: float | None, high: float | None, written: Callable[[float], str]) -> str:
    return units.UNKNOWN if low is None or high is None else f"{written(low)} to {written(high)}"


def _from(basis: str) -> str:
    """The basis without the word that stands under HOW."""
    word, _, rest = basis.partition(": ")
    if word in HOW.values() and rest:
        return rest
    text = basis.removeprefix("transferred from ")
    return "" if text in HOW.values() else text


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
