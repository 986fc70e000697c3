"""What the engine keeps of a cluster: its Queues and Pools, and taints of the devices that it has something against."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from berth.kubernetes.client import Kubernetes
from placement_engine.adapters.device_taints import DeviceTaints
from placement_engine.adapters.object_keeper import ObjectKeeper
from placement_engine.declaring import Declaring
from placement_engine.planner import Planner
from placement_engine.settings import EngineSettings
from placement_engine.world import World

__all__ = ["own_resources"]


@asynccontextmanager
async def own_resources(
    settings: EngineSettings, *, declaring: Declaring, world: World, planners: Mapping[str, Planner]
) -> AsyncIterator[dict[str, Callable[[], Awaitable[None]]]]:
    """Gives the tasks that are to run; none where the engine works without a cluster."""
    if not settings.kubernetes:
        yield {}
        return
    every = settings.reconcile_seconds
    async with await Kubernetes.connect(settings.kubeconfig) as client:
        keeper = ObjectKeeper(
            client,
            declaring=declaring,
            world=world,
            planners=planners,
            closing_seconds=2 * every,
            every_seconds=every,
        )
        taints = DeviceTaints(client, planners, fault_effect=settings.device_taint_effect, every_seconds=every)
        yield {"declared objects": keeper.run, "device taints": taints.run}
