"""What placement-engine does in a Kubernetes cluster, put together: it keeps the objects that declare queues and pools,
publishes verdicts on devices, and answers kube-scheduler and Kueue's checks."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from berth.kubernetes import names
from berth.kubernetes.client import Kubernetes, Object
from berth.kubernetes.devices import DeviceResources
from berth.kubernetes.informer import Informer
from berth.kubernetes.pod_jobs import job_of_pod
from berth.v1 import jobs_pb2
from placement_engine.adapters.admission_checks import AdmissionChecks
from placement_engine.adapters.device_taints import DeviceTaints
from placement_engine.adapters.extender import Extender
from placement_engine.adapters.object_keeper import ObjectKeeper
from placement_engine.declaring import Declaring
from placement_engine.handlers import Admission
from placement_engine.planner import Planner
from placement_engine.settings import EngineSettings
from placement_engine.world import World

__all__ = ["in_a_cluster"]

Tasks = dict[str, Callable[[], Awaitable[None]]]


@asynccontextmanager
async def in_a_cluster(
    settings: EngineSettings,
    *,
    planners: Mapping[str, Planner],
    admission: Admission,
    declaring: Declaring,
    world: World,
) -> AsyncIterator[Tasks]:
    """Gives the tasks that are to run; none where the settings ask for nothing of this."""
    tasks: Tasks = {}
    async with AsyncExitStack() as stack:
        client: Kubernetes | None = None
        if settings.kubernetes:
            client = await stack.enter_async_context(await Kubernetes.connect(settings.kubeconfig))
        resources = DeviceResources.read(settings.kubernetes_resources)

        def read(pod: Object) -> jobs_pb2.JobSpec:
            return job_of_pod(pod, resources)

        if client is not None:
            every = settings.reconcile_seconds
            keeper = ObjectKeeper(
                client,
                declaring=declaring,
                world=world,
                planners=planners,
                closing_seconds=2 * every,
                every_seconds=every,
            )
            taints = DeviceTaints(client, planners, fault_effect=settings.device_taint_effect, every_seconds=every)
            checks = AdmissionChecks(client, planners=planners, admission=admission, world=world, job_of_pod=read)
            tasks |= {"declared objects": keeper.run, "device taints": taints.run, "admission checks": checks.run}
        if settings.extender_listen:
            own = OwnPods()
            extender = Extender(
                planners=planners,
                admission=admission,
                world=world,
                job_of_pod=read,
                kubernetes=client,
                job_of_uid=own.job_of_uid,
            )
            await stack.enter_async_context(extender.served(settings))
            tasks["extender"] = extender.run
            if client is not None:
                selector = f"spec.schedulerName={names.SCHEDULER_NAME}"
                tasks["own pods"] = Informer(client, "/api/v1/pods", own.changed, field_selector=selector).run
        yield tasks


class OwnPods:
    """Which job each pod of Berth's own belongs to."""

    def __init__(self) -> None:
        self._jobs: dict[str, str] = {}

    def job_of_uid(self, uid: str) -> str:
        return self._jobs.get(uid, "")

    def changed(self, old: Object | None, new: Object | None) -> None:
        thing = new or old
        assert thing is not None
        metadata = thing["metadata"]
        job_id = (metadata.get("annotations") or {}).get(names.JOB, "") if new is not None else ""
        if job_id:
            self._jobs[metadata["uid"]] = job_id
        else:
            self._jobs.pop(metadata["uid"], None)
