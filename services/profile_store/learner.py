"""jobs.lifecycle in, profiles out: what the observed speed of running jobs teaches.

A batch's spans, the estimates that they move, the profiles that have moved enough, their records of profiles.changed
and the topic's offset are one transaction: a crash between any two of them counts nothing twice and loses nothing.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog
from google.protobuf.message import DecodeError
from prometheus_client import Counter

from berth.errors import InvalidInput
from berth.kafka import DeadLetter, Record
from berth.postgres import TRANSIENT, Connection
from profile_store.adapters.estimates import PostgresEstimates
from profile_store.adapters.observations import heard, observed, span_of
from profile_store.domain.learning import Span, learn, profile_of, worth_telling
from profile_store.domain.profile import Profile, ProfileKey
from profile_store.domain.throttling import ThrottleWatch
from profile_store.domain.validation import Catalogue, validate

__all__ = ["Learner"]

log = structlog.get_logger(__name__)

SPANS = Counter("berth_learning_spans_total", "Spans of work of running jobs, as they came.")
TOLD = Counter("berth_learning_profiles_total", "Observed profiles that were published.")

KEPT_DAYS = 30.0
FORGET_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    estimates: PostgresEstimates
    catalogue: Catalogue
    now: Callable[[], datetime]
    watch: ThrottleWatch = field(default_factory=ThrottleWatch)
    learnt: Callable[[Collection[str]], None] = field(default=lambda _: None)
    """Called with the workloads of which something is about to be told."""

    async def on_lifecycle(self, connection: Connection, records: list[Record]) -> Sequence[DeadLetter]:
        # 1. Spans of work, each checked as a profile is.
        spans: list[Span] = []
        dead: list[DeadLetter] = []
        for record in records:
            message = observed(record.value)
            if message is None:
                continue
            try:
                spans.append(span_of(message, self.catalogue, self.watch, self.now))
            except InvalidInput as error:
                dead.append(DeadLetter(record, error.code, str(error)))
        if not spans:
            return dead
        # 2. What is known so far; the estimates stay locked until the commit.
        reached = await self.estimates.reached(connection, [span.run for span in spans])
        known = await self.estimates.locked(connection, [span.key for span in spans])
        units = await self.estimates.units(connection, [span.key.workload for span in spans])
        # 3. Learn.
        lesson = learn(spans, reached, known, lambda workload: units.get(workload, frozenset()))
        # 4. Tell what has moved enough.
        last = {span.key: span for span in spans}
        told: dict[ProfileKey, Profile] = {}
        changed = dict(lesson.estimates)
        for key, estimate in lesson.estimates.items():
            if worth_telling(estimate):
                (told[key],) = validate([profile_of(key, estimate, last[key])], self.catalogue, now=self.now())
                changed[key] = replace(
                    estimate,
                    told=(estimate.throughput, estimate.relative_uncertainty),
                    told_latency=estimate.latencies.highest,
                )
        await self.estimates.save(connection, lesson.reached, changed, list(told.values()))
        self.learnt({key.workload for key in told})
        SPANS.inc(len(spans))
        TOLD.inc(len(told))
        return dead

    async def on_telemetry(self, records: list[Record]) -> None:
        for record in records:
            try:
                at, devices = heard(record.value)
            except DecodeError:
                continue  # the engine reads the same topic, and says so
            self.watch.hear(at, devices)

    async def run(self) -> None:
        """Forgets runs that are long over. Until cancelled."""
        while True:
            try:
                await self.estimates.forget(KEPT_DAYS)
            except TRANSIENT as error:
                log.warning("runs that are over will be forgotten later", error=repr(error))
            await asyncio.sleep(FORGET_SECONDS)
