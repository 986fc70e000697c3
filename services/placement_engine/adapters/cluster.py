"""What placement-engine does in a Kubernetes cluster, put together."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

from berth.kubernetes.client import Kubernetes
from placement_engine.adapters.device_taints import DeviceTaints
from placement_engine.adapters.object_keeper import ObjectKeeper
from placement_engine.declaring import Declaring
from placement_engine.planner import Planner
from placement_engine.settings import EngineSettings
from placement_engine.world import World

__all__ = ["kubernetes_tasks"]


async def kubernetes_tasks(
    settings: EngineSettings,
    stack: AsyncExitStack,
    *,
    declaring: Declaring,
    world: World,
    planners: Mapping[str, Planner],
) -> dict[str, Callable[[], Awaitable[None]]]:
    """Tasks of the service; none where it works without a cluster. The connection is closed with `stack`."""
    if not settings.kubernetes:
        return {}
    client = await stack.enter_async_context(await Kubernetes.connect(settings.kubeconfig))
    keeper = ObjectKeeper(
        client,
        declaring=declaring,
        world=world,
        planners=planners,
        closing_seconds=2 * settings.reconcile_seconds,
        every_seconds=settings.reconcile_seconds,
    )
    taints = DeviceTaints(
        client, planners, fault_effect=settings.device_taint_effect, every_seconds=settings.reconcile_seconds
    )
    return {"declared objects": keeper.run, "device taints": taints.run}
