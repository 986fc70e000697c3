"""All that was measured, asked for what was not: which way an answer was made, and how sure it is.

In this order: the measurement itself; interpolation between configurations on the same accelerator; completion from
other accelerators; a roofline. Each comes with an interval that holds the truth nine times of ten:

- Interpolation: what the family's own runs are off by when each is left out, drawn towards the
  quantity's prior error by PRIOR_RUNS of it where there are few.
- Completion: the 90 % quantile of what runs in the library are off by when an eighth of them is left out, those on
  the same accelerator and of the same unit counting more. Where nothing of the workload ran on the accelerator: when
  all of a workload there is left out, by workloads; in between by how many ran (kinds.py).
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from berth.catalogue import Accelerator
from profile_store.domain.prediction import kinds
from profile_store.domain.prediction.completion import Completed, Completion
from profile_store.domain.prediction.interpolation import combined, interpolate, residuals
from profile_store.domain.prediction.roofline import Roofs, Work, prior
from profile_store.domain.prediction.runs import (
    AXES,
    THROUGHPUT,
    Family,
    Place,
    Quantity,
    Run,
    by_place,
    run_of,
    runs_of,
)
from profile_store.domain.profile import Profile, ProfileKey, Provenance

if TYPE_CHECKING:
    from profile_store.domain.prediction.figures import Figure

__all__ = ["Answer", "Library", "Prediction", "interpolated", "likeness"]

WORST_ERROR = 0.6
INSIDE, OUTSIDE = 1.54, 1.74
"""Half the interval in standard deviations; 9 of 10 of Gavel's and Splitwise's runs left out lie within."""
FOLDS = 8
DOUBT, DOUBT_ERROR = 1.0, 0.8
"""A library of few runs is not trusted for its own errors: as if so many more were off by so much."""
OTHER_UNIT, SAME_ACCELERATOR = 0.05, 3.0
SCALING, SCALING_ERROR = 0.9, 0.1
"""Speed over devices where only one count was measured, and its error for each doubling."""
STRANGER = 0.7
"""Added for an accelerator of which the library has no run of that unit: its data sheet alone speaks."""
NINETY = 1.645


@dataclass(frozen=True, slots=True)
class Answer:
    """Speed and half of its 90 % interval, in logarithms."""

    speed: float
    half_width: float
    way: Provenance
    basis: str
    call_seconds: float | None = None
    """Of one call of the program, where a roofline says it."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Throughput lies from `low` to `high` nine times of ten; None where it was measured and nobody knows. `figures`
    are all others."""

    profile: Profile
    low: float | None
    high: float | None
    basis: str
    call_seconds: float | None = None
    figures: "tuple[Figure, ...]" = ()


class Library:
    """Built from all profiles of the store; what is costly is done once, when first asked for."""

    def __init__(
        self, profiles: Iterable[Profile], entries: Sequence[Accelerator], quantity: Quantity = THROUGHPUT
    ) -> None:
        self._profiles = tuple(profiles)
        self._entries = {entry.name: entry for entry in entries}
        self.quantity = quantity
        self._prior = likeness(entries, quantity)
        self.runs = runs_of(self._profiles, quantity)
        self._groups = by_place(self.runs)
        self.roofs = Roofs(entries, self._profiles)

    def predict(self, target: Profile, accelerator: str, work: Work | None = None) -> Prediction | None:
        """What `target`, of which only the configuration counts, would do there; None: nobody can say. `work`: what
        one call of its program does, where profiles do not say it."""
        run = run_of(target)
        declared = self._declared(run, accelerator)
        if declared is not None and not self._groups.get((run.family, accelerator)):
            return Prediction(declared, None, None, "declared")
        answer = self._surest(self.answer(run.family, run.place, accelerator), target, accelerator, work)
        if answer is None:
            return None
        throughput = math.exp(answer.speed)
        measured = answer.way is Provenance.MEASURED
        low, high = (math.exp(answer.speed + sign * answer.half_width) for sign in (-1, 1))
        known = answer.half_width > 0
        profile = Profile(
            key=ProfileKey(target.key.workload, accelerator, target.key.devices),
            provenance=answer.way,
            source=f"predicted: {answer.basis}"[:500],
            task=target.task,
            precision=target.precision,
            model=target.model,
            settings=target.settings,
            throughput=throughput,
            throughput_unit=target.throughput_unit or "steps/s",
            relative_uncertainty=answer.half_width / NINETY if known else None,
            operations=work.operations if work else None,
            bytes_moved=work.bytes_moved if work else None,
            operations_by_precision=tuple(sorted(work.by_precision.items())) if work else (),
            **{name: getattr(target, name) for name in AXES[1:]},
        )
        if measured:
            profile = next(one.profile for one in self._groups[run.family, accelerator] if one.place == run.place)
        return Prediction(profile, low if known else None, high if known else None, answer.basis, answer.call_seconds)

    def _declared(self, run: Run, accelerator: str) -> Profile | None:
        """What somebody says of just this configuration. Nothing else follows from it."""
        return next(
            (
                one
                for one in self._profiles
                if one.provenance == Provenance.DECLARED
                and one.throughput
                and not one.key.co_located_with
                and one.key.accelerator == accelerator
                and (known := run_of(one)).place == run.place
                and known.family == run.family
            ),
            None,
        )

    def answer(self, family: Family, place: Place, accelerator: str) -> Answer | None:
        own = self._groups.get((family, accelerator), [])
        for run in own:
            if run.place == place:
                spread = run.profile.relative_uncertainty or 0.0
                return Answer(run.speed, NINETY * spread, Provenance.MEASURED, "measured")
        return interpolated(own, place, self.quantity.prior_error) or self.transferred(family, place, accelerator)

    def transferred(self, family: Family, place: Place, accelerator: str) -> Answer | None:
        """From what ran elsewhere, and from another count there."""
        own = self._scaled(family, place, accelerator)
        if own is not None:
            return own
        if accelerator not in self._prior:
            return None
        made: list[tuple[Run, float]] = []
        for other in sorted(
            {name for known, name in self._groups if known == family and name != accelerator and name in self._prior}
        ):
            there = self._groups[family, other]
            answer = next(
                (Answer(one.speed, 0.0, Provenance.MEASURED, "") for one in there if one.place == place), None
            )
            answer = (
                answer or interpolated(there, place, self.quantity.prior_error) or self._scaled(family, place, other)
            )
            if answer is not None:
                made.append((replace(there[0], place=place, speed=answer.speed), answer.half_width))
        if not made:
            return None
        if not self._alike(family.unit, accelerator, (run.accelerator for run, _ in made)):
            return None
        missing = [run for run, width in made if width > 0]
        completion = Completion([*self._comparable, *missing], self._prior) if missing else self._completion
        completed = completion.predict(family, place, accelerator)
        if completed is None:
            return None
        width = math.hypot(self.completed_width(family, accelerator), min(width for _, width in made))
        ran = self._ran[family.workload, accelerator]
        if (family.unit, accelerator) not in self._seen or not (ran or completed.support):
            width = math.hypot(width, STRANGER)
        return Answer(
            completed.speed, width, Provenance.TRANSFERRED, f"transferred from {', '.join(completed.sources[:4])}"
        )

    def _alike(self, unit: str, accelerator: str, sources: Iterable[str]) -> bool:
        """A data sheet moves speeds between kinds of one class; between classes only what ran on it can."""
        classes = {self._entries[name].device_class for name in (accelerator, *sources) if name in self._entries}
        return (unit, accelerator) in self._seen or len(classes) == 1

    @cached_property
    def _seen(self) -> frozenset[tuple[str, str]]:
        return frozenset((run.family.unit, run.accelerator) for run in self.runs)

    @cached_property
    def _ran(self) -> Counter[tuple[str, str]]:
        return Counter((run.family.workload, run.accelerator) for run in self.runs)

    @cached_property
    def _comparable(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.accelerator in self._prior)

    def runs_at(self, precision: str, accelerator: str) -> bool:
        """Whether the accelerator is known to have the precision: in its data sheet, or because something ran so."""
        entry = self._entries.get(accelerator)
        wide = not precision or precision in ("fp16", "bf16", "fp32", "mixed")
        width = "int8" if precision == "uint8" else precision
        if wide or (entry is not None and entry.peak(width) is not None):
            return True
        return any(run.family.precision == precision and run.accelerator == accelerator for run in self.runs)

    def _scaled(self, family: Family, place: Place, accelerator: str) -> Answer | None:
        """From the one count that was measured, all else equal."""
        near = [run for run in self._groups.get((family, accelerator), []) if run.place[1:] == place[1:]]
        if not near or not self.quantity.scales:
            return None
        run = min(near, key=lambda one: abs(math.log(one.place.devices / place.devices)))
        doublings = math.log2(place.devices / run.place.devices)
        width = NINETY * SCALING_ERROR * (1 + abs(doublings))
        counts = f"{run.place.devices} device{'s' if run.place.devices > 1 else ''}"
        speed = run.speed + SCALING * math.log(2) * doublings
        return Answer(speed, width, Provenance.INTERPOLATED, f"scaled from {counts}, the nearest count")

    def _surest(self, answer: Answer | None, target: Profile, accelerator: str, work: Work | None) -> Answer | None:
        """A roofline where nothing else speaks, where what is known of the work makes it surer than a transfer, or
        where a transfer is faster than the data sheet allows: it is then of other work."""
        if answer is not None and answer.way is not Provenance.TRANSFERRED:
            return answer
        alike = [one for one in self._profiles if one.key.workload == target.key.workload]
        bound = self.roofs.bounded(target, alike, accelerator, work)
        if bound is None:
            return answer
        way = Provenance.ROOFLINE if bound.corrected is None else Provenance.TRANSFERRED
        ours = Answer(bound.speed, bound.half_width, way, bound.basis, bound.seconds)
        if answer is None or ours.half_width < answer.half_width or answer.speed > bound.most:
            return ours
        return answer

    @cached_property
    def _completion(self) -> Completion:
        return Completion(self._comparable, self._prior)

    @cached_property
    def transfer_errors(self) -> Sequence[tuple[Run, float]]:
        """Runs measured on several accelerators, and what completion without an eighth of them is off by."""
        fold_of = {id(run): number * 5 % FOLDS for number, run in enumerate(self._several)}
        return [(run, made.speed - run.speed) for run, made in self._left_out(fold_of)]

    @cached_property
    def kind_errors(self) -> Sequence[tuple[Run, float]]:
        """The same without all of the run's workload on its accelerator, where other workloads ran there: a data
        sheet's error is another one (STRANGER)."""
        groups = list(dict.fromkeys((run.family.workload, run.accelerator) for run in self._several))
        number = {group: place * 5 % FOLDS for place, group in enumerate(sorted(groups))}
        fold_of = {
            id(run): number[group]
            for run in self._comparable
            if (group := (run.family.workload, run.accelerator)) in number
        }
        return [(run, made.speed - run.speed) for run, made in self._left_out(fold_of) if made.support]

    @cached_property
    def _several(self) -> Sequence[Run]:
        """Measured on several accelerators."""
        counts: dict[tuple[Family, Place], int] = {}
        for run in self._comparable:
            counts[run.family, run.place] = counts.get((run.family, run.place), 0) + 1
        return [run for run in self._comparable if counts[run.family, run.place] > 1]

    def _left_out(self, fold_of: Mapping[int, int]) -> Iterable[tuple[Run, Completed]]:
        """What completion says of each of these runs (by id) without all of its fold."""
        for fold in range(FOLDS):
            rest = [run for run in self._comparable if fold_of.get(id(run)) != fold]
            if len(rest) == len(self._comparable):
                continue
            completion = Completion(rest, self._prior)
            for run in self._several:
                if fold_of.get(id(run)) == fold and (
                    made := completion.predict(run.family, run.place, run.accelerator)
                ):
                    yield run, made

    def kind_width(self, unit: str, accelerator: str) -> float:
        """Half the 90 % interval where nothing of the workload ran on the accelerator."""
        left: dict[str, list[tuple[float, float]]] = {}
        weights: dict[str, float] = {}
        for run, error in self.kind_errors:
            weight = SAME_ACCELERATOR if run.accelerator == accelerator else 1.0
            left.setdefault(run.family.workload, []).append((error, weight))
            own = 1.0 if run.family.unit == unit else OTHER_UNIT
            weights[run.family.workload] = max(own, weights.get(run.family.workload, 0.0))
        return kinds.half_width(left, weights, self.quantity.transfer_error)

    def completed_width(self, family: Family, accelerator: str, without: Run | None = None) -> float:
        """Half the 90 % interval of what completion says, by how many runs of the workload are known there."""
        runs = self._ran[family.workload, accelerator] - (without is not None)
        everything = self.transfer_width(family.unit, accelerator, without)
        return kinds.narrowed(self.kind_width(family.unit, accelerator), everything, runs)

    def transfer_width(self, unit: str, accelerator: str, without: Run | None = None) -> float:
        """Half the 90 % interval where about all of the workload ran there. `without`: a run whose own error must not
        count."""
        weighed = [(DOUBT_ERROR, DOUBT)]
        for run, error in self.transfer_errors:
            if run is not without:
                weight = 1.0 if run.family.unit == unit else OTHER_UNIT
                weighed.append((abs(error), weight * (SAME_ACCELERATOR if run.accelerator == accelerator else 1.0)))
        return kinds.ninetieth(weighed)


