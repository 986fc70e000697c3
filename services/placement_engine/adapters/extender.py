"""kube-scheduler's extender: a cluster that keeps its default scheduler asks Berth about its pods.

    POST /filter      which of the offered nodes Berth would take now, and why not the others
    POST /prioritize  Berth's score of them, 0 to 10
    POST /preempt     the offered victims, less the nodes that would not do without them or where none may be stopped
    POST /bind        binds, and holds the devices until the fleet tells of the pod

filter, prioritize and preempt change nothing. A pool that another instance plans is answered 503, a request that is
none 400 with the field, the value and the remedy; a pod whose wishes cannot be understood is refused by every node,
with the same words: so they reach the pod.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from aiohttp import web
from prometheus_client import Histogram

from berth.auth import TRUSTED
from berth.errors import BerthError, InvalidInput
from berth.kubernetes import names
from berth.kubernetes.client import Kubernetes, KubernetesError, Object, Unanswered
from berth.v1 import jobs_pb2
from placement_engine.adapters import translate
from placement_engine.adapters.extender_listener import listening
from placement_engine.adapters.extender_wire import (
    Binding,
    Preemption,
    Victim,
    binding_answer,
    filter_answer,
    preemption_answer,
    priorities_answer,
    read_binding,
    read_offer,
    read_preemption,
)
from placement_engine.domain.engine import Engine
from placement_engine.domain.model import Claim, Job, Reason
from placement_engine.domain.survey import Survey, same_everywhere
from placement_engine.handlers import Admission
from placement_engine.planner import Planner
from placement_engine.settings import EngineSettings
from placement_engine.world import World

__all__ = ["Extender"]

log = structlog.get_logger(__name__)

LARGEST_BODY = 256 << 20
HOLD_SECONDS = 30.0
"""How long a bound pod's devices are held for it at most: by then the fleet has told of it."""
HOLD_WITHOUT_DEVICES_SECONDS = 5.0
"""The same for a pod without devices, whose own name the fleet does not tell."""
READ_BACKS, READ_BACK_SECONDS = 3, 0.5
ANSWERS = Histogram("berth_extender_seconds", "Time to answer kube-scheduler.", ["verb", "status"])

JobOfPod = Callable[[Object], jobs_pb2.JobSpec]


class _Standby(Exception):
    """Another instance plans the pool."""


class _NoPod(InvalidInput):
    """What was sent as a Pod has other types than the API's."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A pod that was bound here and that the fleet may not tell of yet."""

    engine: Engine
    pod: str
    """ "<namespace>/<name>"."""
    node: str
    until: float
    devices: bool
    takes: "_Amounts"
    told_at: "_Amounts"
    """What others have of the node once this pod, and those bound before it, are among them."""


@dataclass(frozen=True, slots=True)
class _Amounts:
    pods: int = 0
    cpu_milli: int = 0
    memory_bytes: int = 0

    def __add__(self, other: "_Amounts") -> "_Amounts":
        return _Amounts(
            self.pods + other.pods, self.cpu_milli + other.cpu_milli, self.memory_bytes + other.memory_bytes
        )

    def reaches(self, other: "_Amounts") -> bool:
        return self.pods >= other.pods and self.cpu_milli >= other.cpu_milli and self.memory_bytes >= other.memory_bytes


