"""The one place where the binder's parts are put together."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from berth import catalogue
from berth.auth import Authenticator
from berth.backends import registry
from berth.grpc import GrpcServer
from berth.kafka import KafkaBus
from berth.models.artefact_file import open_artefact
from berth.outbox import OutboxRelay
from berth.postgres import Connection, Database
from berth.service import App, authority_key
from berth.settings import ServiceSettings
from berth.topics import PLACEMENTS_DECIDED
from berth.v1.binding_pb2_grpc import add_BindingServiceServicer_to_server
from binder.adapters.cluster import Cluster, open_cluster
from binder.adapters.report_store import PostgresReports
from binder.adapters.rpc import BindingService
from binder.adapters.store import PostgresStore
from binder.adapters.wire import Undecodable, command_of
from binder.domain.executor import Executor, Reporting
from binder.domain.intake import Command
from binder.executors.kubernetes import KubernetesExecutor
from binder.executors.model_rules import ModelRules
from binder.executors.process import ProcessExecutor
from binder.executors.simulated import SimulatedExecutor
from binder.executors.triton import Times, TritonExecutor
from binder.executors.triton_copies import read_pages, read_servers
from binder.handlers import Intake
from binder.observing import Observer
from binder.pods.wiring import Pods, open_pods
from binder.settings import BinderSettings
from binder.worker import Pace, Worker

__all__ = ["EXECUTOR_TABLE", "GROUP", "SCHEMA", "build", "make_executors"]

log = structlog.get_logger(__name__)

SCHEMA = "binder"
GROUP = "berth-binder"


def _process(settings: BinderSettings, cluster: Cluster | None) -> Executor:
    return ProcessExecutor(
        settings.state_dir / "attempts",
        stack_of=_stack_of,
        only_nodes=settings.only_nodes,
        # Less than the worker waits, so that one slow gang does not make its whole batch unknown.
        bind_seconds=0.8 * settings.bind_timeout_seconds,
        barrier_seconds=settings.barrier_timeout_seconds,
        grace_seconds=settings.release_grace_seconds,
    )


def _simulated(settings: BinderSettings, cluster: Cluster | None) -> Executor:
    return SimulatedExecutor(speed=settings.simulation_speed, clock=time.time)


def _kubernetes(settings: BinderSettings, cluster: Cluster | None) -> Executor:
    assert cluster is not None, "the settings see to it"
    return KubernetesExecutor(
        cluster,
        requests=settings.kubernetes_requests,
        bind_seconds=0.8 * settings.bind_timeout_seconds,
        namespaces=frozenset() if "*" in settings.manifest_namespaces else frozenset(settings.manifest_namespaces),
    )


def _triton(settings: BinderSettings, cluster: Cluster | None) -> Executor:
    found = registry.backends(settings.backends, settings.state_dir)
    for problem in found.problems:
        log.warning("a backend is left out", problem=problem)
    return TritonExecutor(
        read_servers(settings.triton_servers),
        found.backends,
        rules=ModelRules(open_artefact, settings.folders_of_models, settings.takes_code),
        clock=time.time,
        times=Times(bind=0.8 * settings.bind_timeout_seconds, grace=settings.triton_grace_seconds),
        pages=read_pages(settings.triton_metrics),
    )


EXECUTOR_TABLE: Mapping[str, Callable[[BinderSettings, Cluster | None], Executor]] = {
    "process": _process,
    "simulated": _simulated,
    "kubernetes": _kubernetes,
    "triton": _triton,
}


def _stack_of(model: str) -> str:
    accelerator = catalogue.by_name(model)
    return accelerator.stack if accelerator is not None else ""


def make_executors(settings: BinderSettings, cluster: Cluster | None = None) -> dict[str, Executor]:
    return {name: EXECUTOR_TABLE[name](settings, cluster) for name in settings.executors}


@asynccontextmanager
async def build(settings: ServiceSettings) -> AsyncIterator[App]:
    assert isinstance(settings, BinderSettings)
    async with AsyncExitStack() as stack:
        cluster, pods = None, None
        if settings.kubernetes:
            cluster = await stack.enter_async_context(open_cluster(settings.kubeconfig))
            if settings.engine:
                pods = await stack.enter_async_context(
                    open_pods(settings, cluster.client, cluster.pods, cluster.claims)
                )
        yield await stack.enter_async_context(_build(settings, cluster, pods))


@asynccontextmanager
async def _build(settings: BinderSettings, cluster: Cluster | None, pods: Pods | None) -> AsyncIterator[App]:
    database = await Database.open(settings.postgres_dsn.get_secret_value(), SCHEMA, size=settings.postgres_pool)
    await database.migrate("berth", "binder")
    relay = OutboxRelay(database, settings.kafka_bootstrap)
    executors = make_executors(settings, cluster)
    reporting = frozenset(name for name, each in executors.items() if isinstance(each, Reporting))
    store = PostgresStore(database, reporting=reporting)
    observer = Observer(
        PostgresReports(database),
        executors,
        every_seconds=settings.report_seconds,
        clock=time.time,
        told=relay.wake,
    )

    def settled() -> None:
        relay.wake()
        observer.wake()

    worker = Worker(
        store,
        executors,
        pace=Pace(
            answer_seconds=settings.bind_timeout_seconds,
            reconcile_seconds=settings.reconcile_seconds,
            tries=settings.bind_tries,
        ),
        published=settled,
        last_look=observer.last_look,
        beside=[observer.run, *([pods.source.run] if pods is not None else [])],
    )

    async def apply(connection: Connection, commands: Sequence[Command]) -> None:
        await store.intake(connection, commands, executors.keys(), time.time())

    def committed() -> None:
        worker.wake()
        relay.wake()

    intake = Intake(command_of, Undecodable, apply)
    bus = KafkaBus(settings, "binder")
    bus.consume(
        PLACEMENTS_DECIDED,
        group=GROUP,
        database=database,
        handle=intake.placements_decided,
        after_commit=committed,
    )
    server = GrpcServer(
        settings.grpc_listen,
        Authenticator(authority_key(settings)),
        [
            (
                add_BindingServiceServicer_to_server,
                BindingService(store, executors),
                "berth.v1.BindingService",
            )
        ],
    )
    tasks: dict[str, Callable[[], Awaitable[None]]] = {"worker": worker.run, "relay": relay.run}
    if cluster is not None:
        tasks["cluster"] = cluster.run
    if pods is not None:
        tasks["pod groups"] = pods.run

    def not_ready() -> list[str]:
        return worker.not_ready() + (cluster.not_ready() if cluster is not None else [])

    try:
        await bus.start()
        yield App(tasks=tasks, not_ready=not_ready, grpc=server)
    finally:
        await bus.stop()
        await database.close()
