"""What the engine does in a Kubernetes cluster that others schedule: it answers kube-scheduler, and Kueue's checks."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from berth.kubernetes import names
from berth.kubernetes.client import Kubernetes, Object
from berth.kubernetes.devices import DeviceResources
from berth.kubernetes.informer import Informer
from berth.kubernetes.pods.beside import job_beside
from berth.v1 import jobs_pb2
from placement_engine.adapters.admission_checks import AdmissionChecks
from placement_engine.adapters.extender import Extender
from placement_engine.handlers import Admission
from placement_engine.planner import Planner
from placement_engine.settings import EngineSettings
from placement_engine.world import World

__all__ = ["beside_other_schedulers"]

Tasks = dict[str, Callable[[], Awaitable[None]]]


@asynccontextmanager
async def beside_other_schedulers(
    settings: EngineSettings, *, planners: Mapping[str, Planner], admission: Admission, world: World
) -> AsyncIterator[Tasks]:
    """Gives the tasks that are to run; none where the settings ask for nothing of this."""
    tasks: Tasks = {}
    async with AsyncExitStack() as stack:
        client: Kubernetes | None = None
        if settings.kubernetes:
            client = await stack.enter_async_context(await Kubernetes.connect(settings.kubeconfig))
        resources = DeviceResources.read(settings.kubernetes_resources)

        def read(pod: Object) -> jobs_pb2.JobSpec:
            return job_beside(pod, resources)

        if client is not None:
            checks = AdmissionChecks(client, planners=planners, admission=admission, world=world, job_of_pod=read)
            tasks["admission checks"] = checks.run
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
