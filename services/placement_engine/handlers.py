"""A message in, an effect out.

jobs.submitted, PlaceJob  -> Admission.accept    one function for both
CancelJob                 -> Cancellation.cancel
bindings.settled          -> Outcomes.on_settled
jobs.lifecycle            -> Outcomes.on_lifecycle
"""

import json
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.message import DecodeError

from berth import catalogue
from berth.auth import Authenticator, Principal
from berth.errors import BerthError, Conflict, FieldError, InvalidInput, PermissionDenied
from berth.jobs import parse_document, spec_digest, validate
from berth.kafka import DeadLetter, Record
from berth.observability import new_traceparent, parse_traceparent, record_span
from berth.outbox import append
from berth.postgres import Connection
from berth.topics import CLOUDEVENTS_JSON, JSON, PROTOBUF
from berth.v1 import fleet_pb2, jobs_pb2, placement_pb2
from placement_engine.adapters import job_store, translate
from placement_engine.adapters.job_store import Accepted, Submission
from placement_engine.domain.job_state import Event, EventKind, JobRow, JobState, Retry, advance, cancel, refused_still
from placement_engine.domain.readouts import MatchingCapacity
from placement_engine.planner import released_outgoing

__all__ = ["Admission", "Cancellation", "Outcomes"]

Queues = Callable[[], dict[str, fleet_pb2.Queue]]
Capacity = Callable[[jobs_pb2.JobSpec], MatchingCapacity | None]
Elsewhere = Callable[[jobs_pb2.JobSpec, Collection[str]], bool]


@dataclass(frozen=True, slots=True)
class Admission:
    """Checks what needs the system's state, and stores jobs. `capacity` gives None where it is not known yet."""

    authenticator: Authenticator
    queues: Queues
    pools: Callable[[], set[str]]
    capacity: Capacity
    clock: Callable[[], float] = time.time

    def admit(self, spec: jobs_pb2.JobSpec, principal: Principal) -> jobs_pb2.JobSpec:
        """The validated spec. Raises InvalidInput or PermissionDenied; nothing is stored."""
        spec = validate(spec)
        principal.require_tenant(spec.tenant)
        errors: list[FieldError] = []
        queue = self.queues().get(spec.queue)
        if queue is None:
            known = ", ".join(sorted(self.queues())) or "none"
            errors.append(FieldError("queue", spec.queue, f"unknown queue: use one of: {known}, or `berth apply` it"))
        elif queue.closing:
            errors.append(FieldError("queue", spec.queue, "is being deleted and takes no new jobs: use another"))
        elif queue.tenants and spec.tenant not in queue.tenants:
            raise PermissionDenied(
                f"queue: {spec.queue!r}: belongs to {', '.join(queue.tenants)}, not to tenant {spec.tenant!r}"
            )
        if spec.pool not in self.pools():
            errors.append(FieldError("pool", spec.pool, f"unknown pool: use one of: {', '.join(sorted(self.pools()))}"))
        errors.extend(_resolve_models("", spec.accelerators))
        for position, group in enumerate(spec.member_groups):
            errors.extend(_resolve_models(f"members[{position}].", group.accelerators))
        if spec.HasField("deadline") and spec.deadline.ToNanoseconds() / 1e9 <= self.clock():
            errors.append(
                FieldError("deadline", spec.deadline.ToJsonString(), "is in the past: write a later time, or none")
            )
        if not errors:
            errors.extend(self._larger_than_pool(spec))
        if errors:
            raise InvalidInput(errors)
        return spec

    def _larger_than_pool(self, spec: jobs_pb2.JobSpec) -> list[FieldError]:
        if spec.member_groups:
            return [error for one in _alone(spec) for error in self._larger_than_pool(one)]
        capacity = self.capacity(spec)
        fewest = spec.min_replicas or spec.replicas
        if capacity is None or capacity.pool_nodes == 0 or capacity.members >= fewest:
            return []
        each = spec.resources.devices or (spec.resources.device_milli / 1000)
        return [
            FieldError(
                "replicas",
                f"{fewest} x {each:g} devices",
                f"larger than pool {spec.pool!r}: of its {capacity.pool_devices} devices {capacity.devices} match, and "
                f"{capacity.members} of {fewest} members fit at once when all is free: ask for fewer or smaller "
                "members, or for other accelerators",
            )
        ]

    def submission(self, spec: jobs_pb2.JobSpec, *, traceparent: str, submitted_at: float) -> Submission:
        """What is stored of an admitted spec; starts the job's trace."""
        job_id = uuid.uuid4().hex[:20]
        now = self.clock()
        parent = traceparent if parse_traceparent(traceparent) else ""
        own = record_span(
            "accept",
            parent=parent,
            start=now,
            end=now,
            attributes={"berth.job": job_id, "berth.job_name": spec.name, "berth.tenant": spec.tenant},
        )
        return Submission(
            job_id=job_id,
            tenant=spec.tenant,
            name=spec.name,
            idempotency_key=spec.idempotency_key,
            digest=spec_digest(spec),
            spec=spec.SerializeToString(),
            queue=spec.queue,
            pool=spec.pool,
            traceparent=own or new_traceparent(),
            submitted_at=min(submitted_at, now) if submitted_at > 0 else now,
        )

    async def accept(self, connection: Connection, submissions: Sequence[Submission]) -> list[Accepted]:
        """In the caller's transaction. What it stores is durable once that has committed."""
        return await job_store.accept(connection, submissions, self.clock())

    async def on_submitted(self, connection: Connection, records: list[Record]) -> Sequence[DeadLetter]:
        """jobs.submitted. Protobuf, JSON, or a CloudEvent in structured mode."""
        dead: list[DeadLetter] = []
        submissions: list[tuple[Record, Submission]] = []
        for record in records:
            try:
                principal = self.authenticator.authenticate(record.header("authorization") or None)
                spec, traceparent = decode_submission(record)
                spec = self.admit(spec, principal)
            except BerthError as error:
                dead.append(DeadLetter(record, error.code, str(error)))
            else:
                submissions.append(
                    (record, self.submission(spec, traceparent=traceparent, submitted_at=record.timestamp))
                )
        answers = await self.accept(connection, [one for _, one in submissions])
        for (record, submission), answer in zip(submissions, answers, strict=True):
            if answer.conflict:
                dead.append(DeadLetter(record, Conflict.code, str(conflict(submission, answer))))
        return dead


