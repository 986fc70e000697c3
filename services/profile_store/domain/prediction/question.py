"""What is asked of the library, and its answer over accelerators."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from berth.catalogue import Accelerator
from profile_store.domain.prediction.figures import Figures, Speed
from profile_store.domain.prediction.library import Library, Prediction
from profile_store.domain.prediction.roofline import Work, known_work, work_of
from profile_store.domain.profile import PREDICTED, Profile, ProfileKey, Provenance, best_fitting

__all__ = ["Forecast", "Question", "forecast", "kept_questions", "to_keep"]

ANALYSED_UNIT = "queries/s"
"""Of a program of which only the analysis is known: one call answers as many as its batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`accelerator` "" asks for all; None and "" take the rest from the best fitting configuration. `work`: what one
    call does, where the workload's profiles do not say it."""

    workload: str
    accelerator: str = ""
    devices: int = 1
    batch_size: int | None = None
    concurrency: int | None = None
    precision: str = ""
    power_limit_watts: float | None = None
    work: Work | None = None
    exact: bool = False
    """None and "" are meant: the configuration did not say."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """`predictions` fastest first; `unknown` says in sentences of what nothing can be said."""

    predictions: tuple[Prediction, ...]
    unknown: tuple[str, ...] = ()


def forecast(question: Question, profiles: Sequence[Profile], entries: Sequence[Accelerator]) -> Forecast | None:
    """None: no profile of the workload. `profiles` are all of the store, not those of the workload alone."""
    alike = [one for one in profiles if one.key.workload == question.workload]
    own = [one for one in alike if one.provenance not in PREDICTED] or _analysed(question, alike)
    if not own:
        return None
    library, figures = Library(profiles, entries), Figures(profiles, entries)
    asked = [entry for entry in entries if question.accelerator in ("", entry.name)]
    found, unknown, too_large = [], [], []
    for entry in asked:
        able = [one for one in own if library.runs_at(question.precision or one.precision, entry.name)]
        target = _target(question, able, entry.name) if able else None
        work = question.work or (known_work(target, alike) if target else None)
        prediction = library.predict(target, entry.name, work) if target else None
        if target is None or prediction is None:
            unknown.append(entry.name)
            continue
        whole = _with_figures(prediction, target, entry.name, figures, work)
        if _fits(whole, entry):
            found.append(whole)
        else:
            too_large.append(entry.name)
    found.sort(key=lambda one: (-(one.profile.throughput or 0.0), one.profile.key))
    why = (
        "neither measured there, nor like enough to where it was, nor are operations and bytes of that batch size "
        "known; or the precision is not known to run there"
    )
    said = [(unknown, why), (too_large, "it needs more memory than the device has")]
    return Forecast(tuple(found), tuple(f"{', '.join(names)}: {reason}" for names, reason in said if names))


def _analysed(question: Question, alike: Sequence[Profile]) -> list[Profile]:
    """What stands for a workload of which only its program's analysis is known: asked now, or kept before."""
    kept = [one for one in alike if one.provenance == Provenance.ROOFLINE and work_of(one) is not None]
    if question.work is None:
        return kept[:1]
    return [
        Profile(
            key=ProfileKey(question.workload, "", question.devices),
            provenance=Provenance.ROOFLINE,
            source="analysis",
            task="inference",
            precision=question.precision,
            throughput_unit=ANALYSED_UNIT,
            batch_size=question.batch_size or question.work.batch_size,
        )
    ]


def _with_figures(
    prediction: Prediction, target: Profile, accelerator: str, figures: Figures, work: Work | None
) -> Prediction:
    profile = prediction.profile
    predicted = profile.provenance in PREDICTED
    if not profile.throughput:
        return prediction
    half = math.log(prediction.high / profile.throughput) if prediction.high else None
    speed = Speed(profile.throughput, half, Provenance(profile.provenance), prediction.call_seconds)
    made = figures.of(
        replace(target, throughput_unit=profile.throughput_unit),
        accelerator,
        speed,
        None if predicted else profile,
        work,
    )
    if predicted:
        values = {one.name: one for one in made if hasattr(profile, one.name)}
        p99 = values.get("latency_p99_seconds")
        fields: dict[str, Any] = {name: one.value for name, one in values.items()}
        if "memory_bytes" in fields:
            fields["memory_bytes"] = math.ceil(fields["memory_bytes"])
        profile = replace(profile, **fields, latency_p99_high_seconds=p99.high if p99 else None)
    return replace(prediction, profile=profile, figures=made)


def _fits(prediction: Prediction, entry: Accelerator) -> bool:
    memory = next((one for one in prediction.figures if one.name == "memory_bytes"), None)
    if memory is None or entry.memory_bytes is None or memory.way not in PREDICTED or entry.device_class != "GPU":
        return True
    return memory.value <= entry.memory_bytes


def _target(question: Question, own: Sequence[Profile], accelerator: str) -> Profile:
    """The configuration that is meant: of the same accelerator and count before others, changed as asked."""
    best = best_fitting(own)
    template = min(
        best,
        key=lambda one: (
            bool(question.precision) and one.precision != question.precision,
            one.throughput is None,
            one.key.accelerator != accelerator,
            one.key.devices != question.devices,
        ),
    )
    if question.exact:
        return replace(
            template,
            key=replace(template.key, devices=question.devices),
            batch_size=question.batch_size,
            concurrency=question.concurrency,
            precision=question.precision,
            power_limit_watts=question.power_limit_watts,
        )
    return replace(
        template,
        key=replace(template.key, devices=question.devices),
        batch_size=question.batch_size or template.batch_size,
        concurrency=question.concurrency or template.concurrency,
        precision=question.precision or template.precision,
        power_limit_watts=question.power_limit_watts or template.power_limit_watts,
    )


def to_keep(predictions: Sequence[Prediction]) -> tuple[Profile, ...]:
    """The predictions among the answers: what was measured or declared is in the store already."""
    return tuple(one.profile for one in predictions if one.profile.provenance in PREDICTED)


def kept_questions(profiles: Sequence[Profile]) -> dict[Question, frozenset[str]]:
    """What was once asked and kept, and of which accelerators: to be asked again when more is known."""
    found: dict[Question, set[str]] = {}
    for one in profiles:
        if one.provenance in PREDICTED:
            question = Question(
                workload=one.key.workload,
                devices=one.key.devices,
                batch_size=one.batch_size,
                concurrency=one.concurrency,
                precision=one.precision,
                power_limit_watts=one.power_limit_watts,
                exact=True,
            )
            found.setdefault(question, set()).add(one.key.accelerator)
    return {question: frozenset(names) for question, names in found.items()}
