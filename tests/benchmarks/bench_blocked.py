"""Cycles in which little or nothing can be placed: they must cost what changed, not what waits or what there is.

10,000 nodes, every device taken, 1,000 jobs of 40 shapes wait. Medians of this process's CPU time: "nothing waits"
and nothing changed; "again" with all of them waiting, nothing changed and their reasons known; "reasons" where
those are too old and are found anew for every shape; "one ends" where a job ends and one of those that wait is placed.
Run: python -m tests.benchmarks.bench_blocked [--quick]
"""

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import Job
from tests.benchmarks.bench_core import NOW, a_fleet, shapes

WAITING, SHAPES = 1_000, 40


def median_microseconds(step: Callable[[], object], times: int) -> float:
    spent = []
    for _ in range(times):
        before = time.process_time()
        step()
        spent.append(time.process_time() - before)
    return 1e6 * statistics.median(spent)


def fill(engine: Engine, nodes: int) -> None:
    """One job a device."""
    for number in range(8 * nodes):
        engine.submit(Job(f"run-{number:06d}", devices=1))
        if number % 512 == 511:
            engine.cycle(NOW)
    while engine.cycle(NOW).decisions:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer nodes and rounds")
    quick = parser.parse_args().quick
    nodes, rounds = (1_000, 3) if quick else (10_000, 20)
    rng = random.Random(7)
    engine = a_fleet(nodes, rng)
    fill(engine, nodes)
    idle = median_microseconds(lambda: engine.cycle(NOW), 10 * rounds)
    mix = [job for job in shapes(4 * SHAPES, rng) if job.milli_per_member][:SHAPES]
    for number in range(WAITING):
        job = mix[number % SHAPES]
        engine.submit(replace(job, job_id=f"wait-{number:04d}", submitted_at=float(number)))
    engine.cycle(NOW + 1)
    again = median_microseconds(lambda: engine.cycle(NOW + 1), rounds)
    seconds = itertools.count(2)
    reasons = median_microseconds(lambda: engine.cycle(NOW + next(seconds)), rounds)
    at, ends = NOW + next(seconds), itertools.count()

    def one_ends() -> None:
        engine.release(f"run-{next(ends):06d}")
        assert engine.cycle(at).decisions

    engine.cycle(at)
    one = median_microseconds(one_ends, rounds)
    print("  nodes  waiting  shapes  nothing waits us  again us  reasons us  one ends us")
    print(f"{nodes:>7,} {WAITING:>8,} {SHAPES:>7} {idle:>17.0f} {again:>9.0f} {reasons:>11.0f} {one:>12.0f}")


if __name__ == "__main__":
    main()
