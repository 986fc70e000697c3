"""The Kubernetes cluster as the binder has it: one client, and one mirror of the pods that ask for Berth."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from berth.kubernetes import names
from berth.kubernetes.claims.book import ClaimBook
from berth.kubernetes.client import Kubernetes
from berth.kubernetes.informer import Informer, run_all

__all__ = ["Cluster", "open_cluster"]

RESYNC_SECONDS = 60.0
# The server sends a bookmark about once a minute: a mirror that has heard nothing for so long is not a mirror.
SILENT_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """`pods`: those with schedulerName berth, of all namespaces, bound ones too. `created`: those that the binder
    made of jobs' manifests; `claims`: resource claims and what may serve them. Listen before `run`."""

    client: Kubernetes
    pods: Informer
    created: Informer
    claims: ClaimBook

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run_all([self.pods, self.created]))
            tasks.create_task(self.claims.run())

    def not_ready(self) -> list[str]:
        reasons = []
        for what, informer in (("pods", self.pods), ("created pods", self.created)):
            if not informer.synced.is_set():
                reasons.append(f"kubernetes: {what} at {self.client.server} are not listed yet")
            elif time.monotonic() - informer.last_heard > SILENT_SECONDS:
                reasons.append(
                    f"kubernetes: nothing heard of {what} from {self.client.server} for {SILENT_SECONDS:g} s"
                )
        return reasons


@asynccontextmanager
async def open_cluster(kubeconfig: Path | None) -> AsyncIterator[Cluster]:
    """Asks nothing of the server yet. Raises InvalidInput where the configuration cannot be used."""
    async with await Kubernetes.connect(kubeconfig) as client:
        yield Cluster(
            client,
            Informer(
                client,
                "/api/v1/pods",
                field_selector=f"spec.schedulerName={names.SCHEDULER_NAME}",
                resync_seconds=RESYNC_SECONDS,
            ),
            Informer(client, "/api/v1/pods", label_selector=names.CREATED_FOR),
            ClaimBook(client),
        )
