"""One job, one trace: from the publisher's traceparent to bound and finished; and what every server offers."""

import asyncio
import json
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from berth.grpc import connect
from berth.topics import PROTOBUF
from tests.services import System, job, node

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PUBLISHER = "00f067aa0ba902b7"
EXPECTED = {"accept", "queue wait", "plan", "publish placements.decided", "bind", "run",
            "publish bindings.settled", "publish jobs.lifecycle"}  # fmt: skip


async def test_a_job_is_followed_as_one_trace_and_batches_link_to_it(system: System) -> None:
    spans_folder = system.folder / "spans"
    services = [system.service(name, span_dir=str(spans_folder)) for name in ("placement-engine", "binder")]
    for service in services:
        await service.ready()
    await system.publish_nodes([node("n0")])
    await system.publish_raw(
        job("traced", seconds=0.3).SerializeToString(),
        content_type=PROTOBUF,
        headers={"traceparent": f"00-{TRACE}-{PUBLISHER}-01"},
    )
    await system.publish_raw(
        job("odd", seconds=0.3).SerializeToString(), content_type=PROTOBUF, headers={"traceparent": "00-nonsense"}
    )

    async def over() -> bool:
        return await system.job_states() == {5: 2}

    await system.eventually(over)

    async def spans() -> list[dict[str, Any]]:
        lines = [line for path in spans_folder.glob("*.jsonl") for line in path.read_text().splitlines() if line]
        found = [json.loads(line) for line in lines]
        return found if {one["name"] for one in found if one["trace_id"] == TRACE} >= EXPECTED else []

    found = await system.eventually(spans, 20)
    mine = [one for one in found if one["trace_id"] == TRACE]
    (accept,) = [one for one in mine if one["name"] == "accept"]
    assert accept["parent_id"] == PUBLISHER
    assert {one["parent_id"] for one in mine if one is not accept} == {accept["span_id"]}
    assert {one["service"] for one in mine} == {"placement-engine", "binder"}
    assert all(one["start_ns"] <= one["end_ns"] for one in mine)
    batches = [one for one in found if one["name"] == "process jobs.submitted"]
    assert any(TRACE in one["links"] for one in batches)
    assert all(one["trace_id"] != TRACE for one in batches)
    # The job with a broken traceparent has a trace of its own.
    (row,) = await system.fetch("SELECT traceparent FROM engine.job WHERE name = 'odd'")
    assert TRACE not in row["traceparent"]
    assert len(row["traceparent"]) == 55


async def test_every_service_answers_health_reflection_metrics_and_probes(system: System) -> None:
    import aiohttp

    names = {
        "placement-engine": "berth.v1.PlacementService",
        "binder": "berth.v1.BindingService",
        "telemetry-ingest": "berth.v1.TelemetryService",
        "profile-store": "berth.v1.ProfileService",
    }
    services = {name: system.service(name) for name in names}
    for name, service in services.items():
        await service.ready()
        async with connect(service.endpoint("grpc")) as channel:
            answer: Any = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=names[name])
            )
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            listed = await asyncio.wait_for(call.read(), 5)
            await call.done_writing()
            assert names[name] in {one.name for one in listed.list_services_response.service}
        async with aiohttp.ClientSession() as session:
            for path, text in (("livez", "ok"), ("readyz", "ok"), ("metrics", "berth_")):
                async with session.get(f"http://{service.endpoint('http')}/{path}") as response:
                    assert response.status == 200
                    assert text in await response.text()
    for service in services.values():
        assert service.stop() == 0