def _resolve_models(where: str, selector: jobs_pb2.AcceleratorSelector) -> list[FieldError]:
    """Writes the catalogue's names into the selector."""
    errors = []
    for index, name in enumerate(selector.models):
        entry = catalogue.by_name(name)
        if entry is None:
            near = ", ".join(catalogue.nearest(name)) or "see `berth profiles accelerators`"
            errors.append(
                FieldError(f"{where}accelerators.models[{index}]", name, f"not in the catalogue: nearest: {near}")
            )
        else:
            selector.models[index] = entry.name
    return errors


def _alone(spec: jobs_pb2.JobSpec) -> list[jobs_pb2.JobSpec]:
    """Each group of a gang of several shapes as a job of its own."""
    found = []
    for group in spec.member_groups:
        one = jobs_pb2.JobSpec()
        one.CopyFrom(spec)
        del one.member_groups[:]
        one.replicas, one.min_replicas = group.replicas, group.min_replicas
        one.resources.CopyFrom(group.resources)
        if group.accelerators.ByteSize():
            one.accelerators.CopyFrom(group.accelerators)
        found.append(one)
    return found


def conflict(submission: Submission, answer: Accepted) -> Conflict:
    return Conflict(
        f"idempotency_key: {submission.idempotency_key!r}: stands for job {answer.job_id} with another payload; "
        "choose another name or key, or cancel that job and submit under a new name"
    )


