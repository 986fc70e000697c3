import pytest

from berth.errors import InvalidInput
from berth.kafka import Record
from berth.v1 import binding_pb2 as pb
from binder.adapters.wire import Undecodable, attempt_message, command_of, outgoing, work_of
from binder.domain.attempt import AttemptId, Lifecycle, LifecycleKind, Outcome, Settled, State
from binder.domain.intake import BindCommand, ReleaseCommand
from binder.domain.work import Command, DeviceClaim, Member, Work
from tests.unit.binder.builders import make_attempt

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def record(value: bytes) -> Record:
    return Record("placements.decided", 0, 7, b"j", value, {"traceparent": TRACE.encode()}, 50.0)


def decided(**changes: object) -> pb.PlacementDecided:
    message = pb.PlacementDecided(job_id="j", attempt=2, version=9)
    message.bind.spec.command.argv.extend(["echo", "hi"])
    message.bind.spec.command.environment["A"] = "b"
    message.bind.spec.tenant = "research"
    message.bind.spec.expected_duration.FromMilliseconds(1500)
    for member in (1, 0):
        place = message.bind.members.add(member=member, node=f"n{member}", cpu_milli=500)
        place.devices.add(device_id=f"GPU-{member}", index=member, milli=1000, model="H100-SXM")
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def test_a_bind_comes_in_whole() -> None:
    command = command_of(record(decided().SerializeToString()))
    assert isinstance(command, BindCommand)
    assert command == BindCommand(AttemptId("j", 2), 9, "process", "research", 2, command.bind, 50.0, TRACE)
    assert work_of(command.bind) == Work(
        members=(
            Member(0, "n0", (DeviceClaim("GPU-0", 0, 1000, "H100-SXM"),), 500),
            Member(1, "n1", (DeviceClaim("GPU-1", 1, 1000, "H100-SXM"),), 500),
        ),
        command=Command(("echo", "hi"), {"A": "b"}),
        expected_seconds=1.5,
    )


def test_a_release_comes_in() -> None:
    message = pb.PlacementDecided(job_id="j", attempt=1, version=3)
    message.release.reason = "preempted"
    message.decided_at.FromSeconds(40)
    expected = ReleaseCommand(AttemptId("j", 1), 3, "preempted", 40.0, TRACE)
    assert command_of(record(message.SerializeToString())) == expected


def test_broken_bytes_say_what_they_are_not() -> None:
    with pytest.raises(Undecodable, match=r"3 bytes: not a berth\.v1\.PlacementDecided"):
        command_of(record(b"\xff\xff\xff"))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"job_id": "../../etc"}, "job_id: '../../etc'"),
        ({"job_id": ""}, "job_id: ''"),
        ({"attempt": 0}, "attempt: '0'"),
        ({"attempt": -1}, "attempt: '-1'"),
    ],
)
def test_what_breaks_the_contract_is_named(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        command_of(record(decided(**changes).SerializeToString()))
    assert field in str(caught.value)


def test_members_are_numbered_and_an_action_is_needed() -> None:
    message = decided()
    message.bind.members[0].member = 5
    with pytest.raises(InvalidInput, match=r"bind\.members: '\[0, 5\]'"):
        command_of(record(message.SerializeToString()))
    with pytest.raises(InvalidInput, match="action: ''"):
        command_of(record(pb.PlacementDecided(job_id="j", attempt=1).SerializeToString()))


def test_what_is_told() -> None:
    attempt = make_attempt("j", 2, traceparent=TRACE)
    bound = outgoing(attempt, Settled(32, Outcome.BOUND, 1.5))
    assert (bound.topic, bound.key, bound.headers["traceparent"]) == ("bindings.settled", b"j", TRACE)
    assert (bound.headers["ce_id"], bound.headers["ce_type"]) == ("j.2.32", "berth.v1.BindingSettled")
    settled = pb.BindingSettled.FromString(bound.value)
    assert (settled.job_id, settled.attempt, settled.version, settled.outcome) == ("j", 2, 32, pb.BIND_OUTCOME_BOUND)
    assert settled.settled_at.ToMilliseconds() == 1500

    ended = outgoing(attempt, Lifecycle(34, LifecycleKind.FAILED, 2.0, "member 0: exit code 3", 3))
    assert ended.topic == "jobs.lifecycle"
    lifecycle = pb.JobLifecycle.FromString(ended.value)
    assert (lifecycle.event, lifecycle.exit_code, lifecycle.message) == (
        pb.LIFECYCLE_EVENT_FAILED,
        3,
        "member 0: exit code 3",
    )
    unsaid = pb.JobLifecycle.FromString(outgoing(attempt, Lifecycle(33, LifecycleKind.STARTED, 2.0)).value)
    assert not unsaid.HasField("exit_code")


def test_every_state_has_its_number() -> None:
    for state in State:
        number = attempt_message(make_attempt(state=state)).state
        assert pb.AttemptState.Name(number) == f"ATTEMPT_STATE_{state.value}"
