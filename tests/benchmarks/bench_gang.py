"""Gangs on a large fleet: milliseconds until one is placed, or is refused with its reasons.

10,000 nodes of 8 devices in racks of 8 and blocks of 128, each block of one model, every third node in
part taken. "first": a shape that was never asked for, so that the whole fleet is scored; "again": the median of
further gangs of the shape, each after the last was released. "refused" counts the cycle that rejects it with
reasons and remedies right after it was submitted, "in vain" the cycle for one that has waited for two minutes, for
which moves of running jobs are looked for too, "explain" what `berth explain` asks. Milliseconds of wall clock, then of
this process's CPU: what a busy machine takes away is not counted there. All inputs are made up and seeded.
Run: python -m tests.benchmarks.bench_gang [--quick]
"""

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import Job, MemberGroup
from tests.benchmarks.bench_core import GIB, NOW, a_fleet

PLACED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("64 x 8", {"replicas": 64, "devices": 8}),
    ("512 x 1", {"replicas": 512, "devices": 1}),
    ("64 x 8, one block", {"replicas": 64, "devices": 8, "topology_level": "block", "topology_required": True}),
    ("512 x 1, one block", {"replicas": 512, "devices": 1, "topology_level": "block", "topology_required": True}),
    ("512 x 1, racks preferred", {"replicas": 512, "devices": 1, "topology_level": "rack"}),
    ("48 to 64 x 8, elastic", {"replicas": 64, "min_replicas": 48, "devices": 8}),
    (
        "64 x 8, groups of 4 a rack",
        {"replicas": 64, "devices": 8, "group_size": 4, "group_level": "rack", "topology_level": "block"},
    ),
    (
        "leader and 64 x 8",
        {"groups": (MemberGroup("leader", cpu_milli=8000), MemberGroup("workers", 64, 64, devices=8))},
    ),
)
REFUSED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("64 x 8, one rack", {"replicas": 64, "devices": 8, "topology_level": "rack", "topology_required": True}),
    ("512 x 1, one rack", {"replicas": 512, "devices": 1, "topology_level": "rack", "topology_required": True}),
    ("12,000 x 8", {"replicas": 12_000, "devices": 8}),
)


Spent = tuple[float, float]
"""Milliseconds of wall clock and of CPU."""


def timed(call: Callable[[], Any]) -> tuple[Spent, Any]:
    before, before_cpu = time.perf_counter(), time.process_time()
    answer = call()
    return (1000 * (time.perf_counter() - before), 1000 * (time.process_time() - before_cpu)), answer


def summary(times: list[Spent]) -> str:
    first, later = times[0], times[1:] or times
    again = [statistics.median(column) for column in zip(*later, strict=True)]
    return f"{first[0]:>9.1f} {first[1]:>7.1f} {again[0]:>9.1f} {again[1]:>7.1f}"


def a_gang(number: int, salt: int, facts: dict[str, Any]) -> Job:
    """`salt` makes the shape a new one: nothing is remembered of it."""
    return Job(job_id=f"gang-{number}", cpu_milli=4000, memory_bytes=(32 * GIB) + salt, **facts)


def place(engine: Engine, salt: int, facts: dict[str, Any], rounds: int) -> list[Spent]:
    times = []
    for number in range(rounds):
        engine.submit(a_gang(number, salt, facts))
        took, result = timed(lambda: engine.cycle(NOW))
        assert len(result.decisions) == 1, result.rejections
        engine.release(f"gang-{number}")
        times.append(took)
    return times


def refuse(
    engine: Engine, salt: int, facts: dict[str, Any], rounds: int, waited: float
) -> tuple[list[Spent], list[Spent]]:
    times, explained = [], []
    for number in range(rounds):
        engine.submit(replace(a_gang(number, salt, facts), submitted_at=NOW + 2 * number - waited))
        took, result = timed(lambda number=number: engine.cycle(NOW + 2 * number))
        assert not result.decisions
        assert result.rejections[0].reasons
        explained.append(timed(lambda number=number: engine.explain(f"gang-{number}", NOW))[0])
        engine.withdraw(f"gang-{number}")
        times.append(took)
    return times, explained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 4 if parser.parse_args().quick else 16
    rng = random.Random(7)
    engine = a_fleet(10_000, rng, alike=128)
    for number in range(10_000 // 3):
        engine.submit(Job(job_id=f"small-{number}", devices=rng.choice((1, 2, 4)), cpu_milli=4000))
        if number % 500 == 499:
            engine.cycle(NOW)
    engine.cycle(NOW)
    # As the planner does when it has read a pool.
    gc.collect()
    gc.freeze()
    print(f"{'gang':<28} {'first ms':>9} {'cpu':>7} {'again ms':>9} {'cpu':>7}")
    for salt, (name, facts) in enumerate(PLACED):
        print(f"{name:<28} {summary(place(engine, salt, facts, rounds))}")
    for salt, (name, facts) in enumerate(REFUSED):
        times, explained = refuse(engine, 100 + salt, facts, rounds, waited=0.0)
        print(f"{name + ': refused':<28} {summary(times)}")
        late, _ = refuse(engine, 200 + salt, facts, rounds, waited=120.0)
        print(f"{name + ': in vain for 2 min':<28} {summary(late)}")
        print(f"{name + ': explain':<28} {summary(explained)}")


if __name__ == "__main__":
    main()
