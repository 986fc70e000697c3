"""`compare`: the same work on the fleet as it is and as it might be. A pure function: no I/O, no clock."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from berth import catalogue
from berth.errors import FieldError, InvalidInput
from placement_engine.domain.model import Job, Node, Queue
from placement_engine.domain.situation import Situation
from placement_engine.policies import parse_policy
from placement_engine.simulation.clock import HOUR, Arrival, Clock, Fact, History, JobHistory
from placement_engine.simulation.outcome import Outcome, outcome_of

__all__ = ["Changes", "Comparison", "JobComparison", "changed", "compare"]

TICK_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is other than it is. Each part is on its own optional."""

    add_nodes: tuple[Node, ...] = ()
    """A node of a known name replaces that one."""
    remove_nodes: tuple[str, ...] = ()
    """What runs on them is stopped at once and waits again."""
    queues: tuple[Queue, ...] = ()
    """Replace those of the same name, or come to them."""
    policy: Mapping[str, object] = field(default_factory=dict)
    """Fields of `Policy` to their values, also as texts; `weights.heat` is one of its weights."""
    prices: Mapping[str, float] = field(default_factory=dict)
    """Catalogue name to dollars an hour, instead of the catalogue's and the profiles'."""
    jobs: tuple[Job, ...] = ()
    """Come in addition, at once."""


@dataclass(frozen=True, slots=True)
class JobComparison:
    """One job in both runs; seconds from the begin. None: it does not start, or end."""

    job_id: str
    name: str
    base_start_seconds: float | None
    base_end_seconds: float | None
    base_nodes: tuple[str, ...]
    changed_start_seconds: float | None
    changed_end_seconds: float | None
    changed_nodes: tuple[str, ...]

    @property
    def differs(self) -> bool:
        base = (self.base_start_seconds, self.base_end_seconds, self.base_nodes)
        return base != (self.changed_start_seconds, self.changed_end_seconds, self.changed_nodes)


@dataclass(frozen=True, slots=True)
class Comparison:
    base: Outcome
    changed: Outcome
    jobs: tuple[JobComparison, ...]
    """By the time at which they start as things are, then by id."""
    notes: tuple[str, ...]
    """What was assumed."""
    base_history: History
    changed_history: History


def compare(
    base: Situation,
    changes: Changes,
    *,
    arrivals: Sequence[Arrival] = (),
    facts: Sequence[Fact] = (),
    default_seconds: float = HOUR,
    until: float | None = None,
) -> Comparison:
    """Runs both forward, to the end of all work or to the time `until`. Raises InvalidInput for a change that is none.

    `arrivals` and `facts` are to come in both. `default_seconds` is taken for jobs that declare no duration.
    """
    situation, extra_facts = changed(base, changes)
    more = [Arrival(base.now, replace(job, submitted_at=base.now)) for job in changes.jobs]
    histories = []
    for start, coming, told in ((base, [*arrivals], [*facts]), (situation, [*arrivals, *more], [*extra_facts, *facts])):
        clock = Clock(start, coming, told, default_seconds=default_seconds, tick_seconds=TICK_SECONDS)
        histories.append(clock.run(math.inf if until is None else until))
    first, second = histories
    outcomes = outcome_of(first), outcome_of(second)
    notes = _notes(outcomes[0].notes, outcomes[1].notes)
    if base.samples:
        notes.append("heat, errors and throttling stay as they were last heard")
    return Comparison(
        base=outcomes[0],
        changed=outcomes[1],
        jobs=tuple(_jobs(first, second)),
        notes=tuple(notes),
        base_history=first,
        changed_history=second,
    )


def _notes(base: Sequence[str], changed: Sequence[str]) -> list[str]:
    both = [note for note in base if note in changed]
    return [
        *both,
        *(f"as it is: {note}" for note in base if note not in both),
        *(f"changed: {note}" for note in changed if note not in both),
    ]


def changed(base: Situation, changes: Changes) -> tuple[Situation, tuple[Fact, ...]]:
    """The situation with the changes, and what happens at once: nodes with work on them leave."""
    errors = []
    names = {node.name for node in base.nodes}
    for name in changes.remove_nodes:
        if name not in names:
            errors.append(FieldError("remove_nodes", name, "no node has this name"))
    for model, dollars in changes.prices.items():
        if catalogue.by_name(model) is None:
            near = ", ".join(catalogue.nearest(model)) or "`berth get devices`"
            errors.append(FieldError("prices", model, f"not in the catalogue; nearest: {near}"))
        if not 0 <= dollars < math.inf:
            errors.append(FieldError("prices", f"{model}={dollars}", "write dollars an hour, 0 or more"))
    if errors:
        raise InvalidInput(errors)
    added = {node.name: _exempt(node, base.pool) for node in changes.add_nodes}
    nodes = [added.pop(node.name, node) for node in base.nodes] + [added[name] for name in sorted(added)]
    queues = {queue.name: queue for queue in (*base.queues, *changes.queues)}
    prices = {model.casefold(): dollars for model, dollars in changes.prices.items()}
    situation = replace(
        base,
        nodes=tuple(nodes),
        queues=tuple(queues.values()),
        policy=parse_policy(changes.policy, base.policy),
        accelerators=tuple(
            replace(one, price_per_hour=prices.get(one.name.casefold(), one.price_per_hour))
            for one in base.accelerators
        ),
        profiles=tuple(
            replace(one, price_per_hour=prices.get(one.accelerator.casefold(), one.price_per_hour))
            for one in base.profiles
        ),
    )
    _check_queues(situation)
    return situation, tuple(Fact(base.now, name) for name in dict.fromkeys(changes.remove_nodes))


def _exempt(node: Node, pool: str) -> Node:
    """A node that is not there reports nothing."""
    return replace(node, pool=pool, telemetry_exempt=True)


def _check_queues(situation: Situation) -> None:
    from placement_engine.domain.engine import Engine

    try:
        Engine(situation.policy).set_queues(situation.queues)
    except ValueError as error:
        raise InvalidInput.of("queues", ", ".join(queue.name for queue in situation.queues), str(error)) from error


def _jobs(first: History, second: History) -> list[JobComparison]:
    def times(history: History, job: JobHistory | None) -> tuple[float | None, float | None, tuple[str, ...]]:
        if job is None or not job.spans:
            return None, None, ()
        start = job.spans[0].started - history.start
        return start, None if job.finished is None else job.finished - history.start, job.spans[-1].nodes

    rows = []
    for job_id in sorted({*first.jobs, *second.jobs}):
        one, other = first.jobs.get(job_id), second.jobs.get(job_id)
        known = one or other
        assert known is not None
        rows.append(JobComparison(job_id, known.job.name or job_id, *times(first, one), *times(second, other)))

    def order(row: JobComparison) -> tuple[float, str]:
        return (math.inf if row.base_start_seconds is None else row.base_start_seconds, row.job_id)

    return sorted(rows, key=order)
