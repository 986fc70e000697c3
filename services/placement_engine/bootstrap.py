"""The one place where the placement engine is put together."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

import structlog
from prometheus_client import Gauge

from berth import topics
from berth.auth import Authenticator
from berth.grpc import GrpcServer
from berth.kafka import KafkaBus
from berth.outbox import OutboxRelay
from berth.postgres import TRANSIENT, Database
from berth.service import App, authority_key
from berth.settings import ServiceSettings
from berth.v1 import jobs_pb2
from berth.v1.placement_pb2_grpc import add_PlacementServiceServicer_to_server
from placement_engine.adapters import fleet_store, translate
from placement_engine.adapters.cluster import beside_other_schedulers
from placement_engine.adapters.grpc_placement import PlacementServicer
from placement_engine.adapters.own_resources import own_resources
from placement_engine.adapters.watch import JobNews
from placement_engine.declaring import Declaring
from placement_engine.domain.job_state import Retry
from placement_engine.domain.policy import Policy, UnknownPolicy
from placement_engine.domain.readouts import MatchingCapacity
from placement_engine.handlers import Admission, Cancellation, Outcomes
from placement_engine.planner import Planner
from placement_engine.policies import service_policy
from placement_engine.settings import EngineSettings
from placement_engine.world import World

__all__ = ["SCHEMA", "build"]

log = structlog.get_logger(__name__)

SCHEMA = "engine"
GROUP = "berth-placement-engine"
VIOLATIONS = Gauge("berth_invariant_violations", "Broken invariants that the last audit found.")


class Pools:
    """A planner for each pool of the database; queues and pools are read again now and then."""

    def __init__(self, settings: EngineSettings, database: Database, world: World, relay: OutboxRelay) -> None:
        self._settings = settings
        self._database = database
        self._world = world
        self._relay = relay
        self._policy = service_policy(settings.policy, Policy(unknown_heat=UnknownPolicy(settings.unknown_heat)))
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._name = settings.instance or f"{socket.gethostname()}-{os.getpid()}"
        self.planners: dict[str, Planner] = {}
        # What could ever match a shape changes with the fleet only.
        self._capacities: dict[tuple[str, str, bytes, bytes], MatchingCapacity] = {}
        self._capacity_of = -1

    async def refresh(self) -> None:
        async with self._database.pool.acquire() as connection:
            queues = await fleet_store.read_queues(connection)
            pools = await fleet_store.read_pools(connection)
        self._world.set_queues(queues)
        for pool in pools:
            if pool.name not in self.planners:
                planner = Planner(
                    pool.name,
                    settings=self._settings,
                    policy=self._policy,
                    database=self._database,
                    world=self._world,
                    name=self._name,
                    published=self._relay.wake,
                )
                self.planners[pool.name] = planner
                self._tasks[pool.name] = asyncio.create_task(planner.run(), name=f"planner {pool.name}")
        for planner in self.planners.values():
            planner.set_power_domains(pools)

    async def run(self) -> None:
        """Until cancelled; ends with the first planner that breaks."""
        try:
            while True:
                await asyncio.wait(self._tasks.values(), timeout=self._settings.reconcile_seconds,
                                   return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
                for task in self._tasks.values():
                    if task.done():
                        task.result()
                try:
                    await self.refresh()
                except TRANSIENT as error:
                    log.warning("queues and pools could not be read", error=repr(error))
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def changed(self, job_ids: Iterable[str]) -> None:
        ids = list(job_ids)
        for planner in self.planners.values():
            planner.changed(ids)

    def capacity(self, spec: jobs_pb2.JobSpec) -> MatchingCapacity | None:
        planner = self.planners.get(spec.pool)
        if planner is None or not self._settings.refuse_larger_than_pool:
            return None
        shape = (
            spec.pool,
            spec.executor,
            spec.resources.SerializeToString(deterministic=True),
            spec.accelerators.SerializeToString(deterministic=True),
        )
        if self._capacity_of != self._world.generation or len(self._capacities) > 10_000:
            self._capacity_of = self._world.generation
            self._capacities.clear()
        known = self._capacities.get(shape)
        if known is None:
            known = self._capacities[shape] = self._matching(planner, spec)
        return known

    def elsewhere(self, spec: jobs_pb2.JobSpec, refused: Collection[str]) -> bool:
        """Whether the job would fit on nodes that may take work and are none of `refused`, were all free."""
        planner = self.planners.get(spec.pool)
        if planner is None or spec.member_groups:
            return False
        away = {*refused, *(name for name, node in self._world.nodes.items() if not node.schedulable)}
        job = translate.job_from_spec(spec, job_id="", submitted_at=0.0, attempt=1)
        room = planner.engine.matching_capacity(job, away, where_it_may=True)
        return room.members >= (spec.min_replicas or spec.replicas)

    @staticmethod
    def _matching(planner: Planner, spec: jobs_pb2.JobSpec) -> MatchingCapacity:
        """Whatever the nodes' executors are now: they come and go, a server that is started again most of all."""
        job = translate.job_from_spec(spec, job_id="", submitted_at=0.0, attempt=1)
        return planner.engine.matching_capacity(replace(job, executor=""))


