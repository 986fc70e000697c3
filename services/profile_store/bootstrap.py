"""The one place where profile-store is put together."""

import asyncio
import importlib.resources
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

import structlog

from berth import catalogue
from berth.auth import Authenticator
from berth.grpc import GrpcServer
from berth.kafka import KafkaBus, ensure_topics
from berth.kubernetes.client import Kubernetes
from berth.outbox import OutboxRelay
from berth.postgres import TRANSIENT, Database
from berth.service import App, authority_key
from berth.settings import ServiceSettings
from berth.topics import JOBS_LIFECYCLE, TELEMETRY_DEVICES
from berth.v1.profiles_pb2_grpc import add_ProfileServiceServicer_to_server
from profile_store.adapters.estimates import PostgresEstimates
from profile_store.adapters.grpc_service import ProfileService
from profile_store.adapters.postgres_profiles import PostgresProfiles
from profile_store.adapters.workload_profiles import WorkloadProfiles
from profile_store.handlers import ProfileStore
from profile_store.learner import Learner
from profile_store.renewal import Renewal
from profile_store.settings import ProfileStoreSettings

__all__ = ["GROUP", "SCHEMA", "build"]

log = structlog.get_logger(__name__)

SCHEMA = "profiles"
GROUP = "berth-profile-store"


@asynccontextmanager
async def build(settings: ServiceSettings) -> AsyncIterator[App]:
    if not isinstance(settings, ProfileStoreSettings):
        raise TypeError("profile-store needs ProfileStoreSettings")
    database = await Database.open(settings.postgres_dsn.get_secret_value(), SCHEMA, size=settings.postgres_pool)
    stack = AsyncExitStack()
    try:
        await database.migrate("berth", "profile_store")
        await ensure_topics(settings)
        relay = OutboxRelay(database, settings.kafka_bootstrap)
        store = ProfileStore(
            profiles=PostgresProfiles(database),
            catalogue=catalogue,
            now=lambda: datetime.now(UTC),
            announced=relay.wake,
            measured=lambda workloads: renewal.add(workloads),
        )
        renewal = Renewal(store.renew)
        await _seed(store, settings)
        tasks = {"outbox": relay.run, "renewal": renewal.run}
        if settings.republish:
            tasks["republish"] = lambda: _republish(store, settings.republish_seconds)
        if settings.kubernetes:
            client = await stack.enter_async_context(await Kubernetes.connect(settings.kubeconfig))
            tasks["workload profiles"] = WorkloadProfiles(client, store, now=lambda: datetime.now(UTC)).run
        estimates = PostgresEstimates(database)
        if settings.learn:
            learner = Learner(
                estimates=estimates, catalogue=catalogue, now=lambda: datetime.now(UTC), learnt=renewal.add
            )
            tasks["learning"] = learner.run
            bus = KafkaBus(settings, "profile-store")
            bus.broadcast(TELEMETRY_DEVICES, learner.on_telemetry, from_beginning=False)
            bus.consume(
                JOBS_LIFECYCLE, group=GROUP, database=database, handle=learner.on_lifecycle, after_commit=relay.wake
            )
            stack.push_async_callback(bus.stop)
            await bus.start()
        server = GrpcServer(
            settings.grpc_listen,
            Authenticator(authority_key(settings)),
            [(add_ProfileServiceServicer_to_server, ProfileService(store, estimates), "berth.v1.ProfileService")],
        )
        yield App(tasks=tasks, grpc=server)
    finally:
        await stack.aclose()
        await database.close()


async def _seed(store: ProfileStore, settings: ProfileStoreSettings) -> None:
    if settings.seed_demo:
        content = (importlib.resources.files("profile_store") / "seed.yaml").read_bytes()
        log.info("demo profiles", added=await store.seed(content, "declared for the demo"))
    if settings.seed_directory is not None:
        for path in sorted(settings.seed_directory.glob("*.yaml")):
            log.info("seed", file=path.name, added=await store.seed(path.read_bytes(), path.name))


async def _republish(store: ProfileStore, seconds: float) -> None:
    while True:
        try:
            log.debug("republished", profiles=await store.republish())
        except TRANSIENT as error:
            log.warning("profiles will be announced again later", error=repr(error))
        await asyncio.sleep(seconds)
