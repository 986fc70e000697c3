"""Pods on a real control plane with simulated nodes: Berth beside the real kube-scheduler, in one run.

    python -m tests.benchmarks.bench_kubernetes [--quick] [--kill]

5,000 plain pods of one device for both, then for Berth 300 gangs of 8 more; judged from the API server alone. `--kill`:
SIGKILL of engine, binder and API server in the middle of Berth's part. Absolute figures belong to the machine, on which
broker, database, API server, etcd, KWOK and the judge share the cores; the ratio is of one run.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from berth.kubernetes.client import Kubernetes
from tests.benchmarks.bench_system import metric, running_system
from tests.kubernetes.conftest import empty, load_control_plane, pod
from tests.kubernetes.judge import GANG, Judge, create_all, percentile
from tests.kubernetes.scheduler import free_port
from tests.services import ServiceProcess

RESOURCE = "nvidia.com/gpu"
GANG_SIZE = 8
SERVICES = ("placement-engine", "binder", "telemetry-ingest")


def plain(count: int, scheduler: str) -> list[dict[str, Any]]:
    return [pod(f"p{number}", scheduler=scheduler, limits={RESOURCE: 1}) for number in range(count)]


def group(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "scheduling.k8s.io/v1beta1",
        "kind": "PodGroup",
        "metadata": {"name": name},
        "spec": {"schedulingPolicy": {"gang": {"minCount": GANG_SIZE}}},
    }


def members(name: str) -> list[dict[str, Any]]:
    return [
        pod(
            f"{name}-{number}",
            labels={GANG: name},
            limits={RESOURCE: 1},
            schedulingGroup={"podGroupName": name},
        )
        for number in range(GANG_SIZE)
    ]


def tell(title: str, count: int, seconds: float, waits: Sequence[float]) -> None:
    print(
        f"{title:<22}{count} pods: {count / seconds:.0f} pods/s, creation to binding "
        f"p50 {percentile(waits, 0.5):.2f} s, p99 {percentile(waits, 0.99):.2f} s",
        flush=True,
    )


async def kube_scheduler(cluster: Any, client: Kubernetes, count: int) -> float:
    """Pods a second of the real kube-scheduler."""
    cluster.start("kube-scheduler")
    await asyncio.sleep(3.0)
    async with Judge(client) as judge:
        await create_all(client, plain(count, "default-scheduler"))
        seconds = await judge.bound(count, 600)
        tell("kube-scheduler", count, seconds, judge.waits())
        print(f"{'':<22}wrong: {await judge.verdict(RESOURCE, 8) or 'nothing'}")
    cluster.stop("kube-scheduler")
    return count / seconds


async def berth(
    cluster: Any, client: Kubernetes, services: dict[str, ServiceProcess], count: int, gangs: int, kill: bool
) -> float:
    """Pods a second of Berth, plain pods first, then gangs."""
    async with Judge(client) as judge:

        async def in_the_middle() -> None:
            await judge.bound(count // 4, 600)
            services["placement-engine"].kill()
            services["binder"].kill()
            await asyncio.sleep(0.5)
            for name in ("placement-engine", "binder"):
                services[name].start()
            await judge.bound(count // 2, 600)
            cluster.kill("kube-apiserver")
            await asyncio.to_thread(cluster.start, "kube-apiserver")

        creating = asyncio.create_task(create_all(client, plain(count, "berth")))
        if kill:
            await creating
            await in_the_middle()
        await creating
        seconds = await judge.bound(count, 600)
        rate = count / seconds
        tell("berth, killed" if kill else "berth", count, seconds, judge.waits())
        names = [f"g{number}" for number in range(gangs)]
        for name in names:
            await client.post("/apis/scheduling.k8s.io/v1beta1/namespaces/default/podgroups", group(name))
        await create_all(client, [one for name in names for one in members(name)])
        await judge.bound(count + gangs * GANG_SIZE, 600)
        waits = judge.waits(gangs=True)
        ends = [one for one in judge.pods.values() if one.gang]
        took = max(one.bound for one in ends) - min(one.created for one in ends)
        tell(f"berth, {gangs} gangs of {GANG_SIZE}", len(ends), took, waits)
        print(f"{'':<22}wrong: {await judge.verdict(RESOURCE, 8) or 'nothing'}")
    for name, service in services.items():
        cpu = await metric(service, "process_cpu_seconds_total")
        memory = await metric(service, "process_resident_memory_bytes")
        print(f"{'':<22}{name}: {cpu:.1f} s CPU, {memory / 2**20:.0f} MiB")
    return rate


async def run(nodes: int, pods: int, gangs: int, kill: bool) -> None:
    module = load_control_plane()
    if missing := module.available():
        raise SystemExit(f"the benchmark runs on a real control plane: {missing}")
    with tempfile.TemporaryDirectory() as folder, module.ControlPlane(Path(folder)) as cluster:
        labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
        async with await Kubernetes.connect(cluster.kubeconfig) as client:
            await asyncio.to_thread(
                cluster.add_nodes,
                nodes,
                prefix="gpu",
                resources={RESOURCE: 8},
                labels=labels,
                racks=max(1, nodes // 16),
            )
            print(f"Kubernetes {module.kubernetes_version()}, {nodes} simulated nodes of 8 devices", flush=True)
            reference = await kube_scheduler(cluster, client, pods)
            await empty(client, nodes=False)
            async with running_system(()) as (system, _):
                settings = {"kubernetes": "true", "kubeconfig": str(cluster.kubeconfig)}
                # A port that outlives a kill: the binder goes on asking there.
                engine = system.service("placement-engine", grpc_listen=f"127.0.0.1:{free_port()}", **settings)
                await engine.ready()
                services = {
                    "placement-engine": engine,
                    "telemetry-ingest": system.service("telemetry-ingest", **settings),
                    "binder": system.service(
                        "binder", executors="kubernetes", engine=engine.endpoint("grpc"), **settings
                    ),
                }
                for service in services.values():
                    await service.ready()

                async def known() -> bool:
                    return bool((await system.fetch("SELECT count(*) AS n FROM engine.node"))[0]["n"] == nodes)

                await system.eventually(known)
                ours = await berth(cluster, client, services, pods, gangs, kill)
                audit = await system.audit(engine)
                print(f"{'':<22}audit: {len(audit.violations)} broken invariants")
            if not kill:
                print(f"ratio                 berth / kube-scheduler, plain pods a second: {ours / reference:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--kill", action="store_true")
    chosen = parser.parse_args()
    asyncio.run(run(100, 400, 30, chosen.kill) if chosen.quick else run(1000, 5000, 300, chosen.kill))


if __name__ == "__main__":
    main()
