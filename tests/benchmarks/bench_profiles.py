"""How far predictions of profiles are off, each measurement left out in turn, and how often the 90 % interval holds it.

MLPerf inference v5.1, Gavel's physical table and Splitwise, each a library of its own. "nothing (1, 4) of it there":
transfer where all (but 1 or 4) of a workload's runs on the target are left out, from intervals too. An interval never
knows the error of the run itself. "held out": the general error of a transfer without the table that is predicted.
Then what is predicted beside throughput: latencies on Splitwise, power on Zeus' sweeps over batch and power limit; and
the roofline on Splitwise's phases, whose operations and bytes follow from the model's parameters.
Run: python -m tests.benchmarks.bench_profiles [--data FOLDER]
"""

import argparse
import math
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from berth import catalogue
from profile_store.domain.importers import Hints, read
from profile_store.domain.importers.outcome import without_unknown
from profile_store.domain.prediction.completion import Completion
from profile_store.domain.prediction.figures import QUANTITIES
from profile_store.domain.prediction.library import Library, interpolated, likeness
from profile_store.domain.prediction.roofline import Roofs, work_of
from profile_store.domain.prediction.runs import THROUGHPUT, Quantity, Run, by_place
from profile_store.domain.profile import Profile, ProfileKey, Provenance
from profile_store.domain.validation import validate

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


ZEUS = {"V100-16": "zeus/summary_power_v100.csv", "P100": "zeus/summary_power_p100.csv"}
"""Of the four sweeps those whose device is in the catalogue."""
PARAMETERS = {"llama2-70b": 69e9, "bloom-176b": 176e9}
CACHE_BYTES = {"llama2-70b": 2 * 80 * 8 * 128 * 2, "bloom-176b": 2 * 70 * 112 * 128 * 2}
"""Keys and values of one token: 2 x layers x heads that have them x their width x 2 bytes, as the models are published
(Touvron et al. 2023; BigScience 2022)."""
FIGURES = {
    "splitwise": ("latency_p50_seconds", "first_token_p50_seconds", "token_p50_seconds"),
    "zeus": ("power_watts", "throughput"),
}


HELD_OUT = {"mlperf": 0.42, "gavel": 0.33, "zeus": 0.33}
"""A transfer's general error (`Quantity.transfer_error`) from the other two tables alone."""


def load(folder: Path, name: str) -> tuple[Profile, ...]:
    imported = read(name, (folder / FILES[name]).read_bytes(), name, Hints())
    if imported.public:
        imported = without_unknown(imported, catalogue)
    return validate(imported.profiles, catalogue, now=datetime.now(UTC))


def outcome(pairs: Iterable[tuple[float, float]]) -> Outcome | None:
    errors, widths = [list(column) for column in zip(*pairs, strict=True)] or [[], []]
    return Outcome(tuple(errors), tuple(widths)) if errors else None


def load_zeus(folder: Path) -> tuple[Profile, ...]:
    found: list[Profile] = []
    for accelerator, name in ZEUS.items():
        found += read("zeus", (folder / name).read_bytes(), name, Hints(accelerator=accelerator)).profiles
    return validate(found, catalogue, now=datetime.now(UTC))


def measure(
    profiles: Sequence[Profile],
    quantity: Quantity = THROUGHPUT,
    *,
    transfers: bool = True,
    known_there: Sequence[int] = (0, 1, 4),
) -> dict[str, Outcome]:
    """By way; ways that the data have no case of are absent."""
    library = Library(profiles, catalogue.load(), quantity)
    expected = likeness(catalogue.load(), quantity)
    found: dict[str, list[tuple[float, float]]] = {}
    for runs in by_place(library.runs).values():
        for number, run in enumerate(runs):
            answer = interpolated([*runs[:number], *runs[number + 1 :]], run.place, quantity.prior_error)
            if answer is not None:
                verb = answer.basis.partition(":")[0]
                found.setdefault(verb, []).append((answer.speed - run.speed, answer.half_width))
    if not transfers:
        return outcomes(found)
    for run, _ in library.transfer_errors:
        made = Completion([one for one in library.runs if one is not run], expected).predict(
            run.family, run.place, run.accelerator
        )
        if made is not None:
            width = library.completed_width(run.family, run.accelerator, without=run)
            found.setdefault("transferred", []).append((made.speed - run.speed, width))
    for known in known_there:
        way = f"transferred, {known or 'nothing'} of it there"
        for pairs in workloads_out(profiles, library, known).values():
            found.setdefault(way, []).extend(pairs)
    return outcomes(found)


