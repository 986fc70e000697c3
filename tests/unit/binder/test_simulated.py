import asyncio
import time

from binder.domain.attempt import AttemptId, Observation, Seen
from binder.domain.work import Assignment, Member, Work
from binder.executors.simulated import SimulatedExecutor
from tests.unit.binder.builders import make_attempt


def assignment(job_id: str, seconds: float | None, started_at: float | None = None) -> Assignment:
    return Assignment(make_attempt(job_id, started_at=started_at), Work((Member(0, "n"),), expected_seconds=seconds))


async def ends_of(executor: SimulatedExecutor, count: int, act: list[Assignment]) -> dict[str, Observation]:
    seen: dict[str, Observation] = {}
    enough = asyncio.Event()

    def sink(observations: dict[AttemptId, Observation]) -> None:
        seen.update({each.job_id: observation for each, observation in observations.items()})
        if len(seen) >= count:
            enough.set()

    await executor.start(sink)  # type: ignore[arg-type]
    try:
        await executor.bind(act)
        await asyncio.wait_for(enough.wait(), 10)
    finally:
        await executor.stop()
    return seen


async def test_it_holds_for_the_duration_divided_by_the_speed() -> None:
    executor = SimulatedExecutor(speed=100, clock=time.time)
    seen = await ends_of(executor, 3, [assignment("long", 20), assignment("short", 2), assignment("default", None)])
    held = {name: round(each.at - (each.started_at or 0), 3) for name, each in seen.items()}
    assert held == {"long": 0.2, "short": 0.02, "default": 0.05}
    assert list(seen) == ["short", "default", "long"]
    assert {each.seen for each in seen.values()} == {Seen.SUCCEEDED}


async def test_after_a_restart_the_rest_is_held() -> None:
    now = 1000.0
    executor = SimulatedExecutor(speed=1, clock=lambda: now)
    seen: list[Observation] = []
    await executor.start(lambda observations: seen.extend(observations.values()))
    try:
        read = await executor.read_back(
            [assignment("over", 5, 990.0), assignment("running", 50, 990.0), assignment("never-begun", 5)]
        )
        assert [each.seen for each in read.values()] == [Seen.STARTED, Seen.STARTED, Seen.ABSENT]
        await asyncio.sleep(0.05)
    finally:
        await executor.stop()
    assert seen == [Observation(Seen.SUCCEEDED, 995.0, exit_code=0, started_at=990.0)]


async def test_what_is_released_does_not_end_by_itself_and_twice_bound_is_held_once() -> None:
    executor = SimulatedExecutor(speed=100, clock=time.time)
    gone, twice = assignment("gone", 1), assignment("twice", 3)
    first = await executor.bind([gone, twice])
    assert await executor.bind([twice]) == {twice.id: first[twice.id]}
    assert [each.seen for each in (await executor.release([gone])).values()] == [Seen.RELEASED]
    assert set(await ends_of(executor, 1, [])) == {"twice"}
