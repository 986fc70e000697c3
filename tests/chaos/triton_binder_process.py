"""A binder's worker for Triton as a process of its own, which kills itself where it is told to.

`python -m tests.chaos.triton_binder_process DSN ADDRESS POINT`: it ends by SIGKILL when it first passes POINT; with
POINT "never" it runs until it is killed. It looks at nothing that runs but when it is released.
"""

import asyncio
import sys
import time
from typing import Any

from berth.backends import triton_python
from berth.models.artefact_file import open_artefact
from berth.postgres import Database
from binder.adapters.report_store import PostgresReports
from binder.adapters.store import PostgresStore
from binder.executors.model_rules import ModelRules
from binder.executors.triton import TritonExecutor
from binder.executors.triton_copies import Servers
from binder.observing import Observer
from binder.worker import Pace, Worker
from tests.chaos.binder_process import arm

POINTS: dict[str, tuple[Any, str, bool]] = {
    "before the last look": (Observer, "last_look", False),
    "after the server told its counts": (TritonExecutor, "reports", True),
    "after the reading is written": (PostgresReports, "tell", True),
    "after the unload": (TritonExecutor, "release", True),
}


async def main(dsn: str, address: str, point: str) -> None:
    if point != "never":
        arm(POINTS[point])
    database = await Database.open(dsn, "binder")
    await database.migrate("berth", "binder")
    backends = [triton_python.backend()]
    executors = {
        "triton": TritonExecutor(Servers(template=address), backends, rules=ModelRules(open_artefact), clock=time.time)
    }
    observer = Observer(
        PostgresReports(database), executors, every_seconds=3600.0, clock=time.time, told=lambda: None
    )  # fmt: skip
    worker = Worker(
        PostgresStore(database, reporting=frozenset(executors)),
        executors,
        pace=Pace(answer_seconds=10, idle_seconds=0.02, reconcile_seconds=1.0),
        published=observer.wake,
        beside=[observer.run],
        last_look=observer.last_look,
    )
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
