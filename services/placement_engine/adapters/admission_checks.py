"""Admission beside Kueue: whether and where a Workload that has its quota would fit now, by Berth's knowledge.

    Workload with our check Pending --job--> engine (dry run) --> Ready, with node selectors as podSetUpdates
                                                              --> Retry, with Berth's reasons; Kueue asks again
                                                              --> Rejected: it is not understood, or never fits

An answer is written by server-side apply with the Workload's uid and resource version: what changed meanwhile is a
conflict, and is looked at again. Without a clear answer nothing is assumed: the check is Pending still, or is not.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog
from prometheus_client import Counter

from berth.auth import TRUSTED
from berth.errors import BerthError, InvalidInput
from berth.kubernetes import names
from berth.kubernetes.client import Kubernetes, KubernetesError, Object, Unanswered
from berth.kubernetes.informer import Informer, key_of, run_all
from berth.retry import delays
from berth.v1 import jobs_pb2
from placement_engine.adapters import translate
from placement_engine.adapters.kueue_wire import (
    CONTROLLER,
    Answer,
    condition_of,
    job_of_workload,
    pending_checks,
    ready,
    refused,
    state_of,
)
from placement_engine.domain.model import Decision, Member
from placement_engine.handlers import Admission
from placement_engine.planner import Planner
from placement_engine.world import World

__all__ = ["AdmissionChecks"]

log = structlog.get_logger(__name__)

GROUP = "kueue.x-k8s.io"
VERSIONS = ("v1beta2", "v1beta1")
LOOK_AGAIN_SECONDS = 30.0
RESYNC_SECONDS = 10.0
PROMISE_SECONDS = 60.0
"""How long the place of a Workload that was found Ready counts as taken for the next ones: by then the other checks
have answered."""
ADMITTED_SECONDS = 10.0
"""The same from when Kueue has admitted it: by then its pods are seen where they are."""
SETTLED_SECONDS = 10.0
"""A fleet that grew or shrank less long ago rejects nobody for good: more nodes may be on their way."""
ANSWERS = Counter("berth_admission_checks_total", "Answers to admission checks of Kueue.", ["state"])


@dataclass(frozen=True, slots=True)
class _Promise:
    pool: str
    members: tuple[Member, ...]
    until: float


class AdmissionChecks:
    """`run` serves every AdmissionCheck whose controllerName is berth.dev/placement, as long as it runs.

    A check's `parameters` may name the pool: {apiGroup: berth.dev, kind: Pool, name: ...}.
    """

    def __init__(
        self,
        kubernetes: Kubernetes,
        *,
        planners: Mapping[str, Planner],
        admission: Admission,
        world: World,
        job_of_pod: Callable[[Object], jobs_pb2.JobSpec],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._kubernetes = kubernetes
        self._planners = planners
        self._admission = admission
        self._world = world
        self._job_of_pod = job_of_pod
        self._clock = clock
        self._version = ""
        self._dirty: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._promises: dict[str, _Promise] = {}
        self._fleet_size = (-1, 0.0)
        """Number of nodes, and since when."""

    async def run(self) -> None:
        """Until cancelled."""
        self._version = await self._served_version()
        path = f"/apis/{GROUP}/{self._version}"
        self._checks = Informer(
            self._kubernetes, f"{path}/admissionchecks", self._heard("check"), optional=True,
            resync_seconds=RESYNC_SECONDS,
        )  # fmt: skip
        self._flavors = Informer(self._kubernetes, f"{path}/resourceflavors", optional=True)
        self._workloads = Informer(
            self._kubernetes, f"{path}/workloads", self._heard("workload"), optional=True,
            resync_seconds=RESYNC_SECONDS,
        )  # fmt: skip
        informers = (self._checks, self._flavors, self._workloads)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run_all(informers))
            for informer in informers:
                await informer.synced.wait()
            tasks.create_task(self._work())

    async def _served_version(self) -> str:
        """Waits until Kueue's types are there."""
        while True:
            try:
                group = await self._kubernetes.get(f"/apis/{GROUP}")
                served = {one["version"] for one in group.get("versions") or ()}
                for version in VERSIONS:
                    if version in served:
                        log.info("admission checks are answered", version=version, controller=CONTROLLER)
                        return version
                log.warning("no version of Kueue's that is known", served=sorted(served), known=VERSIONS)
            except Unanswered as error:
                log.warning("Kueue's types will be looked for again", error=str(error))
            except KubernetesError as error:
                if not error.not_found:
                    log.warning("Kueue's types cannot be looked for", status=error.status, error=error.message)
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    def _heard(self, kind: str) -> Callable[[Object | None, Object | None], None]:
        def changed(old: Object | None, new: Object | None) -> None:
            thing = new or old
            assert thing is not None
            self._dirty[f"{kind} {key_of(thing)}"] = None
            self._wake.set()
            if kind == "workload":
                self._review_promise(thing["metadata"]["uid"], new)

        return changed

    def _review_promise(self, uid: str, workload: Object | None) -> None:
        promise = self._promises.get(uid)
        if promise is None:
            return
        if workload is None or not _holds_its_place(workload):
            del self._promises[uid]
        elif condition_of(workload, "Admitted") == "True":
            until = min(promise.until, self._clock() + ADMITTED_SECONDS)
            self._promises[uid] = replace(promise, until=until)

    async def _work(self) -> None:
        """One after the other: each answer counts with those before it."""
        waits = delays(first=0.1, longest=5.0)
        while True:
            await self._wake.wait()
            self._wake.clear()
            dirty, self._dirty = self._dirty, {}
            for key in dirty:
                kind, _, name = key.partition(" ")
                try:
                    await (self._look_at_check(name) if kind == "check" else self._look_at_workload(name))
                    waits = delays(first=0.1, longest=5.0)
                except KubernetesError as error:
                    # A conflict or what is gone is heard of; anything else comes again with the next resync.
                    if not error.conflict and not error.not_found:
                        log.error("cannot be written", thing=key, status=error.status, error=error.message)
                except Unanswered as error:
                    log.warning("will be looked at again", thing=key, error=str(error))
                    await asyncio.sleep(next(waits))

    # --- the checks themselves ---

    async def _look_at_check(self, name: str) -> None:
        check = self._checks.objects.get(name)
        if check is None or check["spec"].get("controllerName") != CONTROLLER:
            return
        try:
            pool = self._pool_of(check)
        except InvalidInput as error:
            status, reason, message = "False", "BadParameters", str(error)
        else:
            planner = self._planners.get(pool or "default")
            if planner is not None and not planner.active:
                return  # the instance that plans the pool speaks
            status, reason, message = "True", "Active", "Berth answers whether and where a workload fits now"
        if self._says(check, status, reason, message):
            return
        metadata = check["metadata"]
        condition = {
            "type": "Active", "status": status, "reason": reason, "message": message, "lastTransitionTime": self._now(),
            "observedGeneration": metadata.get("generation", 0),
        }  # fmt: skip
        await self._apply("AdmissionCheck", f"admissionchecks/{name}", metadata, {"conditions": [condition]}, name)
        for key in self._workloads.objects:
            self._dirty[f"workload {key}"] = None
        self._wake.set()

    def _pool_of(self, check: Object) -> str:
        """The pool that the check is for, "" where it leaves that to the pods. Raises InvalidInput."""
        given = check["spec"].get("parameters")
        if not given:
            return ""
        if (given.get("apiGroup"), given.get("kind")) != (names.DOMAIN, "Pool"):
            said = f"{given.get('apiGroup')}/{given.get('kind')}"
            raise InvalidInput.of("spec.parameters", said, f"name {{apiGroup: {names.DOMAIN}, kind: Pool}}, or none")
        pool = str(given.get("name", ""))
        if pool not in self._planners:
            known = ", ".join(sorted(self._planners))
            raise InvalidInput.of("spec.parameters.name", pool, f"unknown pool: use one of: {known}")
        return pool

    @staticmethod
    def _says(check: Object, status: str, reason: str, message: str) -> bool:
        for one in (check.get("status") or {}).get("conditions") or ():
            if one["type"] == "Active":
                same = (one["status"], one.get("reason"), one.get("message")) == (status, reason, message)
                return same and one.get("observedGeneration") == check["metadata"].get("generation")
        return False

    # --- workloads ---

    async def _look_at_workload(self, key: str) -> None:
        workload = self._workloads.objects.get(key)
        if workload is None:
            return
        ours = {
            name: check
            for name, check in self._checks.objects.items()
            if check["spec"].get("controllerName") == CONTROLLER and condition_of(check, "Active") == "True"
        }
        for name in pending_checks(workload, ours):
            entry = next(one for one in workload["status"]["admissionChecks"] if one["name"] == name)
            uid = workload["metadata"]["uid"]
            answer, promise = self._answer(workload, self._pool_of(ours[name]), int(entry.get("retryCount") or 0))
            if answer is None:
                continue
            before = self._promises.pop(uid, None)
            if promise is not None:
                self._promises[uid] = promise
            state = state_of(name, answer, self._now())
            namespace, _, plain = key.partition("/")
            where = f"namespaces/{namespace}/workloads/{plain}"
            try:
                await self._apply("Workload", where, workload["metadata"], {"admissionChecks": [state]}, name)
            except KubernetesError:
                # A conflict: what was answered before may stand.
                self._promises.pop(uid, None)
                if before is not None:
                    self._promises[uid] = before
                raise
            ANSWERS.labels(answer.state).inc()
            log.info("admission check is answered", workload=key, check=name, state=answer.state, why=answer.message)

    def _answer(self, workload: Object, pool: str, retries: int) -> tuple[Answer | None, _Promise | None]:
        """None: it is not ours to answer, another instance plans the pool."""
        flavors = self._flavors.objects
        try:
            spec = job_of_workload(workload, flavors, self._job_of_pod, pool=pool)
            planner = self._planners.get(spec.pool or "default")
            if planner is not None and not planner.active:
                return None, None
            spec = self._admission.admit(spec, TRUSTED)
        except BerthError as error:
            return self._not_admitted(error, retries), None
        now = self._clock()
        uid = workload["metadata"]["uid"]
        self._promises = {one: kept for one, kept in self._promises.items() if kept.until > now}
        beside = {
            one: kept.members for one, kept in self._promises.items() if one != uid and kept.pool == spec.pool
        }  # fmt: skip
        engine = self._planners[spec.pool].engine
        job = translate.job_from_spec(spec, job_id=f"kueue-{uid}", submitted_at=now, attempt=1)
        found = engine.dry_run(job, now, beside=beside)
        if not isinstance(found, Decision):
            return refused(found, retries), None
        promise = _Promise(spec.pool, found.members, now + PROMISE_SECONDS)
        return ready(found, workload, flavors, self._world.nodes), promise

    def _not_admitted(self, error: BerthError, retries: int) -> Answer:
        """Rejected for good, unless an operator or the fleet may change what is wrong."""
        fields = {one.field for one in error.errors} if isinstance(error, InvalidInput) else set()
        if fields & {"queue", "pool", "ResourceFlavor"} or ("replicas" in fields and not self._settled()):
            wait = min(600, 15 * 2 ** min(retries, 10))
            return Answer("Retry", f"berth: {error}", retry_seconds=wait)
        return Answer("Rejected", f"berth: {error}")

    def _settled(self) -> bool:
        """Whether the number of nodes has been the same for a while."""
        now, size = self._clock(), len(self._world.nodes)
        if self._fleet_size[0] != size:
            self._fleet_size = size, now
        return now - self._fleet_size[1] >= SETTLED_SECONDS

    async def _apply(
        self, kind: str, where: str, metadata: Mapping[str, Any], status: Mapping[str, Any], check: str
    ) -> None:
        given = {key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion") if key in metadata}
        document = {"apiVersion": f"{GROUP}/{self._version}", "kind": kind, "metadata": given, "status": dict(status)}
        # A manager for each check: two checks on one workload must not take each other's entry away.
        await self._kubernetes.patch(
            f"/apis/{GROUP}/{self._version}/{where}/status", document, kind="apply",
            fieldManager=f"berth-{check}"[:128], force=True,
        )  # fmt: skip

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _holds_its_place(workload: Object) -> bool:
    """It is on its way to its pods, which are not all seen yet."""
    if condition_of(workload, "PodsReady") == "True":
        return False
    return condition_of(workload, "QuotaReserved") == "True" and "True" not in (
        condition_of(workload, "Finished"),
        condition_of(workload, "Evicted"),
    )
