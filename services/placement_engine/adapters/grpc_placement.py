"""gRPC PlacementService. Jobs are read from the database on any instance; the fleet from the pool's planner."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

from berth.auth import current_principal
from berth.errors import BerthError, InvalidInput, NotFound
from berth.jobs import validate
from berth.postgres import Connection, Database
from berth.v1 import fleet_pb2, jobs_pb2, placement_pb2, placement_pb2_grpc
from placement_engine.adapters import fleet_store, job_store, translate
from placement_engine.adapters.queue_figures import with_usage
from placement_engine.adapters.watch import JobNews
from placement_engine.declaring import Declaring
from placement_engine.domain import model, snapshot
from placement_engine.domain.job_state import JobRow, JobState, is_over
from placement_engine.handlers import Admission, Cancellation, conflict
from placement_engine.planner import Planner
from placement_engine.simulation.clock import HOUR
from placement_engine.simulation.whatif.compare import compare
from placement_engine.world import World

__all__ = ["PlacementServicer"]

DEFAULT_WAIT_SECONDS = 30.0
CHUNK_BYTES = 1 << 20
WATCH_POLL_SECONDS = 5.0
PAGE_SIZE = 500
LARGEST_PAGE = 10_000


class PlacementServicer(placement_pb2_grpc.PlacementServiceServicer):
    """Errors are raised as `berth.errors`; the server turns them into statuses."""

    def __init__(
        self,
        *,
        database: Database,
        world: World,
        planners: Mapping[str, Planner],
        admission: Admission,
        cancellation: Cancellation,
        news: JobNews,
        published: Callable[[], None],
        declaring: Declaring,
    ) -> None:
        self._database = database
        self._world = world
        self._planners = planners
        self._admission = admission
        self._cancellation = cancellation
        self._news = news
        self._published = published
        self._declaring = declaring
        self._whatif = asyncio.Lock()

    # -- jobs ------------------------------------------------------------------------------------

    async def PlaceJob(self, request: placement_pb2.PlaceJobRequest, context: Any) -> placement_pb2.PlaceJobResponse:
        spec = self._admission.admit(request.spec, current_principal())
        if request.dry_run:
            return self._dry_run(spec)
        metadata = dict(context.invocation_metadata() or ())
        submission = self._admission.submission(
            spec, traceparent=str(metadata.get("traceparent", "")), submitted_at=time.time()
        )
        with self._news.subscribe() as subscription:
            (answer,) = await self._database.run(lambda connection: self._admission.accept(connection, [submission]))
            if answer.conflict:
                raise conflict(submission, answer)
            row = await self._row(answer.job_id)
            if request.wait:
                remaining = context.time_remaining()
                until = time.monotonic() + (DEFAULT_WAIT_SECONDS if remaining is None else max(0.0, remaining - 0.2))
                while row.state is JobState.PENDING and (left := until - time.monotonic()) > 0:
                    ids = await subscription.next(min(left, 1.0))
                    if ids is None or row.job_id in ids:
                        row = await self._row(row.job_id)
        response = placement_pb2.PlaceJobResponse(job=translate.job_to(row), duplicate=answer.duplicate)
        if request.wait:
            response.explanation.CopyFrom(await self._explanation(row))
        return response

    def _dry_run(self, spec: jobs_pb2.JobSpec) -> placement_pb2.PlaceJobResponse:
        now = time.time()
        job = translate.job_from_spec(spec, job_id="dry-run", submitted_at=now, attempt=1)
        answer = self._planner(spec.pool).engine.dry_run(job, now)
        response = placement_pb2.PlaceJobResponse(job=jobs_pb2.Job(spec=spec))
        if isinstance(answer, model.Decision):
            response.job.members.extend(translate.members_to(answer.members))
            response.explanation.CopyFrom(translate.explanation_of_decision(answer, now))
        else:
            response.explanation.CopyFrom(translate.explanation_of_rejection(answer, now))
        response.job.state = response.explanation.state
        return response

    async def CancelJob(self, request: placement_pb2.CancelJobRequest, context: Any) -> placement_pb2.CancelJobResponse:
        row = await self._find(request.job, to_change=True)

        async def effect(connection: Connection) -> JobRow | None:
            return await self._cancellation.cancel(connection, row.job_id, request.reason)

        ended = await self._database.run(effect)
        self._published()
        return placement_pb2.CancelJobResponse(job=translate.job_to(ended or row))

    async def GetJob(self, request: placement_pb2.GetJobRequest, context: Any) -> placement_pb2.GetJobResponse:
        return placement_pb2.GetJobResponse(job=translate.job_to(await self._find(request.job)))

    async def ListJobs(self, request: placement_pb2.ListJobsRequest, context: Any) -> placement_pb2.ListJobsResponse:
        principal = current_principal()
        size = min(request.page_size or PAGE_SIZE, LARGEST_PAGE)
        if size < 0:
            raise InvalidInput.of("page_size", size, "write 0 for the default, or more")
        after_time, after_id = _page_start(request.page_token)
        if request.tenant:
            principal.require_tenant(request.tenant)
        tenants = (
            [request.tenant] if request.tenant else ([] if "*" in principal.tenants else sorted(principal.tenants))
        )
        if not tenants and "*" not in principal.tenants:
            return placement_pb2.ListJobsResponse()
        async with self._database.pool.acquire() as connection:
            rows = await connection.fetch(
                f"""SELECT {job_store.COLUMNS} FROM job
                    WHERE (accepted_at, job_id) > ($1, $2) AND (cardinality($3::text[]) = 0 OR tenant = ANY($3))
                      AND ($4 = '' OR queue = $4) AND (cardinality($5::int[]) = 0 OR state = ANY($5))
                    ORDER BY accepted_at, job_id LIMIT $6""",
                after_time,
                after_id,
                tenants,
                request.queue,
                [int(state) for state in request.states],
                size + 1,
            )
        jobs = [job_store.job_row(row) for row in rows[:size]]
        token = f"{jobs[-1].accepted_at!r}|{jobs[-1].job_id}" if len(rows) > size else ""
        return placement_pb2.ListJobsResponse(jobs=map(translate.job_to, jobs), next_page_token=token)

    async def WatchJobs(
        self, request: placement_pb2.WatchJobsRequest, context: Any
    ) -> AsyncIterator[placement_pb2.WatchJobsResponse]:
        principal = current_principal()
        seen: dict[str, int] = {}
        with self._news.subscribe() as subscription:
            # Whoever compares what it has with what is there does so once it knows that nothing is missed from here.
            await context.send_initial_metadata(())
            wanted = {(await self._find(name)).job_id for name in request.jobs}
            if request.send_initial:
                async with self._database.pool.acquire() as connection:
                    ids = sorted(wanted) or [row["job_id"] for row in await connection.fetch("SELECT job_id FROM job")]
            else:
                ids = []
            while True:
                async with self._database.pool.acquire() as connection:
                    rows = await job_store.read_jobs(connection, ids) if ids else []
                for row in sorted(rows, key=lambda one: one.accepted_at):
                    if (
                        seen.get(row.job_id, 0) < row.version
                        and principal.may_see(row.tenant)
                        and request.tenant in ("", row.tenant)
                        and request.queue in ("", row.queue)
                    ):
                        seen[row.job_id] = row.version
                        yield placement_pb2.WatchJobsResponse(job=translate.job_to(row))
                news = await subscription.next(WATCH_POLL_SECONDS)
                # Notices can be lost: named jobs are looked at again now and then.
                ids = sorted(wanted if news is None else (news & wanted if wanted else news))

    async def ExplainJob(
        self, request: placement_pb2.ExplainJobRequest, context: Any
    ) -> placement_pb2.ExplainJobResponse:
        row = await self._find(request.job)
        return placement_pb2.ExplainJobResponse(explanation=await self._explanation(row))

    async def _explanation(self, row: JobRow) -> placement_pb2.Explanation:
        planner = self._planners.get(row.pool)
        explanation = placement_pb2.Explanation(job_id=row.job_id)
        if row.state is JobState.PENDING and planner is not None and planner.active:
            now = time.time()
            rejection = planner.engine.explain(row.job_id, now)
            if rejection is not None:
                explanation = translate.explanation_of_rejection(rejection, now)
                if row.message:
                    explanation.summary += f" Last attempt: {row.message}"
                return explanation
        async with self._database.pool.acquire() as connection:
            record = await connection.fetchval("SELECT record FROM explanation WHERE job_id = $1", row.job_id)
        if record is not None:
            explanation.ParseFromString(record)
        explanation.state = int(row.state)  # type: ignore[assignment]
        if is_over(row.state) or not explanation.summary:
            explanation.summary = row.message or explanation.summary or "not looked at yet"
        elif planner is not None and planner.active:
            size = planner.engine.gang_size(row.job_id, time.time())
            if size is not None:
                explanation.summary += f"; {size.summary}"
        return explanation

    async def _row(self, job_id: str) -> JobRow:
        async with self._database.pool.acquire() as connection:
            (row,) = await job_store.read_jobs(connection, [job_id])
        return row

    async def _find(self, name: str, *, to_change: bool = False) -> JobRow:
        if not name:
            raise InvalidInput.of("job", name, "write a job's id, its name, or <tenant>/<name>")
        async with self._database.pool.acquire() as connection:
            found = await job_store.find_jobs(connection, [name])
        principal = current_principal()
        if not found or not (to_change or principal.may_see(found[0].tenant)):
            raise NotFound(f"job: {name!r}: no such job; `berth get jobs` lists them")
        if to_change:
            principal.require_tenant(found[0].tenant)
        return found[0]

    # -- fleet -----------------------------------------------------------------------------------

    def _planner(self, pool: str) -> Planner:
        planner = self._planners.get(pool)
        if planner is None:
            raise InvalidInput.of("pool", pool, f"unknown pool: use one of: {', '.join(sorted(self._planners))}")
        if not planner.active:
            raise Standby(f"pool {pool!r} is planned by another instance; ask that one")
        return planner

    async def ListNodes(self, request: placement_pb2.ListNodesRequest, context: Any) -> placement_pb2.ListNodesResponse:
        planners = [self._planner(request.pool)] if request.pool else [p for p in self._planners.values() if p.active]
        now = time.time()
        response = placement_pb2.ListNodesResponse()
        for planner in planners:
            for name in planner.engine.node_names():
                if request.names and name not in request.names:
                    continue
                view = planner.engine.node_view(name, now)
                if view is not None:
                    response.nodes.append(
                        translate.node_status(
                            view,
                            self._world.nodes.get(name, fleet_pb2.Node(name=name)),
                            with_devices=request.with_devices,
                        )
                    )
        missing = set(request.names) - {one.node.name for one in response.nodes}
        if missing:
            raise NotFound(f"node: {min(missing)!r}: no such node; `berth get nodes` lists them")
        return response

    async def ListQueues(
        self, request: placement_pb2.ListQueuesRequest, context: Any
    ) -> placement_pb2.ListQueuesResponse:
        queues = [queue for _, queue in sorted(self._world.queues.items())]
        return placement_pb2.ListQueuesResponse(queues=with_usage(queues, self._planners.values()))

    async def ApplyQueues(
        self, request: placement_pb2.ApplyQueuesRequest, context: Any
    ) -> placement_pb2.ApplyQueuesResponse:
        current_principal().require_role("admin")
        return placement_pb2.ApplyQueuesResponse(applied=await self._declaring.apply_queues(list(request.queues)))

    async def ListPools(self, request: placement_pb2.ListPoolsRequest, context: Any) -> placement_pb2.ListPoolsResponse:
        return placement_pb2.ListPoolsResponse(pools=await self._declaring.pools())

    async def ApplyPools(
        self, request: placement_pb2.ApplyPoolsRequest, context: Any
    ) -> placement_pb2.ApplyPoolsResponse:
        current_principal().require_role("admin")
        return placement_pb2.ApplyPoolsResponse(applied=await self._declaring.apply_pools(list(request.pools)))

    async def ListAdvice(
        self, request: placement_pb2.ListAdviceRequest, context: Any
    ) -> placement_pb2.ListAdviceResponse:
        planners = [self._planner(request.pool)] if request.pool else [p for p in self._planners.values() if p.active]
        found = [(at, one, planner.pool) for planner in planners for at, one in planner.advice()]
        found.sort(key=lambda one: -one[0])
        return placement_pb2.ListAdviceResponse(advice=[translate.advice_to(one, at, pool) for at, one, pool in found])

    async def DumpEngine(
        self, request: placement_pb2.DumpEngineRequest, context: Any
    ) -> AsyncIterator[placement_pb2.DumpEngineResponse]:
        current_principal().require_role("admin")
        write = snapshot.dump_later(self._planner(request.pool or "default").engine, time.time())
        content = await asyncio.to_thread(write)
        for start in range(0, len(content), CHUNK_BYTES):
            yield placement_pb2.DumpEngineResponse(chunk=content[start : start + CHUNK_BYTES])

    async def WhatIf(self, request: placement_pb2.WhatIfRequest, context: Any) -> placement_pb2.WhatIfResponse:
        current_principal().require_role("admin")
        if not 0 <= request.default_duration_seconds < float("inf"):
            raise InvalidInput.of("default_duration_seconds", request.default_duration_seconds, "write 0 for an hour")
        now = time.time()
        changes = translate.changes_from(request, [validate(spec) for spec in request.jobs], now)
        async with self._whatif:  # one at a time: it takes a core
            situation = self._planner(request.pool or "default").engine.situation(now)
            run = partial(compare, situation, changes, default_seconds=request.default_duration_seconds or HOUR)
            return translate.comparison_to(await asyncio.to_thread(run))

    async def ListDecisions(
        self, request: placement_pb2.ListDecisionsRequest, context: Any
    ) -> placement_pb2.ListDecisionsResponse:
        job_id = (await self._find(request.job)).job_id if request.job else ""
        principal = current_principal()
        async with self._database.pool.acquire() as connection:
            rows = await connection.fetch(
                """SELECT sequence, record FROM decision WHERE $1 = '' OR job_id = $1
                   ORDER BY sequence DESC LIMIT $2""",
                job_id,
                min(request.limit or 100, LARGEST_PAGE),
            )
        response = placement_pb2.ListDecisionsResponse()
        for row in rows:
            decision = placement_pb2.Decision.FromString(row["record"])
            decision.sequence = row["sequence"]
            if principal.may_see(decision.tenant):
                response.decisions.append(decision)
        return response

    async def Audit(self, request: placement_pb2.AuditRequest, context: Any) -> placement_pb2.AuditResponse:
        async with (
            self._database.pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            return await fleet_store.audit(connection)


class Standby(BerthError):
    """This instance does not plan the pool."""

    code = "UNAVAILABLE"


def _page_start(token: str) -> tuple[float, str]:
    moment, _, job_id = token.partition("|")
    try:
        return (float(moment) if moment else float("-inf")), job_id
    except ValueError as error:
        raise InvalidInput.of("page_token", token, "use the next_page_token of the page before") from error
