"""Decisions a second of the placement core, and the time of a whole-fleet explain.

A steady mix: the fleet is filled to some 60 %, then each round finishes as many jobs as arrive, drawn
from a few dozen shapes over four models. Everything is seeded; only the clock readings differ.
Run: python tests/benchmarks/bench_core.py [--quick]

Each row says how rows were scored: in C (compiled.py), or by arrays alone, as where there is no C compiler. The digest
is of the decisions: it is the same for both.
"""

import argparse
import contextlib
import hashlib
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from placement_engine.domain import compiled
from placement_engine.domain.engine import Engine
from placement_engine.domain.journal import Recorder
from placement_engine.domain.model import (
    Accelerator,
    Decision,
    Device,
    DeviceSample,
    Job,
    Node,
    NodeSample,
    Objective,
    Profile,
)

GIB = 2**30
MODELS = (
    # name, GiB, W, share of nodes (figures: vendors' pages, dense peaks in TFLOPS, bytes a second)
    ("NVIDIA H100 SXM", 80, 700.0, 989.0, 3.35e12, 2.95, 0.4),
    ("NVIDIA A100 80 SXM", 80, 400.0, 312.0, 2.039e12, 1.84, 0.3),
    ("NVIDIA L40S", 48, 350.0, 362.0, 0.864e12, 1.55, 0.2),
    ("AMD MI300X", 192, 750.0, 1307.0, 5.3e12, None, 0.1),
)
BATCH = 64
NOW = 1_000_000.0


@dataclass(frozen=True, slots=True)
class Result:
    nodes: int
    devices: int
    shapes: int
    decisions_per_second: float
    decisions_per_cpu_second: float
    """Of this process's CPU time: what a busy machine takes away is not counted."""
    sample_nodes_per_second: float
    explain_milliseconds: float
    digest: str
    """Of the decisions, the clock readings left out."""

    @property
    def microseconds(self) -> float:
        """CPU time of a decision."""
        return 1e6 / self.decisions_per_cpu_second


@contextlib.contextmanager
def by_arrays() -> Iterator[None]:
    """As where the scoring pass could not be compiled."""
    kept, compiled.library = compiled.library, None
    try:
        yield
    finally:
        compiled.library = kept


def a_fleet(nodes: int, rng: random.Random, alike: int = 1, *, recorded: bool = False) -> Engine:
    """Racks of 8 nodes, blocks of 128, zones of 2,560. `alike` nodes in a row have one model."""
    engine = Recorder(limit=2_000_000) if recorded else Engine()
    engine.set_accelerators(
        Accelerator(name, "GPU", "ROCm" if "AMD" in name else "CUDA", gib * GIB, bandwidth, peak, watts, price)
        for name, gib, watts, peak, bandwidth, price, _ in MODELS
    )
    engine.set_profiles(
        Profile(f"workload-{w}", name, 1, peak * (0.5 + rng.random()), 0.05, None, watts * 0.7, watts * 0.9)
        for w in range(4)
        for name, _, watts, peak, _, _, _ in MODELS
    )
    for number in range(nodes):
        if number % alike == 0:
            name, gib, watts, *_ = rng.choices(MODELS, [m[-1] for m in MODELS])[0]
        node = f"node-{number:05d}"
        stack = "ROCm" if "AMD" in name else "CUDA"
        engine.apply_node(
            Node(
                name=node,
                devices=tuple(Device(f"{node}/{i}", i, name, "GPU", stack, gib * GIB, watts) for i in range(8)),
                cpu_milli=128_000,
                memory_bytes=1024 * GIB,
                topology={
                    "rack": f"rack-{number // 8:04d}",
                    "block": f"block-{number // 128:03d}",
                    "zone": f"zone-{number // 2560}",
                },
                power_cap_watts=8 * watts + 2500,
            )
        )
        engine.apply_sample(a_sample(node, NOW, rng))
    return engine


def a_sample(node: str, at: float, rng: random.Random) -> NodeSample:
    return NodeSample(
        node=node,
        received_at=at,
        devices=tuple(
            DeviceSample(
                f"{node}/{i}",
                memory_used_bytes=int(rng.random() * GIB),
                margin_celsius=20 + 20 * rng.random(),
                power_watts=60 + 10 * rng.random(),
                throttle_bits=0,
            )
            for i in range(8)
        ),
    )


def shapes(count: int, rng: random.Random) -> list[Job]:
    """Single-member jobs: fractions, one to eight devices, a few CPU only, some that name a model."""
    made = []
    for number in range(count):
        kind = rng.random()
        devices = rng.choice((1, 1, 1, 2, 4, 8)) if kind < 0.55 else 0
        milli = rng.choice((100, 250, 500)) if 0.55 <= kind < 0.95 else 0
        made.append(
            Job(
                job_id="",
                queue=f"queue-{number % 4}",
                devices=devices,
                device_milli=milli,
                device_memory_bytes=rng.choice((0, 8, 16)) * GIB if milli or devices else 0,
                cpu_milli=1000 * rng.choice((1, 2, 4)) * max(1, devices),
                memory_bytes=4 * GIB * max(1, devices),
                models=(rng.choice(MODELS)[0],) if rng.random() < 0.2 else (),
                workload=f"workload-{number % 4}" if rng.random() < 0.7 else "",
                objective=rng.choice((Objective.COST, Objective.TIME, Objective.ENERGY)),
            )
        )
    return made


