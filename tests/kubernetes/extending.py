"""Berth's engine beside a real kube-scheduler that asks it, for tests of the extender."""

import asyncio
import socket
import time
from typing import Any

import aiohttp

from berth.kubernetes.client import Kubernetes, Object
from berth.topics import TELEMETRY_DEVICES
from berth.v1 import fleet_pb2, telemetry_pb2
from tests.services import ServiceProcess, System

PODS = "/api/v1/namespaces/default/pods"
GPU = "nvidia.com/gpu"


def a_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fleet_node(name: str, devices: int = 8, *, model: str = "H100-SXM", **fields: Any) -> fleet_pb2.Node:
    facts = {
        "cpu_milli": 64_000, "memory_bytes": 2**39, "executors": ["kubernetes"], "schedulable": True, "version": 1,
        "telemetry_exempt": True, "topology": {"node": name}, "labels": {"kubernetes.io/hostname": name},
    }  # fmt: skip
    return fleet_pb2.Node(
        name=name,
        pool="default",
        devices=[
            fleet_pb2.Device(
                device_id=f"{name}/{index}", index=index, model=model, device_class="GPU", stack="CUDA",
                memory_bytes=80 * 10**9, present=True,
            )
            for index in range(devices)
        ],
        **{**facts, **fields},
    )  # fmt: skip


async def publish_margins(system: System, sequence: int, **margins: float) -> None:
    """Degrees to slowdown of all eight devices of a node; "_" in a name stands for "-"."""
    for name, margin in margins.items():
        node = name.replace("_", "-")
        record = telemetry_pb2.NodeTelemetry(node=node, boot_id="b", sequence=sequence)
        record.received_at.FromNanoseconds(time.time_ns())
        for index in range(8):
            record.devices.add(device_id=f"{node}/{index}", margin_celsius=margin)
        await system.producer.send(TELEMETRY_DEVICES, record.SerializeToString(), key=node.encode())
    await system.producer.flush()


class Extended:
    """An engine that serves the extender on `port`, and what it is told of the fleet."""

    def __init__(self, system: System, engine: ServiceProcess, port: int) -> None:
        self.system = system
        self.engine = engine
        self._sequence = 0
        self.url = f"http://127.0.0.1:{port}"

    @classmethod
    async def started(cls, system: System, nodes: list[fleet_pb2.Node], **settings: str) -> "Extended":
        port = a_free_port()
        await system.publish_nodes(nodes)
        engine = system.service("placement-engine", extender_listen=f"127.0.0.1:{port}", **settings)
        await engine.ready()
        made = cls(system, engine, port)
        names = {node.name for node in nodes}

        async def knows_the_fleet() -> bool:
            _, answer = await made.ask("filter", {"Pod": a_plain_pod(), "NodeNames": sorted(names)})
            said = {**answer["FailedNodes"], **answer["FailedAndUnresolvableNodes"]}
            return not any("knows no such node" in text for text in said.values())

        await system.eventually(knows_the_fleet)
        return made

    async def ask(self, verb: str, body: Any) -> tuple[int, Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"{self.url}/{verb}", **({"data": body} if isinstance(body, bytes) else {"json": body})
            ) as answer,
        ):
            text = await answer.text()
            return answer.status, await answer.json() if answer.content_type == "application/json" else text

    async def margins(self, **margins: float) -> None:
        """Publishes them until filter tells the hot from the others and the coolest is the best."""
        names = [name.replace("_", "-") for name in margins]
        coolest = {name.replace("_", "-") for name, margin in margins.items() if margin == max(margins.values())}
        hot = {name.replace("_", "-") for name, margin in margins.items() if margin < 5}

        async def heard() -> bool:
            # Telemetry is heard from where a consumer began: what was sent before is lost to it.
            self._sequence += 1
            await publish_margins(self.system, self._sequence, **margins)
            _, answer = await self.ask("filter", {"Pod": a_plain_pod(), "NodeNames": names})
            said = {**answer["FailedNodes"], **answer["FailedAndUnresolvableNodes"]}
            _, scores = await self.ask("prioritize", {"Pod": a_plain_pod(), "NodeNames": names})
            best = {one["Host"] for one in scores if one["Score"] == 10} - hot
            return {name for name, text in said.items() if "too hot" in text} == hot and best <= coolest

        await self.system.eventually(heard)


def a_plain_pod(**metadata: Any) -> Object:
    container = {"name": "main", "resources": {"limits": {GPU: "1"}, "requests": {GPU: "1", "cpu": "1"}}}
    named = {"name": "asked", "namespace": "default", "uid": "u", **metadata}
    return {"metadata": named, "spec": {"containers": [container]}}


def scheduler_settings(url: str, **extender: Any) -> dict[str, Any]:
    """KubeSchedulerConfiguration with Berth's extender for pods that ask for GPUs."""
    made = {
        "urlPrefix": url, "filterVerb": "filter", "prioritizeVerb": "prioritize", "weight": 100,
        "nodeCacheCapable": True, "httpTimeout": "5s", "managedResources": [{"name": GPU, "ignoredByScheduler": False}],
        **extender,
    }  # fmt: skip
    return {"extenders": [made]}


async def restart_scheduler(cluster: Any, settings: dict[str, Any]) -> None:
    def restart() -> None:
        cluster.stop("kube-scheduler")
        cluster._scheduler_config = settings
        cluster.start("kube-scheduler")

    await asyncio.to_thread(restart)


async def node_of(client: Kubernetes, name: str, seconds: float = 30.0) -> str:
    """Where the pod was bound to; "" where it was not in that time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        node = (await client.get(f"{PODS}/{name}"))["spec"].get("nodeName", "")
        if node:
            return str(node)
        await asyncio.sleep(0.05)
    return ""


async def why_it_waits(client: Kubernetes, name: str, seconds: float = 30.0) -> str:
    """The message of PodScheduled=False, once there is one."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        status = (await client.get(f"{PODS}/{name}")).get("status") or {}
        for one in status.get("conditions") or ():
            if one["type"] == "PodScheduled" and one["status"] == "False":
                return str(one["message"])
        await asyncio.sleep(0.05)
    return ""