def workloads_out(
    profiles: Sequence[Profile], library: Library, known: int
) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """By workload and accelerator (error, half width) of its runs where the library knows but `known` of them there,
    and no error of any: intervals come from what is left alone."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run, _ in library.transfer_errors:
        groups.setdefault((run.family.workload, run.accelerator), []).append(run)
    found = {}
    for (workload, accelerator), runs in groups.items():
        runs.sort(key=lambda run: (run.family, run.place))
        # Spread over what there is.
        kept = [runs[(2 * number + 1) * len(runs) // (2 * known)] for number in range(known)] if known else []
        out = {
            run.profile.key
            for run in library.runs
            if (run.family.workload, run.accelerator) == (workload, accelerator) and run not in kept
        }
        rest = Library([one for one in profiles if one.key not in out], catalogue.load(), library.quantity)
        answers = [
            (run, rest.transferred(run.family, run.place, run.accelerator)) for run in runs if run.profile.key in out
        ]
        found[workload, accelerator] = [(made.speed - run.speed, made.half_width) for run, made in answers if made]
    return found


def outcomes(found: dict[str, list[tuple[float, float]]]) -> dict[str, Outcome]:
    return {way: whole for way, pairs in found.items() if (whole := outcome(pairs)) is not None}


def phases(profiles: Sequence[Profile]) -> list[Profile]:
    """Splitwise's prompt and token phases as programs of their own: 2 operations for each parameter and token; from
    memory, once a call, the weights (2 bytes each) and the keys and values: as many as there are halfway through the
    answer in a token's step, the prompt's own in a prompt's."""
    found = []
    for one in profiles:
        parameters, batch = PARAMETERS.get(one.model), one.batch_size
        if parameters is None or not batch or not one.input_tokens:
            continue
        for phase, tokens, seconds in (
            ("prompt", one.input_tokens, one.first_token_p50_seconds),
            ("token", 1, one.token_p50_seconds),
        ):
            if seconds:
                name = f"{one.model}-{phase}-{one.input_tokens}-{batch}-{one.output_tokens}"
                length = one.input_tokens + (0 if phase == "prompt" else (one.output_tokens or 0) / 2)
                cache = CACHE_BYTES[one.model] * batch * length
                found.append(
                    Profile(
                        key=ProfileKey(name, one.key.accelerator, one.key.devices), provenance=Provenance.MEASURED,
                        source="splitwise", precision="fp16", throughput=1 / seconds, throughput_unit="steps/s",
                        model=one.model, operations=2 * parameters * tokens * batch,
                        bytes_moved=2 * parameters + cache,
                    )
                )  # fmt: skip
    return found


def measure_roofline(profiles: Sequence[Profile]) -> dict[str, Outcome]:
    """Each phase by its bound alone, and with the ratio that was measured on the other accelerator. Each with nothing
    of another program, and with all that the other model did: intervals then know what that one reached."""
    found: dict[str, list[tuple[float, float]]] = {}
    programs = phases(profiles)
    nothing = Roofs(catalogue.load())
    others = {model: Roofs(catalogue.load(), [one for one in programs if one.model != model]) for model in PARAMETERS}
    for one in programs:
        elsewhere = [
            other
            for other in programs
            if (other.key.workload, other.key.devices) == (one.key.workload, one.key.devices)
            and other.key.accelerator != one.key.accelerator
        ]
        work, phase = work_of(one), one.key.workload.split("-")[2]
        for way, alike, roofs in (
            ("roofline", [], nothing),
            ("roofline, corrected", elsewhere, nothing),
            ("roofline, other known", [], others[one.model]),
            ("corrected, other known", elsewhere, others[one.model]),
        ):
            made = roofs.bounded(one, alike, one.key.accelerator, work)
            if made is not None and one.throughput and (made.corrected is not None) == ("corrected" in way):
                error = made.speed - math.log(one.throughput)
                found.setdefault(f"{way}: {phase}", []).append((error, made.half_width))
    return {way: whole for way, pairs in found.items() if (whole := outcome(pairs)) is not None}


def show(name: str, measured: dict[str, Outcome]) -> None:
    for way, made in measured.items():
        half = math.expm1(statistics.median(made.widths))
        print(f"{name:<34} {way:<33} {len(made.errors):>5} {made.median:>13.1%} {made.coverage:>17.0%} {half:>11.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("BERTH_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with mlperf, gavel and splitwise")
    folder = parser.parse_args().data
    if not folder.is_dir():
        print(f"left out: {folder} is absent; set BERTH_DATA to the folder of the real data")
        return
    print(f"{'data':<34} {'way':<33} {'runs':>5} {'median error':>13} {'in 90 % interval':>17} {'half width':>11}")
    for name in FILES:
        show(name, measure(load(folder, name)))
    data = {"splitwise": load(folder, "splitwise"), "zeus": load_zeus(folder)}
    for name, figures in FIGURES.items():
        for figure in figures:
            show(f"{name} {figure}", measure(data[name], QUANTITIES.get(figure, THROUGHPUT)))
    for name, error in HELD_OUT.items():
        profiles = data["zeus"] if name == "zeus" else load(folder, name)
        library = Library(profiles, catalogue.load(), replace(THROUGHPUT, transfer_error=error))
        pairs = [pair for part in workloads_out(profiles, library, 0).values() for pair in part]
        show(f"{name}, held out", outcomes({"transferred, nothing of it there": pairs}))
    show("splitwise", measure_roofline(data["splitwise"]))


if __name__ == "__main__":
    main()
