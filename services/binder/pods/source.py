"""Takes up pods by watch, keeps the engine's jobs in step with them, and tells the pods.

Each pod belongs to a unit: itself, or its gang. Whatever happens to a unit (a pod, its group, one of its jobs) makes it
due; a worker then compares what is there with what the engine holds (`plan`) and carries the difference out. One worker
at a time has a unit. What fails is tried again; what is forgotten in a crash is found again by `_adopt`.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC

import structlog
from prometheus_client import Counter, Gauge

from berth.errors import InvalidInput
from berth.kubernetes.client import Kubernetes, KubernetesError, Object, Unanswered
from berth.kubernetes.informer import Informer
from berth.kubernetes.pods.groups import Gang, GangRef, gang_of, ref_of
from berth.kubernetes.pods.translation import SOURCE, AskOf, ClaimOf, Translated, job_of, uid_of
from berth.v1 import jobs_pb2 as pb
from binder.pods.engine import Engine, Refused, Unreachable
from binder.pods.group_objects import GroupObjects
from binder.pods.notices import Notices
from binder.pods.plan import OURS, Held, Submission, is_bound, is_waiting, plan, worth_keeping
from binder.pods.queue import WorkQueue
from binder.pods.telling import Teller

__all__ = ["PodSource", "PodsPace"]

log = structlog.get_logger(__name__)

SUBMITTED = Counter("berth_pod_jobs_submitted_total", "Jobs made of pods, by what the engine said.", ["answer"])
CANCELLED = Counter("berth_pod_jobs_cancelled_total", "Jobs cancelled because their pods went or changed.")
UNITS = Gauge("berth_pod_units", "Pods on their own, and gangs, that are known.")

Key = GangRef | str


@dataclass(frozen=True, slots=True)
class PodsPace:
    """`quiet_seconds`: after the last pod of a gang of unknown size; `workers`: submissions on their way;
    `refused_seconds`: until what the engine refused is tried again; `compare_seconds`: between looks at all jobs;
    `owner_seconds`: between looks at the owner of a gang whose pods wait for more."""

    quiet_seconds: float = 0.5
    workers: int = 16
    refused_seconds: float = 30.0
    compare_seconds: float = 60.0
    owner_seconds: float = 30.0


@dataclass(slots=True)
class _Unit:
    key: Key
    pods: dict[str, Object] = field(default_factory=dict)
    jobs: dict[str, Held] = field(default_factory=dict)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Of a job by id: what of its pods' wishes is not looked at."""
    refused: dict[str, tuple[str, float]] = field(default_factory=dict)
    """By key: what the engine said, and when to try again."""
    gang: Gang | None = None
    owner: Object | None = None
    grown_at: float = 0.0
    read_at: float = 0.0