async def _audit_forever(database: Database, every: float) -> None:
    while True:
        await asyncio.sleep(every)
        try:
            async with database.pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
                found = (await fleet_store.audit(connection)).violations
        except TRANSIENT as error:
            log.warning("audit will be tried again", error=repr(error))
            continue
        VIOLATIONS.set(len(found))
        for violation in found:
            log.error("invariant broken", invariant=violation.invariant, subject=violation.subject,
                      message=violation.message)  # fmt: skip


@asynccontextmanager
async def build(given: ServiceSettings) -> AsyncIterator[App]:
    settings = given if isinstance(given, EngineSettings) else EngineSettings(**given.model_dump())
    dsn = settings.postgres_dsn.get_secret_value()
    database = await Database.open(dsn, SCHEMA, size=settings.postgres_pool)
    bus = KafkaBus(settings, "placement-engine")
    try:
        await database.migrate("berth", "placement_engine")
        authenticator = Authenticator(authority_key(settings))
        relay = OutboxRelay(database, settings.kafka_bootstrap)
        world = World()
        pools = Pools(settings, database, world, relay)
        await pools.refresh()
        admission = Admission(authenticator, lambda: world.queues, lambda: set(pools.planners), pools.capacity)
        outcomes = Outcomes(Retry(attempts=settings.bind_attempts), pools.elsewhere)
        news = JobNews(dsn, pools.changed)

        for topic, handle in (
            (topics.JOBS_SUBMITTED, admission.on_submitted),
            (topics.BINDINGS_SETTLED, outcomes.on_settled),
            (topics.JOBS_LIFECYCLE, outcomes.on_lifecycle),
        ):
            bus.consume(topic, group=GROUP, database=database, handle=handle, after_commit=relay.wake)
        bus.broadcast(topics.FLEET_NODES, world.on_nodes, from_beginning=True)
        bus.broadcast(topics.PROFILES_CHANGED, world.on_profiles, from_beginning=True)
        bus.broadcast(topics.TELEMETRY_DEVICES, world.on_telemetry, from_beginning=False)
        await bus.start()

        declaring = Declaring(database, world, pools.refresh, keeps=settings.kubernetes)
        servicer = PlacementServicer(
            database=database,
            world=world,
            planners=pools.planners,
            admission=admission,
            cancellation=Cancellation(),
            news=news,
            published=relay.wake,
            declaring=declaring,
        )
        server = GrpcServer(
            settings.grpc_listen,
            authenticator,
            [(add_PlacementServiceServicer_to_server, servicer, "berth.v1.PlacementService")],
        )
        beside = beside_other_schedulers(settings, planners=pools.planners, admission=admission, world=world)
        resources = own_resources(settings, declaring=declaring, world=world, planners=pools.planners)
        async with beside as tasks, resources as keeping:
            yield App(
                tasks={
                    "outbox": relay.run,
                    "pools": pools.run,
                    "news": news.run,
                    "audit": lambda: _audit_forever(database, settings.audit_seconds),
                    **tasks,
                    **keeping,
                },
                not_ready=database.not_ready,
                grpc=server,
            )
    finally:
        await bus.stop()
        await database.close()