def likeness(entries: Sequence[Accelerator], quantity: Quantity) -> dict[str, float]:
    """What a quantity is expected to be on each accelerator, in logarithms up to a constant."""
    if quantity.likeness == "speed":
        return prior(entries)
    if quantity.likeness == "bandwidth":
        return {entry.name: math.log(entry.memory_bandwidth) for entry in entries if entry.memory_bandwidth}
    if quantity.likeness == "tdp":
        return {entry.name: math.log(entry.tdp_watts) for entry in entries if entry.tdp_watts}
    return dict.fromkeys((entry.name for entry in entries), 0.0)


def interpolated(own: Sequence[Run], place: Place, prior_error: float = THROUGHPUT.prior_error) -> Answer | None:
    answers = interpolate(own, place)
    if not answers:
        return None
    outside = answers[0].outside
    speed, _ = combined(answers)
    errors = [min(abs(error), WORST_ERROR) for error, _ in residuals(own, outside)]
    variance = (kinds.PRIOR_RUNS * prior_error**2 + sum(error**2 for error in errors)) / (
        kinds.PRIOR_RUNS + len(errors)
    )
    width = (OUTSIDE if outside else INSIDE) * math.sqrt(variance)
    parts = [
        f"beyond {one.axis.replace('_', ' ')} {one.below:g}"
        if outside
        else f"{one.axis.replace('_', ' ')} between {one.below:g} and {one.above:g}"
        for one in answers
    ]
    verb = "extrapolated" if outside else "interpolated"
    return Answer(speed, width, Provenance.INTERPOLATED, f"{verb}: {', '.join(parts)}")
