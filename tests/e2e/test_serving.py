"""A model as a job, through real services and a real Triton: placed, loaded, asked, moved, and unloaded by a cancel."""

from pathlib import Path
from typing import Any

from berth.backends.triton_client import TritonClient
from berth.grpc import connect
from berth.v1 import fleet_pb2, jobs_pb2, placement_pb2
from berth.v1.placement_pb2_grpc import PlacementServiceStub
from tests.services import System, node
from tests.serving import ask, model_folder, triton_server


def serving_node(name: str) -> fleet_pb2.Node:
    made = node(name, 0)
    made.executors[:] = ["triton"]
    return made


def inference(name: str, folder: Path, **parameters: str) -> jobs_pb2.JobSpec:
    spec = jobs_pb2.JobSpec(name=name, kind=jobs_pb2.JOB_KIND_INFERENCE, replicas=1)
    spec.resources.cpu_milli = 1000
    spec.model.uri = folder.as_uri()
    for key, value in parameters.items():
        spec.model.parameters[key] = value
    return spec


async def test_a_model_is_served_moved_and_unloaded(system: System, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "doubler")
    async with triton_server(tmp_path / "s1") as one, triton_server(tmp_path / "s2") as two:
        addresses = {"n1": one.address, "n2": two.address}
        engine = system.service("placement-engine")
        binder = system.service(
            "binder",
            executors="triton",
            triton_servers=",".join(f"{name}={address}" for name, address in addresses.items()),
        )
        await engine.ready()
        await binder.ready()
        await system.publish_nodes([serving_node("n1"), serving_node("n2")])

        async def models() -> dict[str, tuple[str, ...]]:
            found = {}
            for name, address in addresses.items():
                async with TritonClient(address) as client:
                    found[name] = await client.loaded()
            return found

        async with connect(engine.endpoint("grpc")) as channel:
            stub: Any = PlacementServiceStub(channel)

            async def job(name: str, *states: int) -> jobs_pb2.Job | None:
                answer = await stub.GetJob(placement_pb2.GetJobRequest(job=name))
                return answer.job if answer.job.state in states else None

            async def running(name: str) -> jobs_pb2.Job:
                found = await system.eventually(lambda: job(name, jobs_pb2.JOB_STATE_RUNNING), 40)
                assert isinstance(found, jobs_pb2.Job)
                return found

            async def fleet_is_known() -> bool:
                return len((await stub.ListNodes(placement_pb2.ListNodesRequest())).nodes) == 2

            await system.eventually(fleet_is_known)

            # 1. The first server refuses it: the job is placed on the other, and answers there.
            marker = tmp_path / "refused"
            await stub.PlaceJob(
                placement_pb2.PlaceJobRequest(spec=inference("moved", folder, first_refuses=str(marker)))
            )
            moved = await running("moved")
            refusing = "n1" if marker.read_text() == str(tmp_path / "s1") else "n2"
            assert moved.attempt == 2
            assert [member.node for member in moved.members] == [{"n1": "n2", "n2": "n1"}[refusing]]
            assert len(moved.endpoints) == 1
            assert await ask(moved.endpoints[0], [1.0, 2.0, 3.0]) == [3.0, 6.0, 9.0]

            # 2. The binder is killed between its intent and the outcome: one copy, whoever loaded it.
            await stub.PlaceJob(placement_pb2.PlaceJobRequest(spec=inference("killed", folder, slow="1.5")))

            async def intended() -> bool:
                return bool(await system.fetch("SELECT 1 FROM binder.attempt WHERE state = 'INTENT' AND tries > 0"))

            await system.eventually(intended)
            binder.kill()
            assert await job("killed", jobs_pb2.JOB_STATE_PLACED)
            binder.start()
            killed = await running("killed")
            held = await models()
            names = sorted(name for node_models in held.values() for name in node_models)
            assert [name.rpartition("-")[0] for name in names] == ["killed", "moved"]
            assert killed.endpoints[0].rpartition("/")[2] in names

            # 3. A cancel unloads, and the job says no endpoint any more.
            for name in ("moved", "killed"):
                await stub.CancelJob(placement_pb2.CancelJobRequest(job=name, reason="done"))
                ended = await system.eventually(lambda name=name: job(name, jobs_pb2.JOB_STATE_CANCELLED), 30)
                assert list(ended.endpoints) == []
            assert await models() == {"n1": (), "n2": ()}
