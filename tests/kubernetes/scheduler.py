"""Berth as the scheduler of the test cluster: real services, and what a test needs to see of them."""

import asyncio
import socket
from typing import Any

from berth.kubernetes.client import Kubernetes, KubernetesError, Object
from berth.v1 import fleet_pb2, jobs_pb2
from tests.services import ServiceProcess, System, node

PODS = "/api/v1/namespaces/default/pods"
GROUPS = "/apis/scheduling.k8s.io/v1beta1/namespaces/default/podgroups"
PENDING, PLACED, BOUND, RUNNING, SUCCEEDED, FAILED, CANCELLED, RELEASING = range(1, 9)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def cordoned(name: str, *, devices: int = 8) -> fleet_pb2.Node:
    made = node(name, devices)
    made.schedulable, made.cordon_reason = False, "under repair"
    del made.executors[:]
    made.executors.append("kubernetes")
    return made


class Scheduler:
    """An engine and a binder on one cluster."""

    def __init__(self, system: System, cluster: Any, kubernetes: Kubernetes) -> None:
        self.system, self.cluster, self.kubernetes = system, cluster, kubernetes
        port = free_port()
        self.engine = system.service("placement-engine", grpc_listen=f"127.0.0.1:{port}")
        self._binder = {
            "kubernetes": "true", "kubeconfig": str(cluster.kubeconfig), "engine": f"127.0.0.1:{port}",
            "executors": "kubernetes",
        }  # fmt: skip
        self.binder = self.start_binder("binder")

    def start_binder(self, name: str) -> ServiceProcess:
        return self.system.service("binder", name=name, **self._binder)

    async def create(self, manifest: Object) -> str:
        """The pod's uid."""
        return str((await self.kubernetes.post(PODS, manifest))["metadata"]["uid"])

    async def nodes(self) -> dict[str, str]:
        """Each pod's node, "" where it has none."""
        found, _ = await self.kubernetes.list(PODS)
        return {pod["metadata"]["name"]: pod["spec"].get("nodeName", "") for pod in found}

    async def bound(self, *names: str) -> dict[str, str]:
        """The nodes of these pods, once all have one."""

        async def all_bound() -> dict[str, str]:
            nodes = await self.nodes()
            return {name: nodes[name] for name in names} if all(nodes.get(name) for name in names) else {}

        found: dict[str, str] = await self.system.eventually(all_bound, seconds=20.0)
        return found

    async def delete(self, name: str) -> None:
        await self.kubernetes.delete(f"{PODS}/{name}", grace_seconds=0)

    async def jobs(self) -> list[dict[str, Any]]:
        """Accepted first, first: name, state, replicas, message."""
        rows = await self.system.fetch("SELECT name, state, spec, message FROM engine.job ORDER BY accepted_at, job_id")
        found = []
        for row in rows:
            spec = jobs_pb2.JobSpec.FromString(row["spec"])
            found.append({
                "name": row["name"], "state": row["state"], "message": row["message"], "spec": spec,
                "pods": [one.name for one in spec.kubernetes.pods],
            })  # fmt: skip
        return found

    async def states(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for job in await self.jobs():
            found.setdefault(job["name"], []).append(job["state"])
        return found

    async def until(self, wanted: dict[str, list[int]]) -> None:
        try:
            await self.system.eventually(lambda: self._are(wanted), seconds=20.0)
        except AssertionError as error:
            raise AssertionError(f"wanted {wanted}, there are {await self.states()}") from error

    async def _are(self, wanted: dict[str, list[int]]) -> bool:
        return await self.states() == wanted

    async def condition(self, name: str) -> Object:
        try:
            found = await self.kubernetes.get(f"{PODS}/{name}")
        except KubernetesError:
            return {}
        conditions = found.get("status", {}).get("conditions") or []
        return next((one for one in conditions if one["type"] == "PodScheduled"), {})

    async def described(self, name: str, contains: str) -> str:
        """What `kubectl describe pod` shows, once it says that."""

        async def shows() -> str:
            shown = str(await asyncio.to_thread(self.cluster.kubectl, "describe", "pod", name))
            return shown if contains in shown else ""

        return str(await self.system.eventually(shows, seconds=20.0))

    async def message(self, name: str, contains: str) -> str:
        """The condition's message, once it says that."""

        async def says() -> str:
            text = str((await self.condition(name)).get("message", ""))
            return text if contains in text else ""

        try:
            return str(await self.system.eventually(says, seconds=20.0))
        except AssertionError as error:
            raise AssertionError(f"{contains!r} not said, but {await self.condition(name)}\n{error}") from error
