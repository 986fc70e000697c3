"""What is asked of the library, and its answer over accelerators."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from berth.catalogue import Accelerator
from profile_store.domain.prediction.library import Library, Prediction
from profile_store.domain.profile import PREDICTED, Profile, best_fitting

__all__ = ["Forecast", "Question", "forecast", "to_keep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`accelerator` "" asks for all; None and "" take the rest from the best fitting configuration."""

    workload: str
    accelerator: str = ""
    devices: int = 1
    batch_size: int | None = None
    concurrency: int | None = None
    precision: str = ""


@dataclass(frozen=True, slots=True)
class Forecast:
    """`predictions` fastest first; `unknown` says in sentences of what nothing can be said."""

    predictions: tuple[Prediction, ...]
    unknown: tuple[str, ...] = ()


def forecast(question: Question, profiles: Sequence[Profile], entries: Sequence[Accelerator]) -> Forecast | None:
    """None: no profile of the workload. `profiles` are all of the store, not those of the workload alone."""
    own = [one for one in profiles if one.key.workload == question.workload and one.provenance not in PREDICTED]
    if not own:
        return None
    library = Library(profiles, entries)
    asked = [entry for entry in entries if question.accelerator in ("", entry.name)]
    found, unknown = [], []
    for entry in asked:
        able = [one for one in own if library.runs_at(question.precision or one.precision, entry.name)]
        prediction = library.predict(_target(question, able, entry.name), entry.name) if able else None
        if prediction is None:
            unknown.append(entry.name)
        else:
            found.append(prediction)
    found.sort(key=lambda one: (-(one.profile.throughput or 0.0), one.profile.key))
    why = (
        "neither measured there, nor like enough to where it was, nor are operations and bytes known; or the "
        "precision is not known to run there"
    )
    return Forecast(tuple(found), (f"{', '.join(unknown)}: {why}",) if unknown else ())


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
    return replace(
        template,
        key=replace(template.key, devices=question.devices),
        batch_size=question.batch_size or template.batch_size,
        concurrency=question.concurrency or template.concurrency,
        precision=question.precision or template.precision,
    )


def to_keep(predictions: Sequence[Prediction]) -> tuple[Profile, ...]:
    """The predictions among the answers: what was measured or declared is in the store already."""
    return tuple(one.profile for one in predictions if one.profile.provenance in PREDICTED)