class Extender:
    """`job_of_uid`: the job whose pod has that uid, "" where none of Berth's own has."""

    def __init__(
        self,
        *,
        planners: Mapping[str, Planner],
        admission: Admission,
        world: World,
        job_of_pod: JobOfPod,
        kubernetes: Kubernetes | None = None,
        job_of_uid: Callable[[str], str] = lambda _uid: "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._planners = planners
        self._admission = admission
        self._world = world
        self._job_of_pod = job_of_pod
        self._kubernetes = kubernetes
        self._job_of_uid = job_of_uid
        self._clock = clock
        self._held: dict[str, _Held] = {}

    # --- serving ---

    def application(self) -> web.Application:
        made = web.Application(client_max_size=LARGEST_BODY, middlewares=[_measured])
        made.add_routes(
            [
                web.post("/filter", self._filter),
                web.post("/prioritize", self._prioritize),
                web.post("/preempt", self._preempt),
                web.post("/bind", self._bind),
            ]
        )
        return made

    @asynccontextmanager
    async def served(self, settings: EngineSettings) -> AsyncIterator[None]:
        async with listening(self.application(), settings):
            yield

    async def run(self) -> None:
        """Until cancelled: lets go of what was held for pods that the fleet tells of by now."""
        while True:
            await asyncio.sleep(1.0)
            self.let_go()

    # --- asking ---

    async def _filter(self, request: web.Request) -> web.Response:
        offer = read_offer(await request.read())
        return web.json_response(filter_answer(offer, self._survey(offer.pod, offer.nodes)))

    async def _prioritize(self, request: web.Request) -> web.Response:
        offer = read_offer(await request.read())
        return web.json_response(priorities_answer(offer, self._survey(offer.pod, offer.nodes)))

    async def _preempt(self, request: web.Request) -> web.Response:
        asked = read_preemption(await request.read())
        survey = self._survey(asked.pod, tuple(asked.victims))
        lasting = {node: one.reason.message for node, one in survey.refusals.items() if not one.curable}
        return web.json_response(preemption_answer(asked, lasting | self._protected(asked)))

    def _survey(self, pod: Object, nodes: tuple[str, ...]) -> Survey:
        try:
            job, engine = self._job(pod)
        except _NoPod:
            raise
        except BerthError as error:
            reason = Reason("Pod", "POD_NOT_UNDERSTOOD", len(nodes), 0, str(error))
            return same_everywhere(nodes, reason, curable=False)
        return engine.survey(job, nodes, self._clock())

    def _job(self, pod: Object) -> tuple[Job, Engine]:
        """The pod as a job of its pool. Raises BerthError for wishes that are none."""
        try:
            spec = self._job_of_pod(pod)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            shown = str(pod["metadata"].get("name", "without a name"))
            raise _NoPod.of("Pod", shown, f"is none ({error}): send it as the API server has it") from error
        spec = self._admission.admit(spec, TRUSTED)
        planner = self._planners[spec.pool]
        if not planner.active:
            raise _Standby(f"pool {spec.pool!r} is planned by another instance; ask that one")
        metadata = pod["metadata"]
        job_id = f"extender-{metadata.get('uid') or metadata.get('name', '')}"
        now = self._clock()
        return translate.job_from_spec(spec, job_id=job_id, submitted_at=now, attempt=1), planner.engine

    def _protected(self, asked: Preemption) -> dict[str, str]:
        """Nodes with a victim of Berth's own whose job may not be stopped."""
        found: dict[str, str] = {}
        for node, victims in asked.victims.items():
            for victim in victims:
                job_id = self._job_of(victim)
                for planner in self._planners.values() if job_id else ():
                    claim = planner.engine.holds(job_id)
                    if claim is not None and not claim.job.preemptible:
                        found[node] = f"job {claim.job.name or job_id} there is not preemptible"
        return found

    def _job_of(self, victim: Victim) -> str:
        annotations = (victim.pod or {}).get("metadata", {}).get("annotations") or {}
        return str(annotations.get(names.JOB, "")) or self._job_of_uid(victim.uid)

    # --- binding ---

    async def _bind(self, request: web.Request) -> web.Response:
        asked = read_binding(await request.read())
        error = await self._bound(asked)
        if error:
            log.warning("pod is not bound", pod=f"{asked.namespace}/{asked.name}", node=asked.node, reason=error)
        return web.json_response(binding_answer(error))

    async def _bound(self, asked: Binding) -> str:
        """Binds; "" once that is sure, else why it is not."""
        client = self._kubernetes
        if client is None:
            return "berth: BERTH_KUBERNETES is not set: set it to true, or leave bindVerb out"
        path = f"/api/v1/namespaces/{asked.namespace}/pods/{asked.name}"
        try:
            pod = await client.get(path)
        except (KubernetesError, Unanswered) as error:
            return f"berth: the pod could not be read: {error}"
        if (said := _whose(pod, asked)) is not None:
            return said
        # 1. Intent: what the pod takes is held from here on, in the same step in which it is found to fit.
        try:
            job, engine = self._job(pod)
        except BerthError as error:
            return f"berth: {error}"
        self._release(asked.uid)
        now = self._clock()
        member = engine.member_on(job, asked.node, now)
        if member is None:
            refusal = engine.survey(job, (asked.node,), now).refusals.get(asked.node)
            return f"berth: {asked.node}: {refusal.reason.message if refusal is not None else 'does not fit any more'}"
        engine.restore(Claim(job, (member,), placed_at=now, stoppable=False))
        takes = _Amounts(1, member.cpu_milli, member.memory_bytes)
        before = [held.takes for held in self._held.values() if held.node == asked.node]
        self._held[asked.uid] = _Held(
            engine,
            f"{asked.namespace}/{asked.name}",
            asked.node,
            until=now + (HOLD_SECONDS if member.devices else HOLD_WITHOUT_DEVICES_SECONDS),
            devices=bool(member.devices),
            takes=takes,
            told_at=sum(before, self._of_others(asked.node)) + takes,
        )
        # 2. The call.
        devices = ",".join(one.device_id for one in member.devices)
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {
                "name": asked.name,
                "namespace": asked.namespace,
                "uid": asked.uid,
                **({"annotations": {names.DEVICES: devices}} if devices else {}),
            },
            "target": {"apiVersion": "v1", "kind": "Node", "name": asked.node},
        }
        try:
            await client.post(f"{path}/binding", binding)
        except KubernetesError as error:
            self._release(asked.uid)
            return f"berth: {error}"
        except Unanswered as error:
            # 3. Unknown until it is read back.
            return await self._read_back(client, path, asked, error)
        return ""

    async def _read_back(self, client: Kubernetes, path: str, asked: Binding, doubt: Unanswered) -> str:
        for _ in range(READ_BACKS):
            try:
                said = _whose(await client.get(path), asked)
            except KubernetesError as error:
                self._release(asked.uid)
                return f"berth: {error}"
            except Unanswered:
                await asyncio.sleep(READ_BACK_SECONDS)
                continue
            if said is not None:
                if said:
                    self._release(asked.uid)
                return said
            break
        # It may still be carried out: what is held stays held for its while.
        return f"berth: whether it is bound is not known: {doubt}"

    def _release(self, uid: str) -> None:
        held = self._held.pop(uid, None)
        if held is not None:
            held.engine.release(f"extender-{uid}")

    def let_go(self) -> None:
        now = self._clock()
        for uid, held in list(self._held.items()):
            node = self._world.nodes.get(held.node)
            if held.devices:
                told = node is not None and any(device.held_by == held.pod for device in node.devices)
            else:
                told = self._of_others(held.node).reaches(held.told_at)
            if told or now >= held.until:
                self._release(uid)

    def _of_others(self, node: str) -> _Amounts:
        """What pods that Berth did not place have of it, those bound here included, as the fleet tells."""
        record = self._world.nodes.get(node)
        if record is None:
            return _Amounts()
        return _Amounts(record.pods_elsewhere, record.cpu_milli_elsewhere, record.memory_bytes_elsewhere)


def _whose(pod: Object, asked: Binding) -> str | None:
    """None: the pod is still to be bound; "": it is, as asked; else why it cannot be."""
    if pod["metadata"].get("uid") != asked.uid:
        return f"berth: pod {asked.namespace}/{asked.name} is another one by now"
    node = pod.get("spec", {}).get("nodeName") or ""
    if not node:
        return None
    return "" if node == asked.node else f"berth: the pod is bound to {node} already"


@web.middleware
async def _measured(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Errors become statuses with one line of text; every answer is counted."""
    started = time.perf_counter()
    status = 500
    try:
        try:
            answer = await handler(request)
        except InvalidInput as error:
            answer = web.Response(status=400, text=f"{error}\n")
        except _Standby as error:
            answer = web.Response(status=503, text=f"{error}\n")
        except web.HTTPRequestEntityTooLarge:
            text = f"body: larger than {LARGEST_BODY} bytes: set nodeCacheCapable: true in the extender's settings\n"
            answer = web.Response(status=413, text=text)
        status = answer.status
        return answer
    except web.HTTPException as error:
        status = error.status
        raise
    finally:
        verb = request.path.strip("/") if request.match_info.http_exception is None else "other"
        ANSWERS.labels(verb, status).observe(time.perf_counter() - started)
