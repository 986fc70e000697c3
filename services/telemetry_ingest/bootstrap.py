"""The one place where telemetry-ingest is put together."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from berth import catalogue
from berth.auth import Authenticator
from berth.grpc import GrpcServer
from berth.kafka import ensure_topics, make_producer
from berth.kubernetes.client import Kubernetes
from berth.kubernetes.devices import DeviceResources
from berth.outbox import OutboxRelay
from berth.postgres import TRANSIENT, Database
from berth.service import App, authority_key
from berth.settings import ServiceSettings
from berth.v1.telemetry_pb2_grpc import add_TelemetryServiceServicer_to_server
from telemetry_ingest.adapters.cluster import ClusterFleet
from telemetry_ingest.adapters.grpc_service import TelemetryService
from telemetry_ingest.adapters.publisher import TelemetryPublisher
from telemetry_ingest.adapters.scraper import Scraper
from telemetry_ingest.adapters.store import PostgresInventory
from telemetry_ingest.adapters.target_file import TargetFile
from telemetry_ingest.adapters.triton_health import TritonHealth
from telemetry_ingest.domain.board import Board
from telemetry_ingest.domain.inventory import Inventory
from telemetry_ingest.handlers import Clock, Ingest, KnownModel
from telemetry_ingest.settings import TelemetryIngestSettings

__all__ = ["SCHEMA", "build"]

log = structlog.get_logger(__name__)

SCHEMA = "ingest"


@asynccontextmanager
async def build(settings: ServiceSettings) -> AsyncIterator[App]:
    if not isinstance(settings, TelemetryIngestSettings):
        raise TypeError("telemetry-ingest needs TelemetryIngestSettings")
    async with AsyncExitStack() as stack:
        database = await Database.open(settings.postgres_dsn.get_secret_value(), SCHEMA, size=settings.postgres_pool)
        stack.push_async_callback(database.close)
        await database.migrate("berth", "telemetry_ingest")
        await ensure_topics(settings)
        relay = OutboxRelay(database, settings.kafka_bootstrap)
        store = PostgresInventory(database, relay)
        ingest = Ingest(
            inventory=Inventory(await store.load()),
            board=Board(keep_seconds=max(30.0, 3 * settings.scrape_interval_seconds)),
            store=store,
            clock=Clock(wall=time.time, monotonic=time.monotonic),
            resolve=known_model,
            targets_changed=lambda targets: scraper.set_targets(targets),
        )
        scraper = Scraper(
            ingest.on_page,
            ingest.on_scrape_failed,
            interval_seconds=settings.scrape_interval_seconds,
            timeout_seconds=settings.scrape_timeout_seconds,
            concurrency=settings.scrape_concurrency,
        )
        triton_health = TritonHealth(
            lambda: ingest.triton_servers,
            ingest.on_triton,
            interval_seconds=settings.scrape_interval_seconds,
            timeout_seconds=settings.scrape_timeout_seconds,
            concurrency=settings.scrape_concurrency,
        )
        publisher = TelemetryPublisher(
            lambda: make_producer(settings.kafka_bootstrap),
            drain=ingest.drain,
            undrain=ingest.board.undrain,
            run_id=uuid.uuid4().hex[:12],
            interval_seconds=settings.publish_interval_seconds,
        )
        tasks: dict[str, Callable[[], Awaitable[None]]] = {
            "outbox": relay.run,
            "scraper": scraper.run,
            "triton": triton_health.run,
            "publisher": publisher.run,
            "republish": lambda: _republish(store, settings.republish_seconds),
        }
        if settings.targets_file is not None:
            tasks["targets"] = TargetFile(settings.targets_file, ingest.on_targets).run
        if settings.kubernetes:
            client = await stack.enter_async_context(await Kubernetes.connect(settings.kubeconfig))
            resources = DeviceResources.read(settings.kubernetes_resources)
            tasks["cluster"] = ClusterFleet(
                client, resources, ingest, exporter_namespaces=settings.exporter_namespaces
            ).run
        server = GrpcServer(
            settings.grpc_listen,
            Authenticator(authority_key(settings)),
            [(add_TelemetryServiceServicer_to_server, TelemetryService(ingest), "berth.v1.TelemetryService")],
        )
        yield App(tasks=tasks, grpc=server)


def known_model(name: str) -> KnownModel | None:
    entry = catalogue.by_name(name) or catalogue.resolve(name)
    if entry is None:
        return None
    return KnownModel(
        entry.name, entry.device_class, entry.stack, entry.memory_bytes or 0, float(entry.tdp_watts or 0.0)
    )


async def _republish(store: PostgresInventory, seconds: float) -> None:
    while True:
        try:
            log.debug("inventory published again", nodes=await store.republish())
        except TRANSIENT as error:
            log.warning("inventory will be published again later", error=repr(error))
        await asyncio.sleep(seconds)
