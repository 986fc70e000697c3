"""What the engine holds after pods, owners and mirrors did what they do: whole states compared."""

from berth.v1 import jobs_pb2 as pb
from tests.unit.berth.kubernetes.pods.builders import a_pod
from tests.unit.binder.pods.fakes import Sides, settled

PENDING, BOUND, RUNNING, CANCELLED = (
    pb.JOB_STATE_PENDING,
    pb.JOB_STATE_BOUND,
    pb.JOB_STATE_RUNNING,
    pb.JOB_STATE_CANCELLED,
)


async def test_a_bound_pod_stays_with_its_job_whatever_is_written_on_it() -> None:
    sides = Sides()
    members = [f"m{index}" for index in range(2)]
    gang = {"berth.dev/gang": "g", "berth.dev/gang-size": "2"}
    for name in members:
        sides.kubernetes.put(a_pod(name, annotations=gang))
    async with sides.mirrored():
        async with sides.taken_up():
            assert sides.engine.held() == {"j1": (PENDING, ["uid-m0", "uid-m1"])}
            for name in members:
                sides.kubernetes.put(a_pod(name, annotations={**gang, "berth.dev/job": "j1"}, nodeName="n"))
            sides.engine.set("j1", RUNNING)
            await settled()
            for name in members:
                sides.kubernetes.put(a_pod(name, annotations={"berth.dev/job": "j1"}, nodeName="n"))
                await settled()
            running = {"j1": (RUNNING, ["uid-m0", "uid-m1"])}
            assert sides.engine.held() == running
        # Another binder, that knows only what is written now.
        sides.source = sides.made()
        async with sides.taken_up():
            sides.kubernetes.delete(a_pod("m0"))
            await settled()
            assert sides.engine.held() == running
            sides.kubernetes.delete(a_pod("m1"))
            await settled()
            assert sides.engine.held() == {"j1": (CANCELLED, ["uid-m0", "uid-m1"])}
