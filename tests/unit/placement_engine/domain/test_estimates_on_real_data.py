"""Estimates against what was measured: Gavel's training jobs, Splitwise's serving, MLPerf's results.

The bounds are the measured figures with a little room; `pytest -s` prints the figures themselves.
"""

import csv
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from berth import catalogue
from placement_engine.adapters.translate import accelerator_from
from placement_engine.domain.engine import Engine
from placement_engine.domain.estimates import Estimate, Estimator
from placement_engine.domain.model import Objective, Profile, Provenance
from profile_store.domain.importers.gavel import read_gavel
from tests.unit.placement_engine.domain.builders import NOW, a_device, a_job, a_node, an_engine

CATALOGUE = [accelerator_from(entry) for entry in catalogue.load()]
GAVEL_NAMES = {"k80": "K80", "p100": "P100", "v100": "V100-16"}
GAVEL_PRICES = {"K80": 0.45, "P100": 1.46, "V100-16": 2.48}
"""Dollars an hour, this test's: the catalogue has none for two of them."""

Speeds = Mapping[tuple[str, str], Mapping[int, float]]
"""(workload, accelerator) to speed by devices."""


def an_estimator(profiles: Iterable[Profile]) -> Estimator:
    estimator = Estimator()
    estimator.set_catalogue(CATALOGUE)
    estimator.set_profiles(profiles)
    return estimator


def an_engine_with(profiles: Iterable[Profile], *models: str) -> Engine:
    engine = an_engine(*(a_node(model, [a_device(model, 0, model, memory_bytes=None)]) for model in models))
    engine.set_accelerators(CATALOGUE)
    engine.set_profiles(profiles)
    return engine


@pytest.fixture(scope="module")
def gavel(data_folder: Path) -> Speeds:
    found: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    content = (data_folder / "gavel" / "simulation_throughputs.json").read_bytes()
    for profile in read_gavel(content, "test").profiles:
        key = profile.key
        if not key.co_located_with and profile.throughput:
            found[key.workload, GAVEL_NAMES[key.accelerator.casefold()]][key.devices] = profile.throughput
    return found


@pytest.fixture(scope="module")
def splitwise(data_folder: Path) -> Speeds:
    """Tokens a second of llama2-70b, by prompt, batch and tensor parallelism."""
    times: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    names = {"a100-80gb": "A100-80-SXM", "h100-80gb": "H100-SXM"}
    with (data_folder / "splitwise" / "perf_model.csv").open() as rows:
        for row in csv.DictReader(rows):
            if row["hardware"] in names and row["model"] == "llama2-70b":
                tokens = int(row["batch_size"]) * int(row["token_size"])
                workload = "llama2-70b {prompt_size} {batch_size} {token_size}".format(**row)
                key = workload, names[row["hardware"]], int(row["tensor_parallel"])
                times[key].append(1000 * tokens / float(row["e2e_time"]))
    found: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for (workload, model, devices), speeds in sorted(times.items()):
        found[workload, model][devices] = statistics.median(speeds)
    return found


def profiles_of(speeds: Speeds, **facts: Any) -> list[Profile]:
    return [
        Profile(workload, model, count, speed, **facts)
        for (workload, model), by_count in speeds.items()
        for count, speed in by_count.items()
    ]


def left_out(speeds: Speeds, devices: int) -> list[tuple[Estimate, float]]:
    """The estimate at a count from all other counts of the same accelerator, and the measurement."""
    found = []
    for (workload, model), by_count in sorted(speeds.items()):
        others = {n: speed for n, speed in by_count.items() if n != devices}
        if devices in by_count and len(others) > 1:
            estimator = an_estimator(profiles_of({(workload, model): others}))
            found.append((estimator.estimate(workload, model, devices), by_count[devices]))
    return found


def report(title: str, pairs: list[tuple[Estimate, float]]) -> tuple[float, float]:
    """(median error, part of the truths within the stated uncertainty)."""
    errors = [abs((estimate.speed or 0.0) / truth - 1) for estimate, truth in pairs]
    within = [e <= (estimate.relative_uncertainty or 0.0) for e, (estimate, _) in zip(errors, pairs, strict=True)]
    median, inside = statistics.median(errors), sum(within) / len(within)
    print(f"\n{title}: {len(pairs)} pairs, median error {median:.1%}, {inside:.0%} within the stated uncertainty")
    return median, inside


@pytest.mark.parametrize(
    ("devices", "median", "inside"), [(1, 0.075, 0.6), (2, 0.05, 0.7), (4, 0.075, 0.6), (8, 0.125, 0.5)]
)
def test_interpolation_leaves_one_count_out(gavel: Speeds, devices: int, median: float, inside: float) -> None:
    pairs = left_out(gavel, devices)
    assert len(pairs) >= 50
    assert {estimate.provenance for estimate, _ in pairs} == {Provenance.INTERPOLATED}
    error, within = report(f"Gavel, {devices} devices from the other counts", pairs)
    assert error <= median
    assert within >= inside