class PodSource:
    """`pods`: an informer of the pods that are Berth's to schedule; `groups`: informers by API group, the first that
    is served counts. Both are run by somebody else. `run` may be called again after it was cancelled."""

    def __init__(
        self,
        client: Kubernetes,
        pods: Informer,
        groups: Mapping[str, Sequence[Informer]],
        engine: Engine,
        *,
        claim_of: ClaimOf,
        ask_of: AskOf | None = None,
        pace: PodsPace = PodsPace(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._pods = pods
        self._groups = GroupObjects(client, groups, clock=clock)
        self._engine = engine
        self._claim_of = claim_of
        self._ask_of = ask_of
        self._pace = pace
        self._clock = clock
        self._notices = Notices(client, self._waiting_pod)
        self._teller = Teller(engine, self._notices)
        self._units: dict[Key, _Unit] = {}
        self._unit_of: dict[str, Key] = {}
        self._key_of_job: dict[str, Key] = {}
        self._holder: dict[str, str] = {}
        """The live job that has a pod, by the pod's uid."""
        self._queue: WorkQueue[Key] = WorkQueue(clock)
        self._running = False
        pods.listen(self._pod_changed)
        self._groups.listen(self._group_changed)

    async def run(self) -> None:
        """Until cancelled."""
        await self._pods.synced.wait()
        await self._groups.wait()
        await self._fresh()
        for kept in (self._units, self._unit_of, self._key_of_job, self._holder):
            kept.clear()
        self._queue.clear()
        self._teller.clear()
        # What comes while the jobs of an earlier run are read is heard too; nothing is done yet.
        self._running = True
        try:
            for pod in list(self._pods.objects.values()):
                self._put(pod)
            await self._adopt()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow())
                tasks.create_task(self._compare())
                tasks.create_task(self._queue.run())
                tasks.create_task(self._notices.run())
                tasks.create_task(self._teller.run())
                tries: dict[Key, int] = {}
                for _ in range(self._pace.workers):
                    tasks.create_task(self._work(tries))
        finally:
            self._running = False

    # -- what is heard ---------------------------------------------------------------------------

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        if not self._running:
            return
        if new is None:
            assert old is not None
            self._drop(old)
            return
        if old is not None and old["metadata"]["uid"] == new["metadata"]["uid"]:
            if not is_bound(old) and is_bound(new):
                self._bound(new)
            if old is not new and self._unit_of.get(uid_of(new)) != self._key(new):
                self._drop(old)
        self._put(new)

    def _key(self, pod: Object) -> Key:
        """Its unit: once it is bound, the one that has its job, whatever is written on it later."""
        uid = uid_of(pod)
        if is_bound(pod):
            known = self._unit_of.get(uid) or self._key_of_job.get(self._holder.get(uid, ""))
            if known is not None:
                return known
        return ref_of(pod) or uid

    def _put(self, pod: Object) -> None:
        uid, key = uid_of(pod), self._key(pod)
        unit = self._units.get(key)
        if unit is None:
            unit = self._units[key] = _Unit(key)
            UNITS.set(len(self._units))
        if uid not in unit.pods:
            unit.grown_at = self._clock()
        unit.pods[uid] = pod
        self._unit_of[uid] = key
        self._make_due(key)

    def _drop(self, pod: Object) -> None:
        uid = uid_of(pod)
        key = self._unit_of.pop(uid, None)
        self._notices.forget(uid)
        if key is not None and key in self._units:
            self._units[key].pods.pop(uid, None)
            self._make_due(key)

    def _bound(self, pod: Object) -> None:
        key = self._unit_of.get(uid_of(pod))
        jobs = self._units[key].jobs.values() if key in self._units else ()
        job_id = next((job.job_id for job in jobs if uid_of(pod) in job.uids and not job.over), "")
        name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
        by = f"; job {job_id}, see: berth explain {job_id}" if job_id else " by somebody else"
        note = f"assigned {pod['metadata']['namespace']}/{name} to {node}{by}"
        self._notices.event(pod, "Scheduled", note)

    def _group_changed(self, ref: GangRef) -> None:
        if self._running and ref in self._units:
            self._make_due(ref)

    def _heard(self, job: pb.Job, *, cancel_asked: bool = False) -> Held | None:
        """Keeps what is newer than known of a job that was made of pods. None: it is none, or its pods are gone."""
        if any(job.spec.labels.get(name) != value for name, value in SOURCE.items()):
            return None
        uids = tuple(one.uid for one in job.spec.kubernetes.pods)
        key = self._key_of_job.get(job.job_id) or next(
            (self._unit_of[uid] for uid in uids if uid in self._unit_of), None
        )
        unit = self._units.get(key) if key is not None else None
        if key is None or unit is None:
            return None
        known = unit.jobs.get(job.job_id)
        if known is not None and known.version > job.version:
            return known
        held = Held(
            job_id=job.job_id,
            key=job.spec.idempotency_key,
            uids=uids,
            state=job.state,
            message=job.message,
            placed=tuple(member.member for member in job.members),
            version=job.version,
            cancel_asked=cancel_asked or (known is not None and known.cancel_asked),
        )
        if held.over:
            held = replace(held, over_at=known.over_at if known is not None and known.over else self._ended(job))
        unit.jobs[job.job_id] = held
        for uid in uids:
            if not held.over and uid in held.holds:
                self._holder[uid] = held.job_id
            elif self._holder.get(uid) == held.job_id:
                del self._holder[uid]
        self._key_of_job[job.job_id] = key
        if not held.over:
            self._gather(unit, held)
        shown = f"{job.spec.tenant}/{job.spec.name}"
        if held.state == pb.JOB_STATE_PENDING:
            self._teller.follow(job.job_id, uids, shown, unit.notes.get(job.job_id, ()))
        else:
            self._teller.leave(job.job_id)
        if known is None or known != held:
            self._make_due(key)
        return held

    def _ended(self, job: pb.Job) -> float:
        """By the clock here: a job of an earlier run may be over for long."""
        ago = time.time() - job.finished_at.ToDatetime(UTC).timestamp() if job.HasField("finished_at") else 0.0
        return self._clock() - max(0.0, ago)

    def _gather(self, unit: _Unit, held: Held) -> None:
        """Bound pods of the job that name another gang by now, as one finds them after a restart, join its unit."""
        for uid in held.holds:
            other = self._units.get(self._unit_of.get(uid, unit.key))
            if other is not None and other is not unit and uid in other.pods and is_bound(other.pods[uid]):
                unit.pods[uid] = other.pods.pop(uid)
                self._unit_of[uid] = unit.key
                self._make_due(other.key)

    def claims_changed(self, pods: Iterable[str]) -> None:
        """Resource claims of these pods (uids) changed, or what may serve them: they are looked at again."""
        for uid in pods:
            if self._running and (key := self._unit_of.get(uid)) is not None:
                self._make_due(key)

    def waiting_pods(self) -> list[Object]:
        """All that want a place now."""
        return [pod for unit in self._units.values() for pod in unit.pods.values() if is_waiting(pod)]

    async def _follow(self) -> None:
        while True:
            try:
                async for job in self._engine.watch():
                    if job is None:
                        await self._compare_once()
                    else:
                        self._heard(job)
            except Unreachable as error:
                log.warning("jobs cannot be watched", error=str(error))
            await asyncio.sleep(1.0)

    async def _compare(self) -> None:
        while True:
            await asyncio.sleep(self._pace.compare_seconds)
            await self._compare_once()

    async def _compare_once(self) -> None:
        """What the engine holds beside what is held here: notices can be lost."""
        try:
            active = {job.job_id: job for job in await self._engine.active()}
            for job in active.values():
                if self._heard(job) is None:
                    await self._without_pods(job)
            for unit in list(self._units.values()):
                for held in list(unit.jobs.values()):
                    if not held.over and held.job_id not in active:
                        try:
                            self._heard(await self._engine.get(held.job_id))
                        except Refused:
                            self._lost(unit, held)
        except (Unreachable, Refused) as error:
            log.warning("jobs cannot be compared", error=str(error))

    def _lost(self, unit: _Unit, held: Held) -> None:
        """The engine knows no such job any more, so its pods are free."""
        log.warning("job is not known to the engine", job_id=held.job_id)
        self._forget_job(unit, held.job_id)
        for uid in held.uids:
            if self._holder.get(uid) == held.job_id:
                del self._holder[uid]
        self._make_due(unit.key)

    async def _adopt(self) -> None:
        """The jobs of an earlier run, before anything is submitted."""
        while True:
            try:
                for job in await self._engine.active():
                    if self._heard(job) is None:
                        await self._without_pods(job)
                return
            except (Unreachable, Refused) as error:
                log.warning("jobs of an earlier run cannot be read yet", error=str(error))
                await asyncio.sleep(1.0)

    async def _fresh(self) -> None:
        """The mirror of who takes over may lag far behind jobs that another binder made and bound."""
        while True:
            try:
                return await self._pods.relist()
            except (KubernetesError, Unanswered) as error:
                log.warning("pods cannot be listed yet", error=str(error))
                await asyncio.sleep(1.0)

    async def _without_pods(self, job: pb.Job) -> None:
        """Ends a job that was made of pods of which none is there any more, by the server's own word."""
        ending = job.state == pb.JOB_STATE_RELEASING and job.message.startswith(OURS)
        if ending or any(job.spec.labels.get(name) != value for name, value in SOURCE.items()):
            return
        try:
            there = await self._there(job)
            if there:
                log.warning("mirror of pods lags", job_id=job.job_id, pod=there)
                await self._pods.relist()
                self._heard(job)
                return
        except (KubernetesError, Unanswered) as error:
            log.warning("pods of a job cannot be read yet", job_id=job.job_id, error=str(error))
            return
        CANCELLED.inc()
        await self._engine.cancel(job.job_id, OURS + "its pods are gone")

    async def _there(self, job: pb.Job) -> str:
        """A pod of the job that is there; "": none is. Raises KubernetesError and Unanswered."""
        for one in job.spec.kubernetes.pods:
            try:
                found = await self._client.get(f"/api/v1/namespaces/{one.namespace}/pods/{one.name}")
            except KubernetesError as error:
                if not error.not_found:
                    raise
            else:
                if uid_of(found) == one.uid:
                    return f"{one.namespace}/{one.name}"
        return ""

    # -- what is done ----------------------------------------------------------------------------

    def _make_due(self, key: Key) -> None:
        self._queue.put(key)

    def _make_due_in(self, key: Key, seconds: float) -> None:
        self._queue.put_in(key, seconds)

    async def _work(self, tries: dict[Key, int]) -> None:
        """`tries`: calls in vain by unit, shared by the workers."""
        while True:
            key = await self._queue.take()
            try:
                if (unit := self._units.get(key)) is not None:
                    await self._bring_in_step(unit)
                tries.pop(key, None)
            except Unreachable as error:
                tries[key] = tries.get(key, 0) + 1
                self._make_due_in(key, min(10.0, 0.2 * 2 ** min(tries[key], 8)))
                if tries[key] == 3:
                    log.warning("engine or API server does not answer", unit=str(key), error=str(error))
            except Exception:
                # One pod must not stop the others; it is looked at again with the next change.
                log.exception("unit failed", unit=str(key))
                self._make_due_in(key, 30.0)
            finally:
                self._queue.done(key)
            # What has nothing to do never waits: many such units must not hold up the rest of the binder.
            await asyncio.sleep(0)

    async def _bring_in_step(self, unit: _Unit) -> None:
        """The cycle of a unit."""
        pods, settled = list(unit.pods.values()), True
        if not pods and all(job.over for job in unit.jobs.values()):
            self._forget(unit)
            return
        kept = {job.job_id for job in worth_keeping(list(unit.jobs.values()), unit.pods)}
        for job_id in [job_id for job_id in unit.jobs if job_id not in kept]:
            self._forget_job(unit, job_id)
        # 1. What the gang is now; without an answer nothing new is submitted.
        try:
            if isinstance(unit.key, GangRef):
                unit.gang = gang_of(unit.key, await self._thing(unit), pods)
        except (LookupError, InvalidInput) as error:
            settled, unit.read_at = False, 0.0
            self._make_due_in(unit.key, self._pace.refused_seconds)
            text = str(error.args[0]) if isinstance(error, LookupError) else f"refused: {error}"
            held = {uid for job in unit.jobs.values() if not job.over for uid in job.uids}
            for pod in pods:
                if is_waiting(pod) and uid_of(pod) not in held:
                    self._notices.waits(uid_of(pod), text)
        # 2. What is to be done.
        now = self._clock()
        quiet_in = unit.grown_at + self._pace.quiet_seconds - now if isinstance(unit.key, GangRef) else 0.0
        jobs = list(unit.jobs.values())
        todo = plan(pods, unit.gang, jobs, self._make, now=now, quiet_in=quiet_in, settled=settled)
        if todo.said and isinstance(unit.key, GangRef) and unit.key.path:
            # Its owner may ask for fewer pods by now, and no pod tells of that.
            self._make_due_in(unit.key, self._pace.owner_seconds)
        # 3. Cancel, then submit. Each answer makes the unit due again, so that what follows from it is done.
        for one in todo.cancel:
            CANCELLED.inc()
            log.info("cancels a job", job_id=one.job_id, reason=one.reason)
            try:
                self._heard(await self._engine.cancel(one.job_id, one.reason), cancel_asked=True)
            except Refused as error:
                log.warning("job cannot be cancelled", job_id=one.job_id, error=str(error))
                self._make_due_in(unit.key, self._pace.refused_seconds)
        for submission in todo.submit:
            await self._submit(unit, submission)
        # 4. Say why, where no job does.
        for uid, text in todo.said.items():
            self._notices.waits(uid, text)
            if text.startswith("refused: "):
                self._make_due_in(unit.key, 10 * self._pace.refused_seconds)
        if todo.again_in is not None:
            self._make_due_in(unit.key, todo.again_in)

    async def _submit(self, unit: _Unit, submission: Submission) -> None:
        spec = submission.job.spec
        key, now = spec.idempotency_key, self._clock()
        if any(uid in self._holder for uid in submission.uids):
            # A pod that came from another unit, whose job is not over yet.
            self._make_due_in(unit.key, 0.5)
            return
        refusal = unit.refused.get(key)
        if refusal is None or now >= refusal[1]:
            try:
                job = await self._engine.place(spec)
            except Refused as error:
                SUBMITTED.labels("refused").inc()
                refusal = (f"refused: {error}", now + self._pace.refused_seconds)
                unit.refused = {one: said for one, said in unit.refused.items() if said[1] > now} | {key: refusal}
            else:
                SUBMITTED.labels("accepted").inc()
                unit.refused.pop(key, None)
                unit.notes[job.job_id] = submission.job.notes
                self._heard(job)
                return
        for uid in submission.uids:
            self._notices.waits(uid, refusal[0])
        self._make_due_in(unit.key, max(1.0, refusal[1] - now))

    def _make(self, pods: Sequence[Object], gang: Gang | None, minimum: int) -> Translated:
        return job_of(pods, gang, self._claim_of, minimum=minimum, ask_of=self._ask_of)

    async def _thing(self, unit: _Unit) -> Object | None:
        """The gang's object as mirrored, or its owner's as read a moment ago, and since pods came last."""
        ref = unit.key
        assert isinstance(ref, GangRef)
        if not ref.path:
            return self._groups.mirrored(ref)
        if unit.read_at <= unit.grown_at or self._clock() - unit.read_at >= self._pace.owner_seconds:
            started = self._clock()
            try:
                unit.owner = await self._groups.owner(ref)
            except Unanswered as error:
                raise Unreachable(str(error)) from error
            unit.read_at = started
        return unit.owner

    def _forget(self, unit: _Unit) -> None:
        self._units.pop(unit.key, None)
        UNITS.set(len(self._units))
        for job_id in list(unit.jobs):
            self._forget_job(unit, job_id)

    def _forget_job(self, unit: _Unit, job_id: str) -> None:
        unit.jobs.pop(job_id, None)
        unit.notes.pop(job_id, None)
        self._key_of_job.pop(job_id, None)
        self._teller.leave(job_id)

    def _waiting_pod(self, uid: str) -> Object | None:
        key = self._unit_of.get(uid)
        pod = self._units[key].pods.get(uid) if key in self._units else None
        return pod if pod is not None and is_waiting(pod) else None
