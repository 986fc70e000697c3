"""How far predictions of profiles are off, each measurement left out in turn, and how often the 90 % interval holds it.

MLPerf inference v5.1, Gavel's physical table and Splitwise, each a library of its own. "family out": transfer where
nothing of the same workload was measured on the target either. An interval never knows the error of the run itself.
Run: python -m tests.benchmarks.bench_profiles [--data FOLDER]
"""

import argparse
import math
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from berth import catalogue
from profile_store.domain.importers import Hints, read
from profile_store.domain.importers.outcome import without_unknown
from profile_store.domain.prediction.completion import Completion
from profile_store.domain.prediction.library import Library, interpolated
from profile_store.domain.prediction.roofline import prior
from profile_store.domain.prediction.runs import by_place
from profile_store.domain.profile import Profile, validate

FILES = {
    "mlperf": "mlperf/inference_v5.1_summary.json",
    "gavel": "gavel/physical_cluster_throughputs.json",
    "splitwise": "splitwise/perf_model.csv",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Errors in logarithms, and half of each one's interval."""

    errors: tuple[float, ...]
    widths: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(abs(math.expm1(error)) for error in self.errors)

    @property
    def coverage(self) -> float:
        held = [abs(error) <= width for error, width in zip(self.errors, self.widths, strict=True)]
        return sum(held) / len(held)


def load(folder: Path, name: str) -> tuple[Profile, ...]:
    imported = read(name, (folder / FILES[name]).read_bytes(), name, Hints())
    if imported.public:
        imported = without_unknown(imported, catalogue)
    return validate(imported.profiles, catalogue, now=datetime.now(UTC))


def outcome(pairs: Iterable[tuple[float, float]]) -> Outcome | None:
    errors, widths = [list(column) for column in zip(*pairs, strict=True)] or [[], []]
    return Outcome(tuple(errors), tuple(widths)) if errors else None


def measure(profiles: Sequence[Profile]) -> dict[str, Outcome]:
    """By way; ways that the data have no case of are absent."""
    library = Library(profiles, catalogue.load())
    found: dict[str, list[tuple[float, float]]] = {}
    for runs in by_place(library.runs).values():
        for number, run in enumerate(runs):
            answer = interpolated([*runs[:number], *runs[number + 1 :]], run.place)
            if answer is not None:
                verb = answer.basis.partition(":")[0]
                found.setdefault(verb, []).append((answer.speed - run.speed, answer.half_width))
    several = [run for run, _ in library.transfer_errors]
    for run in several:
        others = {
            "transferred": [one for one in library.runs if one is not run],
            "transferred, family out": [
                one
                for one in library.runs
                if (one.family.workload, one.accelerator) != (run.family.workload, run.accelerator)
            ],
        }
        width = library.transfer_width(run.family.unit, run.accelerator, without=run)
        for way, rest in others.items():
            made = Completion(rest, prior(catalogue.load())).predict(run.family, run.place, run.accelerator)
            if made is not None:
                found.setdefault(way, []).append((made.speed - run.speed, width))
    return {way: made for way, pairs in found.items() if (made := outcome(pairs)) is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("BERTH_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with mlperf, gavel and splitwise")
    folder = parser.parse_args().data
    if not folder.is_dir():
        print(f"left out: {folder} is absent; set BERTH_DATA to the folder of the real data")
        return
    print(f"{'data':<10} {'way':<24} {'runs':>5} {'median error':>13} {'in 90 % interval':>17} {'half width':>11}")
    for name in FILES:
        for way, made in measure(load(folder, name)).items():
            half = math.expm1(statistics.median(made.widths))
            print(
                f"{name:<10} {way:<24} {len(made.errors):>5} {made.median:>13.1%} {made.coverage:>17.0%} {half:>11.0%}"
            )


if __name__ == "__main__":
    main()
