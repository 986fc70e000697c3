"""The services as the command line sees them: in-process, with jobs and nodes that do not change by themselves."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from berth.errors import InvalidInput, NotFound
from berth.jobs import parse_document, validate
from berth.v1 import binding_pb2, fleet_pb2, jobs_pb2, placement_pb2, profiles_pb2, telemetry_pb2
from berth.v1.binding_pb2_grpc import BindingServiceServicer
from berth.v1.placement_pb2_grpc import PlacementServiceServicer
from berth.v1.profiles_pb2_grpc import ProfileServiceServicer
from berth.v1.telemetry_pb2_grpc import TelemetryServiceServicer

NOW = 1_798_761_600.0
TRACE = "0af7651916cd43dd8448eb211c80319c"


def at(seconds: float) -> Timestamp:
    made = Timestamp()
    made.FromNanoseconds(round((NOW + seconds) * 1e9))
    return made


def make_job(document: dict[str, Any], state: int, *, number: int, message: str = "") -> jobs_pb2.Job:
    """A job as the engine would tell it: bound ones sit on node-a, devices 0 and 1."""
    job = jobs_pb2.Job(
        job_id=f"job{number:05d}",
        spec=parse_document(document),
        state=state,  # type: ignore[arg-type]
        message=message,
        version=3,
        submitted_at=at(-300),
        accepted_at=at(-299.9),
        traceparent=f"00-{TRACE}-b7ad6b7169203331-01",
    )
    if state != jobs_pb2.JOB_STATE_PENDING:
        job.attempt = 1
        job.placed_at.CopyFrom(at(-298))
        job.bound_at.CopyFrom(at(-297.5))
        claims = [
            jobs_pb2.DeviceClaim(device_id=f"node-a/{index}", index=index, milli=1000, model="H100-SXM")
            for index in range(job.spec.resources.devices)
        ]
        job.members.add(member=0, node="node-a", devices=claims, cpu_milli=job.spec.resources.cpu_milli)
    return job


def make_nodes() -> list[placement_pb2.NodeStatus]:
    """One node with telemetry, one cordoned without any."""
    node = fleet_pb2.Node(
        name="node-a", pool="default", cpu_milli=96000, memory_bytes=2**40, topology={"rack": "r1"}, schedulable=True,
        executors=["simulated"],
    )  # fmt: skip
    first = placement_pb2.NodeStatus(
        node=node, used_cpu_milli=8000, used_memory_bytes=2**36, power_watts=1530.4, age_seconds=1.25, devices_free=1,
        cpu_utilisation=0.21,
    )  # fmt: skip
    for index in range(2):
        device = fleet_pb2.Device(
            device_id=f"GPU-{index}", index=index, model="H100-SXM", device_class="GPU", stack="CUDA",
            memory_bytes=80 * 10**9, present=True,
        )  # fmt: skip
        first.node.devices.append(device)
        status = first.devices.add(device=device, node="node-a", age_seconds=1.25, used_milli=1000 if index == 0 else 0)
        # The second device says nothing of its memory and power: unknown, never zero.
        sample = telemetry_pb2.DeviceSample(device_id=device.device_id, temperature_celsius=61.0 + index)
        if index == 0:
            sample.memory_used_bytes, sample.power_watts, sample.utilisation = 40 * 2**30, 655.2, 0.97
            status.job_ids.append("job00001")
        status.sample.CopyFrom(sample)
    second = placement_pb2.NodeStatus(
        node=fleet_pb2.Node(name="node-b", pool="default", cpu_milli=4000, memory_bytes=2**34, cordon_reason="fan"),
    )
    return [second, first]


class FakePlacementService(PlacementServiceServicer):
    """Keeps what it was sent, and answers from memory."""

    def __init__(self) -> None:
        self.jobs = [
            make_job(
                {"name": "train-1", "kind": "training", "devices": 2, "cpu": 8, "memory": "64Gi", "objective": "time"},
                jobs_pb2.JOB_STATE_RUNNING,
                number=1,
            ),
            make_job(
                {"name": "serve", "tenant": "vision", "kind": "inference", "device_fraction": 0.5},
                jobs_pb2.JOB_STATE_PENDING,
                number=2,
                message="no device is cool enough",
            ),
            make_job({"name": "broken", "cpu": 1, "command": ["false"]}, jobs_pb2.JOB_STATE_FAILED, number=3,
                     message="exit code 1"),
        ]  # fmt: skip
        self.violations: list[placement_pb2.Violation] = []
        self.placed: list[placement_pb2.PlaceJobRequest] = []
        self.queues: list[fleet_pb2.Queue] = [
            fleet_pb2.Queue(name="default", weight=1, pending_jobs=1, running_jobs=1, devices_in_use=2),
            fleet_pb2.Queue(
                name="research",
                weight=2.5,
                tenants=["vision"],
                device_limit=8,
                share=0.25,
                devices_borrowed=1,
                quota_use=[
                    fleet_pb2.QuotaUse(accelerator="H100-SXM", owned=4, used=5, borrowed=1, borrowable=2),
                    fleet_pb2.QuotaUse(accelerator="GPU", owned=6, used=5, lent=0.5),
                ],
                quotas=[
                    fleet_pb2.Quota(accelerator="H100-SXM", devices=4),
                    fleet_pb2.Quota(accelerator="GPU", devices=6),
                ],
                reclaim=fleet_pb2.RECLAIM_LOWER_PRIORITY,
                protected_seconds=600,
            ),
        ]
        self.pools: list[fleet_pb2.Pool] = []
        self.finish_watched = False
        self.asked: Any = None

    def find(self, name: str) -> jobs_pb2.Job:
        for job in self.jobs:
            if name in (job.job_id, f"{job.spec.tenant}/{job.spec.name}"):
                return job
            if name == job.spec.name and job.spec.tenant == "default":
                return job
        raise NotFound(f"job: {name!r}: not known; `berth get jobs` lists those you may see")

    async def PlaceJob(self, request: Any, context: Any) -> Any:
        spec = validate(request.spec)
        if spec.queue not in {queue.name for queue in self.queues}:
            raise InvalidInput.of("queue", spec.queue, "unknown queue: use one of: default, research")
        self.placed.append(request)
        job = jobs_pb2.Job(job_id="job00009", spec=spec, state=jobs_pb2.JOB_STATE_PENDING, submitted_at=at(0))
        explanation = placement_pb2.Explanation(summary="would go to node-a", nodes_considered=2)
        return placement_pb2.PlaceJobResponse(job=job, explanation=explanation)

    async def CancelJob(self, request: Any, context: Any) -> Any:
        job = self.find(request.job)
        job.state = jobs_pb2.JOB_STATE_CANCELLED
        return placement_pb2.CancelJobResponse(job=job)

    async def GetJob(self, request: Any, context: Any) -> Any:
        return placement_pb2.GetJobResponse(job=self.find(request.job))

    async def ListJobs(self, request: Any, context: Any) -> Any:
        found = [
            job
            for job in self.jobs
            if request.tenant in ("", job.spec.tenant) and (not request.states or job.state in request.states)
        ]
        # Two a page: whoever takes only the first page shows too few.
        first = int(request.page_token or 0)
        token = str(first + 2) if first + 2 < len(found) else ""
        return placement_pb2.ListJobsResponse(jobs=found[first : first + 2], next_page_token=token)

    async def WatchJobs(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for job_id in request.jobs:
            yield placement_pb2.WatchJobsResponse(job=self.find(job_id))
        if self.finish_watched:
            for job_id in request.jobs:
                job = self.find(job_id)
                job.state = jobs_pb2.JOB_STATE_SUCCEEDED
                yield placement_pb2.WatchJobsResponse(job=job)
        await asyncio.sleep(60)

    async def ExplainJob(self, request: Any, context: Any) -> Any:
        job = self.find(request.job)
        if job.state == jobs_pb2.JOB_STATE_PENDING:
            explanation = placement_pb2.Explanation(
                job_id=job.job_id, state=job.state, summary="waits: 2 of 2 nodes were refused", queue_position=1,
                reasons=[
                    placement_pb2.Reason(plugin="HeatMargin", code="HEAT_MARGIN_BELOW_FLOOR", nodes=1, devices=2,
                                         message="4 C left to slowdown, 8 wanted"),
                    placement_pb2.Reason(plugin="Schedulable", code="NODE_CORDONED", nodes=1, message="fan"),
                ],
                remedies=["wait until node-a has cooled by 4 C"], expected_start=at(600), expected_after=["job00001"],
            )  # fmt: skip
        else:
            explanation = placement_pb2.Explanation(
                job_id=job.job_id, state=job.state, summary="placed on node-a", nodes_considered=2,
                candidates=[
                    _candidate("node-a", 1.25, [("Objective", 1.0, "fastest of 2"), ("Heat", 0.25, "61 C")]),
                    _candidate("node-c", 0.5, [("Objective", 0.75, ""), ("Power", -0.25, "")]),
                ],
                expectation=placement_pb2.Expectation(
                    accelerator="H100-SXM", devices=2, duration_seconds=5400, cost_dollars=8.85, energy_joules=7.2e6,
                    provenance=profiles_pb2.PROVENANCE_MEASURED, relative_uncertainty=0.1,
                ),
            )  # fmt: skip
        return placement_pb2.ExplainJobResponse(explanation=explanation)

    async def ListNodes(self, request: Any, context: Any) -> Any:
        nodes = [status for status in make_nodes() if not request.names or status.node.name in request.names]
        if not request.with_devices:
            for status in nodes:
                del status.devices[:]
        return placement_pb2.ListNodesResponse(nodes=nodes)

    async def ListQueues(self, request: Any, context: Any) -> Any:
        return placement_pb2.ListQueuesResponse(queues=self.queues)

    async def ApplyQueues(self, request: Any, context: Any) -> Any:
        self.queues = list(request.queues)
        return placement_pb2.ApplyQueuesResponse(applied=len(request.queues))

    async def ListPools(self, request: Any, context: Any) -> Any:
        return placement_pb2.ListPoolsResponse(pools=self.pools)

    async def ApplyPools(self, request: Any, context: Any) -> Any:
        self.pools = list(request.pools)
        return placement_pb2.ApplyPoolsResponse(applied=len(request.pools))

    async def ListDecisions(self, request: Any, context: Any) -> Any:
        job = self.jobs[0]
        decision = placement_pb2.Decision(
            job_id=job.job_id, job_name=job.spec.name, tenant="default", queue="default", attempt=1, epoch=4,
            members=job.members, decided_at=at(-298), sequence=17,
        )  # fmt: skip
        return placement_pb2.ListDecisionsResponse(decisions=[decision])

    async def DumpEngine(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for part in (b"a snapshot ", b"of ", request.pool.encode()):
            yield placement_pb2.DumpEngineResponse(chunk=part)

    async def WhatIf(self, request: Any, context: Any) -> Any:
        self.asked = request
        return placement_pb2.WhatIfResponse(
            base=placement_pb2.Outcome(jobs_finished=2, jobs_waiting=1, mean_wait_seconds=90, utilisation=0.5,
                                       cost_dollars=12.5),
            changed=placement_pb2.Outcome(jobs_finished=3, mean_wait_seconds=30, utilisation=0.75, energy_joules=7.2e6),
            jobs=[
                placement_pb2.JobOutcome(job_id="job00002", name="serve", changed_start_seconds=0,
                                         changed_end_seconds=3600, changed_nodes=["n-new"]),
                placement_pb2.JobOutcome(job_id="job00001", name="train-1", base_start_seconds=0, base_nodes=["node-a"],
                                         changed_start_seconds=0, changed_nodes=["node-a"]),
            ],
            notes=["no duration is declared of 1 job: 3,600 s were taken"],
        )  # fmt: skip

    async def ListAdvice(self, request: Any, context: Any) -> Any:
        return placement_pb2.ListAdviceResponse(
            advice=[
                placement_pb2.Advice(
                    kind="migrate", subject="job00001", message="its device GPU-0 is cordoned: XID 79",
                    moves=[placement_pb2.Move(job_id="job00001", sources=["node-a"], targets=["node-c"])],
                    given_at=at(-60), pool="default",
                ),
                placement_pb2.Advice(
                    kind="cordon", subject="GPU-0", message="XID 79: the device fell off the bus", given_at=at(-61),
                    pool="default",
                ),
            ]
        )  # fmt: skip

    async def Audit(self, request: Any, context: Any) -> Any:
        return placement_pb2.AuditResponse(violations=self.violations, counts={"claims": 2, "jobs": 3})


def _candidate(node: str, score: float, terms: list[tuple[str, float, str]]) -> placement_pb2.Candidate:
    return placement_pb2.Candidate(
        node=node,
        accelerator="H100-SXM",
        score=score,
        terms=[
            placement_pb2.ScoreTerm(plugin=plugin, value=value, weight=1, detail=detail)
            for plugin, value, detail in terms
        ],
    )


class FakeTelemetryService(TelemetryServiceServicer):
    def __init__(self) -> None:
        self.nodes: list[fleet_pb2.Node] = []

    async def ReportTelemetry(self, request_iterator: Any, context: Any) -> Any:
        raise NotImplementedError

    async def ApplyNodes(self, request: Any, context: Any) -> Any:
        self.nodes.extend(request.nodes)
        return telemetry_pb2.ApplyNodesResponse(applied=len(request.nodes))

    async def CordonNode(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def ListTargets(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


class FakeProfileService(ProfileServiceServicer):
    async def PutProfiles(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def GetProfile(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def ListProfiles(self, request: Any, context: Any) -> Any:
        profile = profiles_pb2.Profile(
            workload="resnet50-train", accelerator="H100-SXM", devices=8, throughput=45000.0,
            throughput_unit="samples/s", power_watts=550.0, provenance=profiles_pb2.PROVENANCE_DECLARED,
            source="declared",
        )  # fmt: skip
        stream = profiles_pb2.Profile(
            workload="resnet50-train", accelerator="Groq-LPU-v1", devices=8, stream_throughput=284.0,
            configuration="one-stream", low_confidence=True, provenance=profiles_pb2.PROVENANCE_DECLARED,
            source="vendor's page",
        )  # fmt: skip
        found = [profile, stream] if request.workload in ("", profile.workload) else []
        return profiles_pb2.ListProfilesResponse(profiles=found)

    async def QueryProfiles(self, request: Any, context: Any) -> Any:
        if request.workload != "resnet50-train":
            return profiles_pb2.QueryProfilesResponse(suggestions=["resnet50-train"])
        slower = profiles_pb2.Profile(
            workload="resnet50-train", accelerator="MI300X", devices=8, throughput=30000.0, configuration="batch=256",
            throughput_unit="samples/s", energy_joules_per_unit=0.19, latency_p99_seconds=0.3,
            provenance=profiles_pb2.PROVENANCE_MEASURED,
        )  # fmt: skip
        found = await self.ListProfiles(profiles_pb2.ListProfilesRequest(), context)
        return profiles_pb2.QueryProfilesResponse(profiles=[found.profiles[0], slower])

    async def ListLearnt(self, request: Any, context: Any) -> Any:
        learnt = profiles_pb2.Learnt(
            workload=request.workload, accelerator="H100-SXM", devices=8, configuration="batch=256 observed",
            spans=12, spans_unwatched=2, attempts=3, throughput=43000.0, throughput_unit="samples/s",
            relative_uncertainty=0.06,
            set_aside=[
                profiles_pb2.SetAside(reason="throttled", spans=4), profiles_pb2.SetAside(reason="outlier", spans=1)
            ],
        )  # fmt: skip
        return profiles_pb2.ListLearntResponse(
            learnt=[learnt] if request.workload in ("resnet50-train", "learnt-only") else []
        )

    async def ListAccelerators(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def ImportProfiles(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def UploadProfiles(self, request_iterator: Any, context: Any) -> Any:
        pieces = [piece async for piece in request_iterator]
        first, content = pieces[0], b"".join(piece.content for piece in pieces)
        result = profiles_pb2.ImportProfilesResponse(
            changed=2, unchanged=1, format=first.format or "zeus", skipped=["1 row: too old"],
            taken=[f"{len(content)} bytes of {first.source} on {first.hints.accelerator}"],
        )  # fmt: skip
        return profiles_pb2.UploadProfilesResponse(result=result)

    async def PredictProfile(self, request: Any, context: Any) -> Any:
        if request.workload != "resnet50-train":
            return profiles_pb2.PredictProfileResponse(suggestions=["resnet50-train"])
        predictions = []
        for kind, how, basis, speed in (
            ("H100-SXM", profiles_pb2.PROVENANCE_MEASURED, "measured", 45000.0),
            ("H200", profiles_pb2.PROVENANCE_INTERPOLATED, "interpolated: devices between 4 and 16", 52000.0),
            ("L40S", profiles_pb2.PROVENANCE_TRANSFERRED, "transferred from H100-SXM, H200", 9000.0),
        ):
            profile = profiles_pb2.Profile(
                workload=request.workload, accelerator=kind, devices=request.devices, throughput=speed, provenance=how,
                throughput_unit="samples/s", configuration=f"batch={request.batch_size}" if request.batch_size else "",
            )  # fmt: skip
            made = profiles_pb2.Prediction(profile=profile, basis=basis)
            if how != profiles_pb2.PROVENANCE_MEASURED:
                made.throughput_low, made.throughput_high = 0.8 * speed, 1.25 * speed
            if kind == "L40S":
                made.figures.add(
                    name="latency_p99_seconds", value=0.25, low=0.125, high=0.5, basis="throughput with 4 in flight",
                    provenance=profiles_pb2.PROVENANCE_TRANSFERRED,
                )  # fmt: skip
                made.figures.add(
                    name="memory_bytes", value=2.0**34, basis="measured", provenance=profiles_pb2.PROVENANCE_MEASURED
                )
            if request.accelerator in ("", kind):
                predictions.append(made)
        return profiles_pb2.PredictProfileResponse(predictions=predictions, unknown=["SN40L: not like enough"])


class FakeBindingService(BindingServiceServicer):
    async def GetLogs(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield binding_pb2.LogChunk(member=0, stream="stdout", data=f"out of {request.job_id}\n".encode())
        yield binding_pb2.LogChunk(member=0, stream="stderr", data=b"err\n")

    async def ListAttempts(self, request: Any, context: Any) -> Any:
        raise NotImplementedError
