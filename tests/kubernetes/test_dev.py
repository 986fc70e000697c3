"""What a newcomer does: `berth dev --kubeconfig`, the example's pods, and `kubectl describe`."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from berth.kubernetes.client import Kubernetes
from tests.conftest import ROOT

PODS = "/api/v1/namespaces/default/pods"


@pytest.mark.timeout(180)
async def test_the_examples_pods_on_a_cluster(cluster: Any, kubernetes: Kubernetes, tmp_path: Path) -> None:
    labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    await asyncio.to_thread(
        cluster.add_nodes, 10, prefix="gpu", resources={"nvidia.com/gpu": 8}, labels=labels, racks=2
    )
    log = tmp_path / "dev.log"
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: ASYNC220
            [
                sys.executable, "-m", "berth.cli.main", "dev", "--no-agent", "--state", str(tmp_path / "state"),
                "--context", str(tmp_path / "context.json"), "--kubeconfig", str(cluster.kubeconfig),
            ],
            stdout=out, stderr=out, env={key: value for key, value in os.environ.items() if "BERTH" not in key},
        )  # fmt: skip
    try:
        cluster.kubectl("apply", "-f", str(ROOT / "examples/kubernetes/pods.yaml"))

        async def settled() -> bool:
            pods, _ = await kubernetes.list(PODS)
            waits = [
                condition
                for pod in pods
                for condition in pod["status"].get("conditions", ())
                if condition["type"] == "PodScheduled" and condition["status"] == "False"
            ]
            running = [pod for pod in pods if pod["status"].get("phase") == "Running"]
            return len(running) == 5 and len(waits) == 1

        async with asyncio.timeout(120):
            while not await settled():
                assert process.poll() is None, log.read_text()
                await asyncio.sleep(0.2)
        pods, _ = await kubernetes.list(PODS, labelSelector="job-name=gang")
        racks = {int(pod["spec"]["nodeName"].removeprefix("gpu-")) // 5 for pod in pods}
        assert (len(pods), len(racks)) == (4, 1)
        described = cluster.kubectl("describe", "pod", "too-large")
        assert "FailedScheduling" in described
        assert "16" in described.partition("Events:")[2]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130, log.read_text()
