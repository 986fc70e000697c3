"""`berth profiles bench`: when it stops, what it makes of the repetitions, and what a command says of itself."""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from berth import catalogue
from berth.agent import cpu_accelerator
from berth.benchmarking.machine import Machine, PowerMeter, cpu_machine
from berth.benchmarking.measuring import Timing, percentile, repeat, spread_of
from berth.benchmarking.reports import Report, read_reports, run_command
from berth.benchmarking.results import profile_of_reports, profile_of_timing
from berth.benchmarking.workloads import built_in, of_function
from berth.errors import InvalidInput
from berth.v1 import profiles_pb2 as pb

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class FakeClock:
    """Each call takes the next of the durations, over and over."""

    def __init__(self, *durations: float) -> None:
        self.now = 0.0
        self.durations = durations
        self.calls = 0

    def call(self) -> None:
        self.now += self.durations[self.calls % len(self.durations)]
        self.calls += 1

    def read(self) -> float:
        return self.now


def test_it_stops_when_the_mean_is_sure_enough() -> None:
    steady = FakeClock(1.0)
    timing = repeat(steady.call, warmups=2, tolerance=0.02, limit_seconds=1000, clock=steady.read)
    assert (timing, steady.calls) == (Timing((1.0,) * 5, 0.0, tight=True), 7)
    unsteady = FakeClock(1.0, 2.0)
    timing = repeat(unsteady.call, warmups=0, tolerance=0.02, limit_seconds=1e6, clock=unsteady.read)
    assert timing.tight
    assert timing.half_width <= 0.02 < 1.645 * 0.34 / len(timing.seconds[: len(timing.seconds) // 4]) ** 0.5


def test_it_stops_at_the_time_limit_and_says_so() -> None:
    clock = FakeClock(1.0, 9.0)
    timing = repeat(clock.call, warmups=0, tolerance=0.001, limit_seconds=60, clock=clock.read)
    assert not timing.tight
    assert 60 <= sum(timing.seconds) <= 69
    # However slow: a percentile of fewer than five calls is none.
    slow = FakeClock(100.0, 101.0)
    assert len(repeat(slow.call, warmups=0, tolerance=0.001, limit_seconds=1, clock=slow.read).seconds) == 5


def test_percentiles_are_measured_values() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values[::-1], p) for p in (50, 90, 95, 99, 100)] == [50, 90, 95, 99, 100]
    assert percentile([3.0], 99) == 3.0
    assert spread_of([1.0] * 3) is None
    assert spread_of([1.0] * 20) == pytest.approx(0.0)
    assert (spread_of([1.0] * 10 + [2.0] * 10) or 0) > 0.3


def a_machine(**changes: object) -> Machine:
    return Machine(**{"accelerator": "L4", "devices": 1, "stack": "jax", "memory": lambda: 10**9,  # type: ignore[arg-type]
                      "power": PowerMeter(), **changes})  # fmt: skip


def test_a_timing_becomes_a_measured_profile() -> None:
    workload = built_in("matmul", 10, "bf16", 4, 10**9)
    made = profile_of_timing(workload, Timing((0.1, 0.1, 0.1, 0.3), 0.1, tight=False), a_machine(), 50.0, NOW)
    expected = pb.Profile(
        workload="berth-matmul-bf16", accelerator="L4", devices=1, task="benchmark", precision="bf16",
        software_stack="jax", throughput=4 / 0.6, throughput_unit="steps/s", latency_mean_seconds=0.15,
        latency_p50_seconds=0.1, latency_p90_seconds=0.3, latency_p95_seconds=0.3, latency_p99_seconds=0.3,
        memory_bytes=10**9, power_watts=50.0, energy_joules_per_unit=50 / (4 / 0.6), provenance=pb.PROVENANCE_MEASURED,
        source="berth profiles bench", samples=4, batch_size=4, concurrency=1, settings="size=10",
        operations=2 * 10**3 * 4, bytes_moved=3 * 100 * 2 * 4,
    )  # fmt: skip
    expected.measured_at.FromDatetime(NOW)
    expected.relative_uncertainty = made.relative_uncertainty
    for name in ("throughput", "latency_mean_seconds", "energy_joules_per_unit"):
        assert getattr(made, name) == pytest.approx(getattr(expected, name))
        setattr(expected, name, getattr(made, name))
    assert made == expected


