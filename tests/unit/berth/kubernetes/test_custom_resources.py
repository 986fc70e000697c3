"""A status is written where it changed, and with measure."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from berth.errors import FieldError, InvalidInput
from berth.kubernetes.client import KubernetesError, Object, Unanswered
from berth.kubernetes.custom_resources import QUEUES, StatusWriter, in_object_terms, ready_condition

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class FakeClient:
    """Takes patches; `answers` are raised in order, one a call."""

    written: list[tuple[str, Any]] = field(default_factory=list)
    answers: list[Exception] = field(default_factory=list)

    async def patch(self, path: str, body: Any) -> Object:
        self.written.append((path, body["status"]))
        if self.answers:
            raise self.answers.pop(0)
        return {}


def thing(name: str = "a", **status: Any) -> Object:
    return {"metadata": {"name": name, "uid": f"u-{name}", "generation": 1}, "status": status}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def writer(client: FakeClient, **settings: Any) -> tuple[StatusWriter, Clock]:
    clock = Clock()
    made = StatusWriter(client, monotonic=clock, **settings)  # type: ignore[arg-type]
    made.begin()
    return made, clock


async def test_what_stands_is_not_written_again_and_figures_wait() -> None:
    client = FakeClient()
    statuses, clock = writer(client, every_seconds=5)
    ready = [{"type": "Ready", "status": "True"}]
    assert not await statuses.write(QUEUES, thing(conditions=ready, n=1), {"conditions": ready, "n": 1})
    assert await statuses.write(QUEUES, thing(), {"conditions": ready, "n": 1})
    # It has not come back yet, and the figure changed: it waits.
    assert not await statuses.write(QUEUES, thing(), {"conditions": ready, "n": 2})
    clock.now = 4.9
    assert not await statuses.write(QUEUES, thing(conditions=ready, n=1), {"conditions": ready, "n": 3})
    clock.now = 5.0
    assert await statuses.write(QUEUES, thing(conditions=ready, n=1), {"conditions": ready, "n": 3})
    # A condition does not wait; nor does another object of the same name.
    refused = [{"type": "Ready", "status": "False"}]
    assert await statuses.write(QUEUES, thing(conditions=ready, n=3), {"conditions": refused, "n": 3})
    assert [status.get("n") for _, status in client.written] == [1, 3, 3]


async def test_a_round_writes_so_many_and_the_rest_come_in_the_next() -> None:
    client = FakeClient()
    statuses, clock = writer(client, most=2)
    for name in "abc":
        await statuses.write(QUEUES, thing(name), {"n": 1})
    assert [path for path, _ in client.written] == [f"{QUEUES}/a/status", f"{QUEUES}/b/status"]
    statuses.begin()
    assert await statuses.write(QUEUES, thing("c"), {"n": 1})
    # Those that change all the time do not keep the others from it.
    things = {name: thing(name) for name in "abcd"}
    for number in range(1, 5):
        clock.now += 5
        statuses.begin()
        for _, one in statuses.longest_unwritten(QUEUES, things):
            await statuses.write(QUEUES, one, {"n": number + 1})
    assert sorted(path.removeprefix(f"{QUEUES}/")[0] for path, _ in client.written[3:]) == list("aabbccdd")


async def test_what_was_not_answered_is_written_again_and_what_is_gone_is_not_missed() -> None:
    client = FakeClient(answers=[Unanswered("cut off"), KubernetesError(404, "NotFound", "")])
    statuses, _ = writer(client)
    with pytest.raises(Unanswered):
        await statuses.write(QUEUES, thing(), {"n": 1})
    assert not await statuses.write(QUEUES, thing(), {"n": 1})
    assert await statuses.write(QUEUES, thing(), {"n": 1})


def test_a_condition_keeps_the_time_of_its_last_change() -> None:
    first = ready_condition(thing(), ready=True, reason="InForce", message="in force", now=NOW)
    later = {"now": NOW + timedelta(hours=1), "message": "m"}
    same = ready_condition(thing(conditions=[first]), ready=True, reason="InForce", **later)  # type: ignore[arg-type]
    other = ready_condition(thing(conditions=[first]), ready=False, reason="Refused", **later)  # type: ignore[arg-type]
    assert [one["lastTransitionTime"] for one in (first, same, other)] == [
        "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z",
    ]  # fmt: skip


def test_errors_name_the_fields_of_the_object() -> None:
    error = InvalidInput(
        [FieldError("queue[a].quotas[0].borrowing_limit", "-1", "r"), FieldError("accelerator", "x", "s")]
    )
    assert in_object_terms(error, "queue", "a") == "spec.quotas[0].borrowingLimit: '-1': r; spec.accelerator: 'x': s"