def measure(nodes: int, decisions: int, shape_count: int = 32, *, recorded: bool = False) -> Result:
    rng = random.Random(7)
    engine = a_fleet(nodes, rng, recorded=recorded)
    mix = shapes(shape_count, rng)
    running: list[str] = []
    serial = 0

    def submit(count: int) -> None:
        nonlocal serial
        for _ in range(count):
            serial += 1
            engine.submit(replace(rng.choice(mix), job_id=f"job-{serial:08d}", submitted_at=float(serial)))

    filled = 0
    while filled < nodes * 8 * 600:
        submit(BATCH)
        placed = engine.cycle(NOW).decisions
        if not placed:
            break
        for decision in placed:
            running.append(decision.job_id)
            filled += sum(claim.milli for member in decision.members for claim in member.devices)
    spent, spent_cpu, made, digest = 0.0, 0.0, 0, hashlib.sha256()
    while made < decisions:
        for _ in range(min(BATCH, len(running))):
            at = rng.randrange(len(running))
            running[at], running[-1] = running[-1], running[at]
            engine.release(running.pop())
        submit(BATCH)
        before, before_cpu = time.perf_counter(), time.process_time()
        result = engine.cycle(NOW)
        spent += time.perf_counter() - before
        spent_cpu += time.process_time() - before_cpu
        made += len(result.decisions)
        digest.update(repr(result.decisions).encode())
        running.extend(decision.job_id for decision in result.decisions)
    samples = [a_sample(f"node-{rng.randrange(nodes):05d}", NOW + 1, rng) for _ in range(2000)]
    before = time.perf_counter()
    for sample in samples:
        engine.apply_sample(sample)
    sampled = time.perf_counter() - before
    too_large = Job(job_id="too-large", devices=8, replicas=4 * nodes, models=(MODELS[0][0],))
    engine.submit(too_large)
    times = []
    for _ in range(5):
        before = time.perf_counter()
        engine.explain("too-large", NOW + 1)
        times.append(time.perf_counter() - before)
    assert not isinstance(engine.dry_run(too_large, NOW + 1), Decision)
    return Result(
        nodes=nodes,
        devices=8 * nodes,
        shapes=shape_count,
        decisions_per_second=made / spent,
        decisions_per_cpu_second=made / spent_cpu,
        sample_nodes_per_second=len(samples) / sampled,
        explain_milliseconds=1000 * statistics.median(times),
        digest=digest.hexdigest()[:12],
    )


@dataclass(frozen=True, slots=True)
class Outlook:
    """Explain in full on a fleet where nothing is free: reasons, changes, and the start by the simulated queue."""

    nodes: int
    running: int
    waiting: int
    gang_milliseconds: float
    single_milliseconds: float


def measure_outlook(nodes: int) -> Outlook:
    """A gang of 64 x 8 devices and a job of one member, behind some forty waiting jobs of other shapes. CPU time."""
    rng = random.Random(11)
    engine = a_fleet(nodes, rng)
    serial = 0
    for _ in range(nodes):
        for _ in range(8):
            serial += 1
            engine.submit(
                Job(
                    f"run-{serial:06d}",
                    devices=rng.choice((1, 2, 4, 8)),
                    expected_duration_seconds=rng.uniform(600, 86400),
                )
            )
        if not engine.cycle(NOW).decisions:
            break
    running = sum(usage.running_jobs for usage in engine.queue_usage())
    for number, job in enumerate(shapes(48, rng)):
        wanted = replace(job, devices=job.devices or 1, device_milli=0, queue="default", models=())
        engine.submit(replace(wanted, job_id=f"ahead-{number}", priority=1, expected_duration_seconds=7200.0))
    engine.submit(Job("gang", devices=8, replicas=64, models=(MODELS[0][0],), expected_duration_seconds=3600.0))
    engine.submit(Job("single", devices=8, models=(MODELS[2][0],), submitted_at=1.0))
    engine.cycle(NOW + 1)
    spent = {}
    for job_id in ("gang", "single"):
        times = []
        for _ in range(3):
            before = time.process_time()
            told = engine.explain(job_id, NOW + 2)
            times.append(time.process_time() - before)
        assert told is not None
        assert told.reasons, told
        assert told.expected_start is not None
        spent[job_id] = 1000 * statistics.median(times)
    return Outlook(nodes, running, engine.waiting(), spent["gang"], spent["single"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer decisions: a few seconds")
    parser.add_argument("--recorded", action="store_true", help="with the journal: what recording costs")
    parser.add_argument("--outlook", action="store_true", help="the full explain alone")
    given = parser.parse_args()
    quick = given.quick
    if given.outlook:
        print_outlook()
        return
    print("  nodes  devices  shapes  scored  decisions/s  per CPU s  CPU us  samples/s  explain ms        digest")
    ways = ["C", "arrays"] if compiled.library is not None else ["arrays"]
    for nodes in (1_000, 10_000):
        for way in ways:
            with by_arrays() if way == "arrays" else contextlib.nullcontext():
                r = measure(nodes, 1_000 if quick else 10_000, recorded=given.recorded)
            print(
                f"{r.nodes:>7,} {r.devices:>8,} {r.shapes:>7} {way:>7} {r.decisions_per_second:>12,.0f} "
                f"{r.decisions_per_cpu_second:>10,.0f} {r.microseconds:>7.0f} "
                f"{8 * r.sample_nodes_per_second:>10,.0f} {r.explain_milliseconds:>11.1f}  {r.digest}"
            )
    print_outlook()


def print_outlook() -> None:
    print("\n  nodes  running  waiting  explain gang ms  explain job ms")
    for nodes in (1_000, 10_000):
        o = measure_outlook(nodes)
        print(
            f"{o.nodes:>7,} {o.running:>8,} {o.waiting:>8,} {o.gang_milliseconds:>16.1f} {o.single_milliseconds:>15.1f}"
        )


if __name__ == "__main__":
    main()
