"""A measurement as a profile of the contract."""

from collections.abc import Sequence
from datetime import UTC, datetime

from berth.benchmarking.machine import Machine
from berth.benchmarking.measuring import Timing, percentile, spread_of
from berth.benchmarking.reports import Report
from berth.benchmarking.workloads import Workload
from berth.v1 import profiles_pb2 as pb

__all__ = ["profile_of_reports", "profile_of_timing"]


def profile_of_timing(
    workload: Workload, timing: Timing, machine: Machine, watts: float | None, now: datetime
) -> pb.Profile:
    """Latencies are those of one call at a time."""
    total = sum(timing.seconds)
    made = _profile(workload.name, workload.precision, machine, now, len(timing.seconds))
    made.task = workload.task
    made.settings = workload.settings
    made.throughput = len(timing.seconds) * workload.units / total
    made.throughput_unit = workload.unit
    made.latency_mean_seconds = total / len(timing.seconds)
    for percent in (50, 90, 95, 99):
        setattr(made, f"latency_p{percent}_seconds", percentile(timing.seconds, percent))
    made.concurrency = 1
    if workload.batch_size is not None:
        made.batch_size = workload.batch_size
    if workload.operations is not None:
        made.operations = workload.operations
    if workload.bytes_moved is not None:
        made.bytes_moved = workload.bytes_moved
    _common(made, machine, watts, spread_of(timing.seconds))
    return made


def profile_of_reports(
    name: str, precision: str, reports: Sequence[Report], machine: Machine, watts: float | None, now: datetime
) -> pb.Profile:
    """Throughput is all units over all seconds; its spread that of the reports."""
    made = _profile(name, precision, machine, now, len(reports))
    made.throughput = sum(one.units for one in reports) / sum(one.seconds for one in reports)
    made.throughput_unit = f"{reports[0].unit}/s"
    if reports[0].batch_size is not None:
        made.batch_size = reports[0].batch_size
    _common(made, machine, watts, spread_of([one.seconds / one.units for one in reports]))
    return made


def _profile(name: str, precision: str, machine: Machine, now: datetime, samples: int) -> pb.Profile:
    made = pb.Profile(
        workload=name, accelerator=machine.accelerator, devices=machine.devices, precision=precision,
        software_stack=machine.stack, provenance=pb.PROVENANCE_MEASURED, source="berth profiles bench", samples=samples,
    )  # fmt: skip
    made.measured_at.FromDatetime(now.astimezone(UTC))
    return made


def _common(made: pb.Profile, machine: Machine, watts: float | None, spread: float | None) -> None:
    memory = machine.memory()
    if memory is not None:
        made.memory_bytes = memory
    if watts is not None:
        made.power_watts = watts
        made.energy_joules_per_unit = watts * machine.devices / made.throughput
    if spread is not None:
        made.relative_uncertainty = spread
