"""Keeps queues and pools as the objects of the cluster declare them, and tells in their status how they stand.

Level-triggered: a round compares all objects with what is in force, whatever woke it. Only the instance that plans the
default pool writes, each transaction under that pool's epoch. What a spec gets wrong stands in its condition Ready;
what was in force before stays in force. A Queue that is deleted goes once nothing is left in it (finalizer).
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from berth.errors import InvalidInput
from berth.kubernetes.client import Kubernetes, KubernetesError, Object, Unanswered
from berth.kubernetes.custom_resources import POOLS, QUEUES, StatusWriter, in_object_terms, ready_condition
from berth.kubernetes.informer import Informer
from berth.kubernetes.names import DOMAIN
from berth.postgres import TRANSIENT, Connection
from berth.v1 import fleet_pb2
from placement_engine.adapters import job_store
from placement_engine.adapters.declared_objects import parents_first, pool_of, queue_of, queue_status
from placement_engine.adapters.job_store import Superseded
from placement_engine.adapters.queue_figures import with_usage
from placement_engine.declaring import DEFAULT_QUEUE, Declaring, Guard, QueueUse
from placement_engine.planner import Planner
from placement_engine.world import World

__all__ = ["ObjectKeeper"]

log = structlog.get_logger(__name__)

FINALIZER = f"{DOMAIN}/queue"
LEADING_POOL = "default"
"""It is always there: whoever plans it keeps the objects."""
IN_FORCE = "in force"
STAYS = "what was declared before stays in force"


class ObjectKeeper:
    """`closing_seconds`: how long a queue that is deleted takes no jobs before it is looked whether it is empty; longer
    than other instances take to learn of it."""

    def __init__(
        self,
        client: Kubernetes,
        *,
        declaring: Declaring,
        world: World,
        planners: Mapping[str, Planner],
        closing_seconds: float,
        every_seconds: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._declaring = declaring
        self._world = world
        self._planners = planners
        self._closing_seconds = closing_seconds
        self._every = every_seconds
        self._monotonic = monotonic
        self._wake = asyncio.Event()
        self._statuses = StatusWriter(client, every_seconds=every_seconds)
        self._closed_at: dict[str, float] = {}
        self._counted: tuple[int, dict[str, tuple[int, int]]] = (-1, {})
        self.queues = Informer(client, QUEUES, self._changed, optional=True)
        self.pools = Informer(client, POOLS, self._changed, optional=True)

    def _changed(self, old: Object | None, new: Object | None) -> None:
        if (old or {}).get("metadata", {}).get("generation") != (new or {}).get("metadata", {}).get("generation"):
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.queues.run())
            tasks.create_task(self.pools.run())
            tasks.create_task(self._rounds())

    async def _rounds(self) -> None:
        await self.queues.synced.wait()
        await self.pools.synced.wait()
        while True:
            self._wake.clear()
            try:
                await self.round()
            except Superseded:
                log.info("another instance keeps the cluster's queues and pools now")
            except (Unanswered, KubernetesError) as error:
                log.warning("queues and pools of the cluster will be looked at again", error=str(error))
            except TRANSIENT as error:
                log.warning("the database is away; queues and pools wait", error=repr(error))
            try:
                await asyncio.wait_for(self._wake.wait(), self._every / 2)
            except TimeoutError:
                pass

    async def round(self) -> None:
        """One look at everything."""
        leader = self._planners.get(LEADING_POOL)
        if leader is None or leader.epoch is None:
            return
        epoch = leader.epoch

        async def guard(connection: Connection) -> None:
            await job_store.check_epoch(connection, LEADING_POOL, epoch)

        self._statuses.begin()
        # 1. What is declared comes into force, as far as it can.
        stored_pools = {pool.name: pool for pool in await self._declaring.pools()}
        refused_pools = await self._apply_pools(stored_pools, guard)
        refused_queues = await self._apply_queues(guard)
        # 2. What is deleted goes, as soon as it can.
        leaving = await self._delete_queues(guard)
        # 3. What no object declares any longer is free for `berth apply`.
        await self._let_go(stored_pools.values(), guard)
        # 4. How it stands.
        await self._tell_queues(refused_queues, leaving)
        await self._tell_pools(refused_pools)

    # -- queues ----------------------------------------------------------------------------------

    async def _apply_queues(self, guard: Guard) -> dict[str, str]:
        """What is wrong with those that could not be applied."""
        refused: dict[str, str] = {}
        wanted: list[fleet_pb2.Queue] = []
        for name, thing in list(self.queues.objects.items()):
            if thing["metadata"].get("deletionTimestamp"):
                continue
            if not await self._holds_finalizer(thing):
                continue
            try:
                wanted.append(queue_of(thing))
            except InvalidInput as error:
                refused[name] = in_object_terms(error, "queue", name)
        for queue in parents_first(wanted):
            kept_by = _object_name(QUEUES, queue.name)
            try:
                self._declaring.check_queues([queue], kept_by=kept_by)
                if self._world.queues.get(queue.name) == queue:
                    continue
                await self._declaring.apply_queues([queue], kept_by=kept_by, guard=guard)
                log.info("queue is declared by the cluster", queue=queue.name)
            except InvalidInput as error:
                refused[queue.name] = in_object_terms(error, "queue", queue.name)
        return refused

    async def _holds_finalizer(self, thing: Object) -> bool:
        """Adds ours where it is missing; the next round goes on with the object."""
        metadata = thing["metadata"]
        finalizers = metadata.get("finalizers") or []
        if FINALIZER in finalizers:
            return True
        await self._set_finalizers(thing, [*finalizers, FINALIZER])
        self._wake.set()
        return False

    async def _set_finalizers(self, thing: Object, finalizers: Sequence[str]) -> None:
        metadata = thing["metadata"]
        # With the version: another's finalizer must not be lost.
        change = {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": list(finalizers)}}
        try:
            changed = await self._client.patch(f"{QUEUES}/{metadata['name']}", change)
        except KubernetesError as error:
            if not (error.not_found or error.conflict):
                raise
            return
        known = self.queues.objects.get(metadata["name"])
        if known is not None and known["metadata"].get("uid") == metadata.get("uid"):
            known["metadata"]["finalizers"] = changed["metadata"].get("finalizers", [])

    async def _delete_queues(self, guard: Guard) -> dict[str, QueueUse]:
        """What is left of those that are to go."""
        leaving: dict[str, QueueUse] = {}
        now = self._monotonic()
        for name, thing in list(self.queues.objects.items()):
            metadata = thing["metadata"]
            if not metadata.get("deletionTimestamp") or FINALIZER not in (metadata.get("finalizers") or []):
                continue
            queue = self._world.queues.get(name)
            ours = queue is not None and queue.kept_by == _object_name(QUEUES, name)
            use = QueueUse()
            if ours and name == DEFAULT_QUEUE:
                # It cannot go: it is again what it is without a declaration, and its jobs stay.
                await self._declaring.reset_queue(name, guard=guard)
            elif ours:
                await self._declaring.close_queue(name, guard=guard)
                if now - self._closed_at.setdefault(metadata["uid"], now) < self._closing_seconds:
                    leaving[name] = use
                    continue
                use = await self._declaring.delete_queue(name, guard=guard)
            if use.any:
                leaving[name] = use
                continue
            await self._set_finalizers(thing, [one for one in metadata["finalizers"] if one != FINALIZER])
            self._closed_at.pop(metadata["uid"], None)
            log.info("queue is deleted with its object", queue=name)
        return leaving

    async def _tell_queues(self, refused: Mapping[str, str], leaving: Mapping[str, QueueUse]) -> None:
        now = datetime.now(UTC)
        things = self.queues.objects
        known = [self._world.queues[name] for name in things if name in self._world.queues]
        usage = {queue.name: queue for queue in with_usage(known, self._planners.values())}
        for name, thing in self._statuses.longest_unwritten(QUEUES, things):
            if name in leaving:
                ready, reason, message = False, "Terminating", _why_it_stays(leaving[name])
            elif name in refused:
                stays = f"; {STAYS}" if _declared(usage.get(name)) else ""
                ready, reason, message = False, "Refused", refused[name] + stays
            elif name in usage and not thing["metadata"].get("deletionTimestamp"):
                ready, reason, message = True, "InForce", IN_FORCE
            else:
                continue
            status: dict[str, Any] = {
                "observedGeneration": thing["metadata"].get("generation", 0),
                "conditions": [ready_condition(thing, ready=ready, reason=reason, message=message, now=now)],
            }
            if name in usage:
                status |= queue_status(usage[name])
            await self._statuses.write(QUEUES, thing, status)

    # -- pools -----------------------------------------------------------------------------------

    async def _apply_pools(self, stored: Mapping[str, fleet_pb2.Pool], guard: Guard) -> dict[str, str]:
        refused: dict[str, str] = {}
        for name, thing in list(self.pools.objects.items()):
            if thing["metadata"].get("deletionTimestamp"):
                continue
            try:
                wanted = pool_of(thing)
                wanted.kept_by = _object_name(POOLS, name)
                known = stored.get(name)
                if known is not None and _same_pool(known, wanted):
                    continue
                await self._declaring.apply_pools([wanted], kept_by=wanted.kept_by, guard=guard)
                log.info("pool is declared by the cluster", pool=name)
            except InvalidInput as error:
                refused[name] = in_object_terms(error, "pool", name)
        return refused

    async def _tell_pools(self, refused: Mapping[str, str]) -> None:
        if not self.pools.objects:
            return
        now = datetime.now(UTC)
        stored = {pool.name: pool for pool in await self._declaring.pools()}
        sizes = self._sizes()
        for name, thing in self._statuses.longest_unwritten(POOLS, self.pools.objects):
            pool = stored.get(name)
            message = refused.get(name, IN_FORCE)
            if name in refused and pool is not None:
                message += f"; {STAYS}"
            condition = ready_condition(
                thing, ready=name not in refused, now=now, message=message,
                reason="Refused" if name in refused else "InForce",
            )  # fmt: skip
            nodes, devices = sizes.get(name, (0, 0))
            status: dict[str, Any] = {
                "observedGeneration": thing["metadata"].get("generation", 0),
                "conditions": [condition],
                "nodes": nodes,
                "devices": devices,
            }
            if pool is not None:
                status |= {"planner": pool.planner, "epoch": pool.epoch}
            await self._statuses.write(POOLS, thing, status)

    def _sizes(self) -> dict[str, tuple[int, int]]:
        """Pool to its nodes and its present devices; counted anew where the fleet changed."""
        generation, sizes = self._counted
        if generation != self._world.generation:
            sizes = {}
            for node in self._world.nodes.values():
                if not node.removed:
                    nodes, devices = sizes.get(node.pool or LEADING_POOL, (0, 0))
                    present = sum(device.present for device in node.devices)
                    sizes[node.pool or LEADING_POOL] = (nodes + 1, devices + present)
            self._counted = (self._world.generation, sizes)
        return sizes

    async def _let_go(self, pools: Iterable[fleet_pb2.Pool], guard: Guard) -> None:
        """Objects that went without us: a Pool, or a Queue whose finalizer somebody took."""
        lost_queues = []
        for queue in self._world.queues.values():
            if queue.kept_by and queue.name not in self.queues.objects:
                lost_queues.append(fleet_pb2.Queue.FromString(queue.SerializeToString()))
        lost_pools = [pool for pool in pools if pool.kept_by and pool.name not in self.pools.objects]
        if lost_queues or lost_pools:
            await self._declaring.let_go(lost_queues, lost_pools, guard=guard)
            log.info("no longer declared by the cluster", queues=[one.name for one in lost_queues],
                     pools=[one.name for one in lost_pools])  # fmt: skip


def _object_name(collection: str, name: str) -> str:
    return f"{collection.rpartition('/')[2]}.{DOMAIN}/{name}"


def _declared(queue: fleet_pb2.Queue | None) -> bool:
    return queue is not None and bool(queue.kept_by)


def _same_pool(known: fleet_pb2.Pool, wanted: fleet_pb2.Pool) -> bool:
    return known.kept_by == wanted.kept_by and list(known.power_domains) == list(wanted.power_domains)


def _why_it_stays(use: QueueUse) -> str:
    if not use.any:
        return "takes no new jobs, and goes in a moment"
    left = []
    if use.pending:
        left.append(f"{use.pending} jobs wait in it")
    if use.active:
        left.append(f"{use.active} jobs of it hold devices")
    if use.children:
        left.append(f"it is the parent of {', '.join(use.children)}")
    return f"takes no new jobs, and goes once nothing is left: {', '.join(left)}; cancel or delete them, or wait"
