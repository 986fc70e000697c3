"""The planner of one pool: takes it over, keeps the core in step with the database, and places jobs.

The database is the authority. The core is a picture of it: built at take-over, changed by the ids of jobs that
every transaction announces, and compared again and again by `reconcile`. A decision exists once its transaction
has committed under the pool's epoch; until then it is undone at any doubt.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import asyncpg
import structlog
from prometheus_client import Counter, Gauge, Histogram

from berth.observability import record_span
from berth.outbox import OutgoingRecord, append
from berth.postgres import TRANSIENT, Connection, Database
from berth.topics import PLACEMENTS_DECIDED, cloud_event_headers
from berth.v1 import binding_pb2, fleet_pb2, jobs_pb2, placement_pb2
from placement_engine.adapters import fleet_store, job_store, translate
from placement_engine.adapters.job_store import Placement, Superseded
from placement_engine.domain import model
from placement_engine.domain.engine import Engine
from placement_engine.domain.job_state import JobRow, JobState, is_over, preempt, refused_still
from placement_engine.domain.journal import Recorder
from placement_engine.domain.policy import Policy
from placement_engine.domain.victims import told_to
from placement_engine.settings import EngineSettings
from placement_engine.world import World

__all__ = ["Planner"]

log = structlog.get_logger(__name__)

CYCLE_SECONDS = Histogram("berth_cycle_seconds", "Time of one planning cycle that looked at jobs.", ["pool"])
DECISIONS = Counter("berth_decisions_total", "Decisions that are committed.", ["pool"])
PREEMPTIONS = Counter("berth_preemptions_total", "Jobs stopped for others.", ["pool", "kind"])
ADVICE = Counter("berth_advice_total", "Proposals and notices beyond placing jobs.", ["pool", "kind"])
WAITING = Gauge("berth_jobs_waiting", "Jobs that wait for devices.", ["pool"])


MOST_ADVICE = 1000


class Planner:
    """One pool. `wake` and `changed` are cheap and may be called from anywhere in the event loop."""

    def __init__(
        self,
        pool: str,
        *,
        settings: EngineSettings,
        policy: Policy,
        database: Database,
        world: World,
        name: str,
        published: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        if policy.resize_gangs:
            raise ValueError("a planner does not carry out changes of a gang's size: policy resize_gangs must be off")
        self.pool = pool
        self._settings = settings
        self._policy = policy
        self._database = database
        self._world = world
        self._name = name
        self._published = published
        self._clock = clock
        self._wake = asyncio.Event()
        self._changed: set[str] = set()
        self._rows: dict[str, JobRow] = {}
        self._advice: dict[tuple[str, str], tuple[float, model.Advice]] = {}
        self.engine: Engine = Recorder(policy, pool, limit=settings.journal_events)
        world.attach(self.engine)
        self.epoch: int | None = None

    @property
    def active(self) -> bool:
        return self.epoch is not None

    def wake(self) -> None:
        self._wake.set()

    def changed(self, job_ids: Iterable[str]) -> None:
        """These jobs may be in another state than the core thinks."""
        if self.active:
            self._changed.update(job_ids)
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled: waits for the pool, plans it, and starts again when it is lost."""
        try:
            while True:
                try:
                    await self._wait_for_pool()
                    await self._plan()
                except Superseded as error:
                    log.warning("pool was taken over by another planner", pool=self.pool, reason=str(error))
                except TRANSIENT as error:
                    log.warning("the database is away; the pool is read again", pool=self.pool, error=repr(error))
                    await asyncio.sleep(0.5)
                self.epoch = None
        finally:
            if self.epoch is not None:
                await asyncio.shield(self._hand_back(self.epoch))

    async def _hand_back(self, epoch: int) -> None:
        async with self._database.transaction() as connection:
            await fleet_store.hand_back(connection, self.pool, epoch)

    async def _wait_for_pool(self) -> None:
        while True:
            async with self._database.transaction() as connection:
                epoch = await fleet_store.take_over(
                    connection, self.pool, self._name, self._clock(), self._settings.planner_lease_seconds
                )
            if epoch is not None:
                break
            await asyncio.sleep(self._settings.planner_lease_seconds / 5)
        self._world.detach(self.engine)
        self.engine = Recorder(self._policy, self.pool, limit=self._settings.journal_events)
        self._changed.clear()
        self._rows.clear()
        self._advice.clear()
        async with self._database.transaction() as connection:
            for node in await fleet_store.read_nodes(connection, self.pool):
                self._world.add_node(node)
            pools = await fleet_store.read_pools(connection)
            usage = await fleet_store.read_usage(connection, self.pool)
            rows = await connection.fetch(
                f"SELECT {job_store.COLUMNS} FROM job WHERE pool = $1 AND state IN (1, 2, 3, 4, 8) ORDER BY job_id",
                self.pool,
            )
        self._world.attach(self.engine)
        self._world.unsaved.update(self._world.nodes)
        self.set_power_domains(pools)
        for row in rows:
            self._sync(job_store.job_row(row))
        self.engine.restore_usage(usage)
        # A full collection goes through all that a large fleet is, a quarter of a second at 10,000 nodes, and falls on
        # any cycle. What was just read stays: it is gone through once, now.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self.epoch = epoch
        log.info("pool taken over", pool=self.pool, epoch=epoch, open_jobs=len(rows))

    def set_power_domains(self, pools: Sequence[fleet_pb2.Pool]) -> None:
        for pool in pools:
            if pool.name == self.pool:
                self.engine.set_power_domains(
                    [model.PowerDomain(one.level, one.name, one.cap_watts) for one in pool.power_domains]
                )

    async def _plan(self) -> None:
        next_beat = next_reconcile = 0.0
        while True:
            now = self._clock()
            if now >= next_beat or next_beat - now > self._settings.planner_lease_seconds:
                next_beat = now + self._settings.planner_lease_seconds / 5
                await self._beat(now)
            if now >= next_reconcile or next_reconcile - now > 2 * self._settings.reconcile_seconds:
                next_reconcile = now + self._settings.reconcile_seconds
                await self._reconcile()
            self._wake.clear()
            if await self.cycle():
                await asyncio.sleep(0)
                continue
            try:
                await asyncio.wait_for(self._wake.wait(), self._settings.cycle_seconds)
            except TimeoutError:
                pass

    async def cycle(self) -> bool:
        """One cycle. True: there may be more to do at once."""
        started = self._clock()
        # 1. Drain: changed jobs into the core, the fleet into the ledger. What comes while it is saved is saved too:
        # the core sees it at once, and must not place on what the ledger does not guard.
        await self._drain_changed()
        while await self._save_fleet():
            pass
        # 2. Order, filter, score, reserve: the core.
        result = self.engine.cycle(started, self._settings.cycle_jobs)
        WAITING.labels(self.pool).set(self.engine.waiting())
        self._keep_advice(result.advice, started)
        if not result.decisions and not result.rejections and not result.preemptions:
            return bool(self._changed)
        # 3. Commit, under the epoch.
        try:
            taken = await self._commit(result, started)
        except BaseException:
            for decision in result.decisions:
                self.engine.undo(decision.job_id, decision.attempt)
            for one in result.preemptions:
                self.engine.undo_preemption(one.job_id, one.attempt)
            raise
        # 4. Publish: the outbox relays what was committed.
        self._published()
        CYCLE_SECONDS.labels(self.pool).observe(self._clock() - started)
        DECISIONS.labels(self.pool).inc(len(taken))
        return bool(result.decisions) or bool(self._changed)

    def _keep_advice(self, advice: Sequence[model.Advice], now: float) -> None:
        for one in advice:
            log.info("advice", pool=self.pool, kind=one.kind.value, subject=one.subject, message=one.message)
            ADVICE.labels(self.pool, one.kind.value).inc()
            self._advice.pop((one.kind.value, one.subject), None)
            self._advice[one.kind.value, one.subject] = (now, one)
        while len(self._advice) > MOST_ADVICE:
            del self._advice[next(iter(self._advice))]

    def advice(self) -> list[tuple[float, model.Advice]]:
        """What the engine advised and when, latest first: of a kind and subject only the latest."""
        return list(reversed(self._advice.values()))

    async def _beat(self, now: float) -> None:
        assert self.epoch is not None
        async with self._database.transaction() as connection:
            if not await fleet_store.heartbeat(connection, self.pool, self.epoch, now):
                raise Superseded(f"pool {self.pool!r} has another epoch than {self.epoch}")
            await fleet_store.save_usage(connection, self.pool, self.engine.usage_history())

    async def _save_fleet(self) -> bool:
        """False: there was nothing to save, and nothing was awaited."""
        mine = [node for node in self._world.unsaved.values() if (node.pool or "default") == self.pool]
        if not mine:
            return False
        async with self._database.transaction() as connection:
            assert self.epoch is not None
            await job_store.check_epoch(connection, self.pool, self.epoch)
            await fleet_store.save_nodes(connection, mine)
        for node in mine:
            if self._world.unsaved.get(node.name) is node:
                del self._world.unsaved[node.name]
        return True

    async def _drain_changed(self) -> None:
        if not self._changed:
            return
        ids, self._changed = sorted(self._changed), set()
        try:
            async with self._database.pool.acquire() as connection:
                rows = await job_store.read_jobs(connection, ids)
        except BaseException:
            self._changed.update(ids)
            raise
        for row in rows:
            if row.pool == self.pool:
                self._sync(row)

    def _sync(self, row: JobRow) -> None:
        """Makes the core see a job as the database has it."""
        if row.state is JobState.PENDING:
            known = self._rows.get(row.job_id)
            if known is not None and known.version >= row.version and self.engine.is_waiting(row.job_id):
                return
            self.engine.release(row.job_id, self._clock())
            self.engine.submit(translate.waiting_job(row, self._clock()))
            self._rows[row.job_id] = row
        elif is_over(row.state):
            self.engine.withdraw(row.job_id)
            self.engine.release(row.job_id, row.finished_at)
            self._rows.pop(row.job_id, None)
        else:
            self.engine.withdraw(row.job_id)
            held = self.engine.holds(row.job_id)
            if held is None or held.job.attempt != row.attempt:
                self.engine.restore(translate.held_claim(row))
            if row.state is JobState.RELEASING:
                self.engine.ending(row.job_id)
            elif row.started_at is not None:
                self.engine.started(row.job_id, row.attempt, row.started_at)
            self._rows[row.job_id] = replace(row, spec=b"", members=b"")

    async def _reconcile(self) -> None:
        """Level-triggered: whatever the core has otherwise than the database is read again."""
        async with self._database.pool.acquire() as connection:
            rows = await connection.fetch(
                "SELECT job_id, state, attempt, started_at FROM job WHERE pool = $1 AND state IN (1, 2, 3, 4, 8)",
                self.pool,
            )
        there = {row["job_id"]: row["state"] for row in rows}
        for job_id, state in there.items():
            waiting = state == JobState.PENDING
            if waiting != self.engine.is_waiting(job_id) or waiting == (self.engine.holds(job_id) is not None):
                self._changed.add(job_id)
        # A start changes no plan at once, so nobody is woken for it; protected and expected run times count from it.
        for row in rows:
            if row["state"] == JobState.RUNNING and row["started_at"] is not None:
                self.engine.started(row["job_id"], row["attempt"], row["started_at"])
        self._changed.update(job_id for job_id in self._rows if job_id not in there)
        self._forget_refusals(self._clock())

    def _forget_refusals(self, now: float) -> None:
        """Waiting jobs may go again where they were refused long ago."""
        for job_id, row in self._rows.items():
            if row.refused_nodes and not refused_still(row, now) and self.engine.is_waiting(job_id):
                self._rows[job_id] = replace(row, refused_nodes=())
                self.engine.submit(translate.waiting_job(row, now))

    # -- commit ----------------------------------------------------------------------------------

    async def _commit(self, result: model.CycleResult, started: float) -> set[str]:
        decisions = {one.job_id: one for one in result.decisions}
        missing = [job_id for job_id in decisions if not self._rows[job_id].spec]
        if missing:
            raise RuntimeError(f"the core placed jobs that do not wait: {missing[:3]}")
        now = self._clock()
        placements = [self._placement(one, now) for one in result.decisions]
        explanations = [
            (one.job_id, translate.explanation_of_rejection(one, now).SerializeToString()) for one in result.rejections
        ]
        records = {one.job_id: self._decided_record(one, now) for one in result.decisions}

        async def effect(connection: Connection) -> tuple[set[str], dict[str, JobRow]]:
            assert self.epoch is not None
            # Victims and placed jobs are locked together: rows are always locked in the order of their keys.
            victims = [one.job_id for one in result.preemptions]
            locked = await job_store.lock_jobs(connection, [*victims, *decisions]) if victims else {}
            taken = await job_store.commit_placements(
                connection, pool=self.pool, epoch=self.epoch, placements=placements, now=now
            )
            await job_store.save_explanations(connection, explanations)
            stopped = [
                preempt(locked[one.job_id], one.attempt, told_to(one))
                for one in result.preemptions
                if one.job_id in locked
            ]
            told = {row.job_id: row for row, release in stopped if release}
            await job_store.save_jobs(connection, list(told.values()))
            await append(
                connection,
                [
                    *(records[job_id] for job_id in decisions if job_id in taken),
                    *(released_outgoing(row, now) for row in told.values()),
                ],
            )
            return taken, told

        try:
            taken, told = await self._database.run(effect)
        except (asyncpg.CheckViolationError, asyncpg.UniqueViolationError, job_store.NotInLedger) as error:
            # The core's picture was wrong; the ledger's constraint held. All is read again.
            detail = getattr(error, "detail", "")
            log.error("ledger refused decisions", pool=self.pool, error=str(error), detail=detail)
            raise ConnectionError("the core is out of step with the ledger") from error
        done = self._clock()
        for job_id, decision in decisions.items():
            if job_id in taken:
                self._trace(job_id, decision, started, done)
                row = self._rows[job_id]
                self._rows[job_id] = replace(
                    row, state=JobState.PLACED, attempt=decision.attempt, version=row.version + 1, spec=b""
                )
            else:
                self.engine.undo(job_id, decision.attempt)
                self.engine.withdraw(job_id)
                self._changed.add(job_id)
        for one in result.preemptions:
            if one.job_id in told:
                self._rows[one.job_id] = replace(told[one.job_id], spec=b"", members=b"")
                PREEMPTIONS.labels(self.pool, one.kind.value).inc()
                log.info("job is stopped for another", job=one.job_id, for_job=one.for_job_id, kind=one.kind.value)
            else:
                self.engine.undo_preemption(one.job_id, one.attempt)
                self._changed.add(one.job_id)
        return taken

    def _placement(self, decision: model.Decision, now: float) -> Placement:
        row = self._rows[decision.job_id]
        record = placement_pb2.Decision(
            job_id=row.job_id,
            job_name=row.name,
            tenant=row.tenant,
            queue=row.queue,
            attempt=decision.attempt,
            epoch=self.epoch or 0,
            members=translate.members_to(decision.members),
        )
        record.decided_at.FromNanoseconds(int(now * 1e9))
        return Placement(
            job_id=row.job_id,
            version=row.version,
            attempt=decision.attempt,
            members=decision.members,
            record=record.SerializeToString(),
            explanation=translate.explanation_of_decision(decision, now).SerializeToString(),
            summary=decision.summary,
        )

    def _decided_record(self, decision: model.Decision, now: float) -> OutgoingRecord:
        row = self._rows[decision.job_id]
        spec = jobs_pb2.JobSpec.FromString(row.spec)
        executor = spec.executor or self._executor_of(decision)
        record = binding_pb2.PlacementDecided(
            job_id=row.job_id,
            attempt=decision.attempt,
            version=row.version + 1,
            epoch=self.epoch or 0,
            bind=binding_pb2.Bind(spec=spec, members=translate.members_to(decision.members), executor=executor),
        )
        record.decided_at.FromNanoseconds(int(now * 1e9))
        return decided_outgoing(record, row.traceparent)

    def _executor_of(self, decision: model.Decision) -> str:
        """A job without a wish runs by what its first node offers."""
        node = self._world.nodes.get(decision.members[0].node)
        offered = list(node.executors) if node is not None else []
        return "simulated" if "simulated" in offered or not offered else offered[0]

    def _trace(self, job_id: str, decision: model.Decision, started: float, done: float) -> None:
        row = self._rows[job_id]
        waited_from = row.accepted_at
        record_span(
            "queue wait", parent=row.traceparent, start=waited_from, end=started, attributes={"berth.queue": row.queue}
        )
        record_span(
            "plan",
            parent=row.traceparent,
            start=started,
            end=done,
            attributes={
                "berth.job": job_id,
                "berth.attempt": decision.attempt,
                "berth.node": decision.members[0].node,
                "berth.nodes_considered": decision.nodes_considered,
            },
        )


def released_outgoing(row: JobRow, now: float) -> OutgoingRecord:
    """Tells the binder to release what a job's attempt holds; the job's message is the reason."""
    record = binding_pb2.PlacementDecided(
        job_id=row.job_id,
        attempt=row.attempt,
        version=row.version,
        release=binding_pb2.Release(reason=row.message),
    )
    record.decided_at.FromNanoseconds(int(now * 1e9))
    return decided_outgoing(record, row.traceparent)


def decided_outgoing(record: binding_pb2.PlacementDecided, traceparent: str) -> OutgoingRecord:
    return OutgoingRecord(
        PLACEMENTS_DECIDED,
        record.job_id.encode(),
        record.SerializeToString(),
        cloud_event_headers(
            event_id=f"{record.job_id}.{record.attempt}.{record.version}",
            event_type="berth.v1.PlacementDecided",
            source="/berth/placement-engine",
            traceparent=traceparent,
        ),
    )
