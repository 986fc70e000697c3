"""A binder's worker as a process of its own that kills itself where it is told to.

`python -m tests.chaos.binder_process DSN STATE_DIR POINT [AFTER]`: at the AFTERth time (default 1st) that it passes
POINT it ends by SIGKILL; with POINT "never" it runs until it is killed.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from berth.postgres import Database
from binder.adapters.store import PostgresStore
from binder.executors.attempt_folder import AttemptFolder
from binder.executors.process import ProcessExecutor
from binder.worker import Pace, Worker

POINTS: dict[str, tuple[Any, str, bool]] = {
    "before the intent is taken": (PostgresStore, "take", False),
    "after the intent is taken": (PostgresStore, "take", True),
    "before the executor is asked": (ProcessExecutor, "bind", False),
    "before a runner is spawned": (ProcessExecutor, "_spawn", False),
    "after a runner is spawned": (ProcessExecutor, "_spawn", True),
    "before the go": (AttemptFolder, "decide", False),
    "after the go": (AttemptFolder, "decide", True),
    "after the executor answered": (ProcessExecutor, "bind", True),
    "before the outcome is written": (PostgresStore, "settle", False),
    "after the outcome is written": (PostgresStore, "settle", True),
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: tuple[Any, str, bool], after: int = 1) -> None:
    """`point`: a class, a method of it, and whether it is passed after the call rather than before."""
    owner, name, afterwards = point
    inner: Callable[..., Any] = getattr(owner, name)
    left = after

    def passed() -> bool:
        nonlocal left
        left -= 1
        return left <= 0

    if asyncio.iscoroutinefunction(inner):

        async def wrapped(*arguments: Any) -> Any:
            if not afterwards and passed():
                die()
            result = await inner(*arguments)
            # Looking for work and finding none is no step.
            if afterwards and result and passed():
                die()
            return result
    else:

        def wrapped(*arguments: Any) -> Any:
            if not afterwards and passed():
                die()
            result = inner(*arguments)
            if afterwards and passed():
                die()
            return result

    setattr(owner, name, wrapped)


async def main(dsn: str, state_dir: str, point: str, after: int) -> None:
    if point != "never":
        arm(POINTS[point], after)
    database = await Database.open(dsn, "binder")
    await database.migrate("berth", "binder")
    executor = ProcessExecutor(Path(state_dir) / "attempts", stack_of=lambda _: "", grace_seconds=0.5)
    pace = Pace(answer_seconds=10, idle_seconds=0.02, reconcile_seconds=1.0)
    await Worker(PostgresStore(database), {"process": executor}, pace=pace).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else 1))