def test_what_the_machine_does_not_tell_is_unknown() -> None:
    made = profile_of_reports("w", "", [Report(10, "tokens", 2.0)], a_machine(memory=lambda: None), None, NOW)
    assert (made.throughput, made.throughput_unit) == (5.0, "tokens/s")
    for name in (
        "memory_bytes",
        "power_watts",
        "energy_joules_per_unit",
        "relative_uncertainty",
        "latency_p99_seconds",
    ):
        assert not made.HasField(name)  # type: ignore[arg-type]


def test_power_is_read_from_the_packages_counters(tmp_path: Path) -> None:
    for zone, joules in (("intel-rapl:0", 1.0), ("intel-rapl:1", 2.0), ("intel-rapl:0:0", 100.0)):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(str(int(joules * 1e6)))
    meter = PowerMeter(powercap=tmp_path)
    meter.start()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text(str(int(31e6)))
    time.sleep(0.01)
    assert (meter.stop() or 0) > 0
    # A counter that began anew says nothing, nor does a machine without one.
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("0")
    assert meter.stop() is None
    assert PowerMeter(powercap=tmp_path / "absent").stop() is None


def test_the_cpu_has_the_name_that_the_agent_gives_it() -> None:
    machine = cpu_machine("jax")
    assert machine.accelerator == cpu_accelerator()
    assert catalogue.by_name(machine.accelerator) is not None
    assert (machine.memory() or 0) > 10**6


@pytest.mark.parametrize(
    ("name", "size", "precision", "field"),
    [("matmul", 10, "bp16", "precision"), ("matmul", 10**6, "fp32", "size"), ("copy", 10**10, "fp32", "size"),
     ("attention", 64, "int8", "precision")],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_before_it_is(name: str, size: int, precision: str, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        built_in(name, size, precision, 1, 10**9)
    assert [one.field for one in refused.value.errors] == [field]


RUN = """
import sys
from berth.benchmarking.workloads import built_in, of_function
for name in ("matmul", "copy", "attention"):
    call = built_in(name, 32, "bf16", 2, 10**9).make()
    call()
    call()
workload = of_function(sys.argv[1] + ":double", "", "fp32", 4)
print(workload.name, workload.unit, workload.units, list(map(float, workload.make()())))
"""


def test_the_built_in_ones_run_and_a_function_is_called_with_its_examples(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import jax.numpy as jnp\ndef example_arguments():\n    return (jnp.ones(4),)\n"
        "def double(x):\n    return 2 * x\n"
    )
    # A process of its own: jax's threads and the forks of other tests do not go together.
    done = subprocess.run([sys.executable, "-c", RUN, str(path)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "mine-double queries/s 4.0 [2.0, 2.0, 2.0, 2.0]\n"), done.stderr


@pytest.mark.parametrize("target", ["{0}/mine.py:absent", "no.such.module:f", "nothing", "{0}/absent.py:f"])
def test_a_function_that_is_not_there_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "mine.py").write_text("")
    with pytest.raises(InvalidInput, match="workload"):
        of_function(target.format(tmp_path), "", "fp32", None)


def test_a_command_tells_its_own_speed(tmp_path: Path) -> None:
    lines = [
        {"units": 10, "unit": "steps", "seconds": 2, "batch_size": 8},
        {"units": 10, "unit": "steps", "seconds": -1},
        {"units": 10, "unit": "tokens", "seconds": 2, "batch_size": 8},
        {"units": 30, "unit": "steps", "seconds": 2.0, "batch_size": 8, "more": 1},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + "{half"
    report = tmp_path / "report"
    code = f"import os; open(os.environ['BERTH_REPORT'], 'w').write({text!r})"
    assert run_command([sys.executable, "-c", code], report, 60) == (0, False)
    reports, left = read_reports(report)
    assert reports == [Report(10, "steps", 2.0, 8), Report(30, "steps", 2.0, 8)]
    assert [one.partition(":")[0] for one in left] == ["report 2", "report 3", "report 5"]
    made = profile_of_reports("w", "fp32", reports, a_machine(), None, NOW)
    assert (made.throughput, made.batch_size, made.samples) == (10.0, 8, 2)


def test_a_command_that_says_nothing_or_does_not_end(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="BERTH_REPORT"):
        read_reports(tmp_path / "absent")
    with pytest.raises(InvalidInput, match="cannot be started"):
        run_command([str(tmp_path / "absent")], tmp_path / "report", 1)
    assert run_command([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "report", 0.3) == (0, True)
    assert run_command([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "report", 60) == (3, False)
