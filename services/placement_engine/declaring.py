"""Queues and pools as they are declared: checked, stored, in force. One way for ApplyQueues, ApplyPools and the objects
of a Kubernetes cluster.

What a Kubernetes object declares (`kept_by`) only that object changes: see docs/adr/0024.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from berth import catalogue
from berth.errors import FieldError, InvalidInput
from berth.postgres import Connection, Database
from berth.v1 import fleet_pb2
from placement_engine.adapters import fleet_store
from placement_engine.adapters.fleet_store import QueueUse
from placement_engine.world import World

__all__ = ["DEFAULT_QUEUE", "Declaring", "Guard", "QueueUse"]

Output: TypeAlias = Literal["pending_jobs", "running_jobs", "devices_in_use", "share", "devices_borrowed", "quota_use"]
DEFAULT_QUEUE = "default"
"""It is there without being declared, and cannot go."""
MOST_DEVICES = 10_000_000

Guard = Callable[[Connection], Awaitable[None]]
"""Runs first in the transaction; raises where its caller may no longer write."""


async def _anybody(_connection: Connection) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Declaring:
    """`refresh` brings what is stored into force in this instance; others read it again by themselves.

    `keeps`: objects of a cluster are heeded; without it what they declared once is anybody's to change.
    """

    database: Database
    world: World
    refresh: Callable[[], Awaitable[Any]]
    keeps: bool = False

    async def apply_queues(
        self, queues: Sequence[fleet_pb2.Queue], *, kept_by: str = "", guard: Guard = _anybody
    ) -> int:
        """All of them or, with InvalidInput, none. `kept_by`: the object that says so."""
        self.check_queues(queues, kept_by=kept_by)

        async def effect(connection: Connection) -> None:
            await guard(connection)
            await fleet_store.save_queues(connection, queues)

        await self.database.run(effect)
        await self.refresh()
        return len(queues)

    def check_queues(self, queues: Sequence[fleet_pb2.Queue], *, kept_by: str = "") -> None:
        """Brings them to the form in which they are stored. Raises InvalidInput with every error."""
        merged = dict(self.world.queues)
        errors: list[FieldError] = []
        for queue in queues:
            errors.extend(self._kept("queue", queue.name, merged.get(queue.name), kept_by))
            errors.extend(_queue_errors(queue))
            queue.weight = queue.weight or 1.0
            queue.kept_by = kept_by
            queue.closing = False
            for field in OUTPUTS:
                queue.ClearField(field)
            merged[queue.name] = queue
        errors.extend(_parent_errors(queues, merged))
        if errors:
            raise InvalidInput(errors)

    async def apply_pools(self, pools: Sequence[fleet_pb2.Pool], *, kept_by: str = "", guard: Guard = _anybody) -> int:
        """All of them or, with InvalidInput, none."""
        known = {pool.name: pool for pool in await self.pools()}
        errors: list[FieldError] = []
        for pool in pools:
            errors.extend(self._kept("pool", pool.name, known.get(pool.name), kept_by))
            errors.extend(_pool_errors(pool))
            pool.kept_by = kept_by
        if errors:
            raise InvalidInput(errors)

        async def effect(connection: Connection) -> None:
            await guard(connection)
            for pool in pools:
                await fleet_store.save_pool(connection, pool)

        await self.database.run(effect)
        await self.refresh()
        return len(pools)

    async def pools(self) -> list[fleet_pb2.Pool]:
        async with self.database.pool.acquire() as connection:
            return await fleet_store.read_pools(connection)

    async def close_queue(self, name: str, *, guard: Guard = _anybody) -> None:
        """It takes no new jobs from now on; other instances learn of it with their next look at the queues."""
        queue = self.world.queues.get(name)
        if queue is None or queue.closing:
            return
        closed = fleet_pb2.Queue()
        closed.CopyFrom(queue)
        closed.closing = True

        async def effect(connection: Connection) -> None:
            await guard(connection)
            await fleet_store.save_queues(connection, [closed])

        await self.database.run(effect)
        await self.refresh()

    async def delete_queue(self, name: str, *, guard: Guard = _anybody) -> QueueUse:
        """Deletes it where nothing is left of it. What is left, else an empty use."""

        async def effect(connection: Connection) -> QueueUse:
            await guard(connection)
            use = await fleet_store.queue_use(connection, name)
            if not use.any:
                await fleet_store.delete_queue(connection, name)
            return use

        use = await self.database.run(effect)
        if not use.any:
            await self.refresh()
        return use

    async def reset_queue(self, name: str, *, guard: Guard = _anybody) -> None:
        """It is again what a queue is that nobody declared; its jobs stay."""

        async def effect(connection: Connection) -> None:
            await guard(connection)
            await fleet_store.delete_queue(connection, name)

        await self.database.run(effect)
        await self.refresh()

    async def let_go(
        self, queues: Sequence[fleet_pb2.Queue], pools: Sequence[fleet_pb2.Pool], *, guard: Guard = _anybody
    ) -> None:
        """Their objects are gone: they stay as they are, and `berth apply` may change them again."""
        for queue in queues:
            queue.kept_by, queue.closing = "", False
        for pool in pools:
            pool.kept_by = ""

        async def effect(connection: Connection) -> None:
            await guard(connection)
            await fleet_store.save_queues(connection, queues)
            for pool in pools:
                await fleet_store.save_pool(connection, pool)

        await self.database.run(effect)
        await self.refresh()

    def _kept(
        self, kind: str, name: str, known: fleet_pb2.Queue | fleet_pb2.Pool | None, kept_by: str
    ) -> list[FieldError]:
        if kept_by or not self.keeps or known is None or not known.kept_by:
            return []
        remedy = (
            f"is declared by the Kubernetes object {known.kept_by}: change it with kubectl, or delete it there first"
        )
        return [FieldError(f"{kind}[{name}]", name, remedy)]


OUTPUTS: tuple[Output, ...] = (
    "pending_jobs",
    "running_jobs",
    "devices_in_use",
    "share",
    "devices_borrowed",
    "quota_use",
)


def _queue_errors(queue: fleet_pb2.Queue) -> list[FieldError]:
    at = f"queue[{queue.name}]"
    errors = [] if queue.name else [FieldError("queue.name", "", "name the queue")]
    if not 0 <= queue.weight < math.inf:
        errors.append(FieldError(f"{at}.weight", str(queue.weight), "write a number above 0"))
    if queue.device_limit < 0:
        errors.append(FieldError(f"{at}.device_limit", str(queue.device_limit), "write 0 for no limit"))
    seen: set[str] = set()
    for position, quota in enumerate(queue.quotas):
        errors.extend(_quota_errors(f"{at}.quotas[{position}]", quota, seen))
    if not 0 <= queue.protected_seconds < math.inf:
        errors.append(FieldError(f"{at}.protected_seconds", str(queue.protected_seconds), "write 0 or more seconds"))
    return errors


def _quota_errors(at: str, quota: fleet_pb2.Quota, seen: set[str]) -> list[FieldError]:
    """Writes the catalogue's name into the quota."""
    errors = []
    if quota.accelerator and quota.accelerator not in catalogue.DEVICE_CLASSES:
        model = catalogue.resolve(quota.accelerator)
        if model is None:
            near = ", ".join(catalogue.nearest(quota.accelerator)) or ", ".join(catalogue.DEVICE_CLASSES)
            remedy = f"neither a model of the catalogue nor a class; near: {near}"
            errors.append(FieldError(f"{at}.accelerator", quota.accelerator, remedy))
        else:
            quota.accelerator = model.name
    if quota.accelerator in seen:
        errors.append(FieldError(f"{at}.accelerator", quota.accelerator, "one quota an accelerator: add them up"))
    seen.add(quota.accelerator)
    limits = [(name, getattr(quota, name)) for name in ("borrowing_limit", "lending_limit") if quota.HasField(name)]
    for name, value in (("devices", quota.devices), *limits):
        if not 0 <= value <= MOST_DEVICES:
            errors.append(FieldError(f"{at}.{name}", str(value), f"write devices from 0 to {MOST_DEVICES}"))
    return errors


def _parent_errors(queues: Sequence[fleet_pb2.Queue], merged: dict[str, fleet_pb2.Queue]) -> list[FieldError]:
    errors = []
    for queue in queues:
        seen, parent = {queue.name}, queue.parent
        while parent:
            if parent not in merged or parent in seen:
                what = "a loop of parents" if parent in seen else "unknown queue"
                errors.append(FieldError(f"queue[{queue.name}].parent", parent, f"{what}: name an existing one"))
                break
            seen.add(parent)
            parent = merged[parent].parent
    return errors


def _pool_errors(pool: fleet_pb2.Pool) -> list[FieldError]:
    errors = [] if pool.name else [FieldError("pool.name", "", "name the pool")]
    for domain in pool.power_domains:
        if not domain.cap_watts > 0:
            at = f"pool[{pool.name}].power_domains[{domain.name}].cap_watts"
            errors.append(FieldError(at, str(domain.cap_watts), "write watts above 0"))
    return errors
