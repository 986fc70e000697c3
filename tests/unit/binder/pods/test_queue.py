"""The work queue: each key once, one worker at a time, and one timer a key."""

import asyncio

from binder.pods.queue import WorkQueue


async def test_a_key_is_taken_once_and_again_only_when_it_came_meanwhile() -> None:
    queue: WorkQueue[str] = WorkQueue(lambda: 0.0)
    for key in ("a", "b", "a"):
        queue.put(key)
    assert [await queue.take(), await queue.take()] == ["a", "b"]
    queue.put("a")
    waiting = asyncio.ensure_future(queue.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.done("b")
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.done("a")
    assert await waiting == "a"


async def test_a_key_has_one_timer_the_earliest() -> None:
    clock = [0.0]
    queue: WorkQueue[str] = WorkQueue(lambda: clock[0])
    running = asyncio.create_task(queue.run())
    taken: list[str] = []

    async def work() -> None:
        while True:
            key = await queue.take()
            taken.append(key)
            queue.done(key)

    working = asyncio.create_task(work())
    try:
        for seconds in (30.0, 10.0, 20.0):
            queue.put_in("a", seconds)
        queue.put_in("b", 15.0)
        seen = []
        for clock[0] in (9.0, 10.0, 15.0, 20.0, 30.0):
            await asyncio.sleep(0.12)
            seen.append("".join(taken))
        assert seen == ["", "a", "ab", "ab", "ab"]
    finally:
        for task in (running, working):
            task.cancel()
        await asyncio.gather(running, working, return_exceptions=True)