def test_interpolation_between_tensor_parallel_sizes(splitwise: Speeds) -> None:
    error, within = report("Splitwise, 4 devices from 2 and 8", left_out(splitwise, 4))
    assert error <= 0.13
    assert within >= 0.5


def transferred(speeds: Speeds, devices: int, source: str, target: str) -> list[tuple[Estimate, float]]:
    found = []
    for workload in sorted({workload for workload, _ in speeds}):
        theirs, mine = speeds.get((workload, source), {}), speeds.get((workload, target), {})
        if devices in theirs and devices in mine:
            estimator = an_estimator(profiles_of({(workload, source): {devices: theirs[devices]}}))
            found.append((estimator.estimate(workload, target, devices), mine[devices]))
    return found


def test_transfers_by_roofline(gavel: Speeds, splitwise: Speeds) -> None:
    for title, pairs, median in (
        ("Splitwise, A100 to H100", transferred(splitwise, 8, "A100-80-SXM", "H100-SXM"), 0.15),
        ("Splitwise, H100 to A100", transferred(splitwise, 8, "H100-SXM", "A100-80-SXM"), 0.15),
        ("Gavel, P100 to V100", transferred(gavel, 1, "P100", "V100-16"), 0.35),
        ("Gavel, V100 to P100", transferred(gavel, 1, "V100-16", "P100"), 0.35),
    ):
        assert {estimate.provenance for estimate, _ in pairs} == {Provenance.TRANSFERRED}
        assert report(title, pairs)[0] <= median


def test_time_picks_the_fastest_kind_and_cost_the_cheapest_for_every_training_job(gavel: Speeds) -> None:
    alone = {key: {1: by_count[1]} for key, by_count in gavel.items()}
    profiles = [
        Profile(workload, model, 1, speeds[1], price_per_hour=GAVEL_PRICES[model])
        for (workload, model), speeds in alone.items()
    ]
    engine = an_engine_with(profiles, *GAVEL_PRICES)
    workloads = sorted({workload for workload, _ in alone})
    assert len(workloads) == 26
    for workload in workloads:
        seconds = {model: 1 / alone[workload, model][1] for model in GAVEL_PRICES}
        dollars = {model: seconds[model] * GAVEL_PRICES[model] for model in GAVEL_PRICES}
        for objective, wanted in ((Objective.TIME, seconds), (Objective.COST, dollars)):
            engine.submit(a_job("j", workload=workload, objective=objective))
            (decision,) = engine.cycle(NOW).decisions
            assert decision.expectation.accelerator == min(wanted, key=lambda m: wanted[m]), (workload, objective)
            engine.release("j")


MLPERF_NAMES = {
    "NVIDIA H100-SXM-80GB": "H100-SXM",
    "NVIDIA H200-SXM-141GB": "H200",
    "NVIDIA B200-SXM-180GB": "B200",
    "NVIDIA L40S": "L40S",
}


def test_cost_picks_the_cheapest_by_the_catalogues_prices_for_mlperf(data_folder: Path) -> None:
    rows = json.loads((data_folder / "mlperf" / "inference_v5.1_summary.json").read_text())
    best: dict[tuple[str, str], float] = {}
    for row in rows:
        model = MLPERF_NAMES.get(row["Accelerator"])
        if model and row["Scenario"] == "Offline":
            each = row["Performance_Result"] / (row["a#"] * row["Nodes"])
            key = row["Model"], model
            best[key] = max(each, best.get(key, 0.0))
    prices = {one.name: one.price_per_hour for one in CATALOGUE}
    engine = an_engine_with([Profile(w, m, 1, each) for (w, m), each in best.items()], *MLPERF_NAMES.values())
    compared = 0
    for workload in sorted({workload for workload, _ in best}):
        models = [model for model in MLPERF_NAMES.values() if (workload, model) in best]
        if len(models) < 2:
            continue
        compared += 1
        dollars = {model: (prices[model] or 0.0) / best[workload, model] for model in models}
        for objective, wanted in (
            (Objective.COST, min(models, key=lambda m: dollars[m])),
            (Objective.TIME, max(models, key=lambda m: best[workload, m])),
        ):
            engine.submit(a_job("j", workload=workload, objective=objective, models=tuple(models)))
            (decision,) = engine.cycle(NOW).decisions
            assert decision.expectation.accelerator == wanted, (workload, objective)
            engine.release("j")
    assert compared >= 5