def decode_submission(record: Record) -> tuple[jobs_pb2.JobSpec, str]:
    """The spec and the publisher's traceparent. Raises InvalidInput."""
    content_type = record.header("content-type").partition(";")[0].strip().lower()
    traceparent = record.header("traceparent")
    if content_type in (PROTOBUF, "application/x-protobuf"):
        try:
            return jobs_pb2.JobSpec.FromString(record.value), traceparent
        except DecodeError as error:
            raise InvalidInput.of(
                "value", f"{len(record.value)} bytes", f"no berth.v1.JobSpec ({error}): publish its protobuf encoding"
            ) from error
    if content_type in (JSON, CLOUDEVENTS_JSON, ""):
        try:
            document: Any = json.loads(record.value)
        except (ValueError, RecursionError) as error:
            raise InvalidInput.of("value", record.value[:60], f"broken JSON: {error}") from error
        if content_type == CLOUDEVENTS_JSON or (isinstance(document, dict) and "specversion" in document):
            if not isinstance(document, dict) or not isinstance(document.get("data"), dict):
                raise InvalidInput.of("data", type(document).__name__, "put the job into the event's `data`")
            traceparent = str(document.get("traceparent", traceparent))
            document = document["data"]
        return parse_document(document), traceparent
    raise InvalidInput.of("content-type", content_type, f"unknown: publish {PROTOBUF}, {JSON} or {CLOUDEVENTS_JSON}")


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What the binder tells: moves jobs, frees claims, wakes the planner. `elsewhere`: whether a job has room on nodes
    other than these."""

    retry: Retry
    elsewhere: Elsewhere = lambda spec, refused: False

    async def on_settled(self, connection: Connection, records: list[Record]) -> Sequence[DeadLetter]:
        return await self._apply(connection, records, translate.settled_event)

    async def on_lifecycle(self, connection: Connection, records: list[Record]) -> Sequence[DeadLetter]:
        return await self._apply(connection, records, translate.lifecycle_event)

    async def _apply(
        self, connection: Connection, records: list[Record], decode: Callable[[bytes], Event | None]
    ) -> Sequence[DeadLetter]:
        dead: list[DeadLetter] = []
        events: list[Event] = []
        for record in records:
            try:
                event = decode(record.value)
            except (DecodeError, ValueError) as error:
                dead.append(DeadLetter(record, "UNDECODABLE", str(error)))
                continue
            if event is not None:
                events.append(event)
        before = await job_store.lock_jobs(connection, [event.job_id for event in events])
        after = dict(before)
        freed: list[str] = []
        for event in events:
            row = after.get(event.job_id)
            if row is not None:
                moved, free = advance(row, _of_a_model(row, event), self.retry)
                after[event.job_id] = self._elsewhere(row, moved, event.at)
                if free:
                    freed.append(event.job_id)
        await job_store.free_claims(connection, freed)
        await job_store.save_jobs(connection, [row for job_id, row in after.items() if row is not before[job_id]])
        await job_store.notify(connection, job_store.PLAN_CHANNEL, sorted(set(freed)))
        return dead

    def _elsewhere(self, before: JobRow, after: JobRow, at: float) -> JobRow:
        """A model that was refused where it was placed is placed elsewhere, where there is room for it at all."""
        tried_again = after.state is JobState.PENDING and before.state is not JobState.PENDING and not before.requeue
        if not tried_again:
            return after
        spec = jobs_pb2.JobSpec.FromString(before.spec)
        if not spec.HasField("model"):
            return after
        decision = placement_pb2.Decision.FromString(before.members)
        refused = tuple(dict.fromkeys((*refused_still(before, at), *(member.node for member in decision.members))))
        return replace(after, refused_nodes=refused if self.elsewhere(spec, refused) else ())


def _of_a_model(row: JobRow, event: Event) -> Event:
    """A served model whose server is gone has lost nothing: it can be served again, elsewhere."""
    if event.kind is EventKind.FAILED and jobs_pb2.JobSpec.FromString(row.spec).HasField("model"):
        return replace(event, retryable=True)
    return event


@dataclass(frozen=True, slots=True)
class Cancellation:
    """Ends a job: at once while it waits, by a release through the binder once it is placed."""

    clock: Callable[[], float] = time.time

    async def cancel(self, connection: Connection, job_id: str, reason: str) -> JobRow | None:
        row = (await job_store.lock_jobs(connection, [job_id])).get(job_id)
        if row is None:
            return None
        now = self.clock()
        ended, release = cancel(row, now, reason or "cancelled")
        if ended is row:
            return row
        await job_store.save_jobs(connection, [ended])
        if release:
            await append(connection, [released_outgoing(ended, now)])
        if ended.state is JobState.CANCELLED:
            await job_store.notify(connection, job_store.PLAN_CHANNEL, [job_id])
        return ended
