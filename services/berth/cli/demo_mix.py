"""The 200 jobs of `berth demo`: the same mix each time."""

import random
import sys
from dataclasses import dataclass
from typing import Any

__all__ = ["QUEUES", "DemoJob", "demo_jobs"]

QUEUES = (("training", 3.0), ("inference", 2.0), ("batch", 1.0))
GANGS, INFERENCE, BATCH, COMMANDS = 30, 70, 90, 10
SEED = 20

PRIMES = (
    "import os, sys\n"
    "primes = [n for n in range(2, 20000) if all(n % d for d in range(2, int(n ** .5) + 1))]\n"
    "print(len(primes), 'primes below 20,000, by process', os.getpid())\n"
)
CHECKSUM = "import hashlib\nprint('sha256', hashlib.sha256(bytes(1 << 24)).hexdigest()[:16], 'of 16 MiB')\n"


@dataclass(frozen=True, slots=True)
class DemoJob:
    """A job document, and how it travels: "protobuf" or "json" on Kafka, or "grpc"."""

    document: dict[str, Any]
    through: str


def demo_jobs() -> list[DemoJob]:
    """Training gangs, inference, batch, and commands for this machine, in a mixed order."""
    dice = random.Random(SEED)
    documents = [
        *(_gang(dice, number) for number in range(GANGS)),
        *(_inference(dice, number) for number in range(INFERENCE)),
        *(_batch(dice, number) for number in range(BATCH)),
    ]
    dice.shuffle(documents)
    # The commands come early: their processes start while the rest is placed.
    for number, document in enumerate(_commands()):
        documents.insert(3 + 7 * number, document)
    ways = ("protobuf", "grpc", "json", "grpc")
    return [DemoJob(document, ways[number % len(ways)]) for number, document in enumerate(documents)]


def _simulated(dice: random.Random, low: float, high: float) -> dict[str, Any]:
    return {"executor": "simulated", "expected_duration": f"{dice.uniform(low, high):.1f}s"}


def _gang(dice: random.Random, number: int) -> dict[str, Any]:
    workload = dice.choice(("llama-8b-finetune", "resnet50-train"))
    return {
        "name": f"{'finetune' if workload.startswith('llama') else 'resnet'}-{number:02d}",
        "queue": "training",
        "kind": "training",
        "priority": dice.choice((0, 0, 10)),
        "replicas": dice.choice((2, 2, 4)),
        "devices": dice.choice((1, 2, 4)),
        "device_memory": "24Gi" if workload.startswith("resnet") else "40Gi",
        "cpu": 2,
        "memory": "8Gi",
        "workload": workload,
        "objective": dice.choice(("cost", "time", "energy")),
        "topology": {"level": dice.choice(("rack", "zone")), "required": False},
        **_simulated(dice, 4, 9),
    }


def _inference(dice: random.Random, number: int) -> dict[str, Any]:
    serve = dice.random() < 0.4
    return {
        "name": f"{'serve' if serve else 'embed'}-{number:02d}",
        "queue": "inference",
        "kind": "inference",
        "priority": 20,
        "device_fraction": 0.5 if serve else 0.25,
        "device_memory": "16Gi" if serve else "4Gi",
        "cpu": "500m",
        "memory": "2Gi",
        "workload": "llama-8b-serve" if serve else "bert-embed",
        "objective": "latency",
        **_simulated(dice, 3, 7),
    }


def _batch(dice: random.Random, number: int) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": f"score-{number:02d}",
        "queue": "batch",
        "kind": "batch",
        "devices": 1,
        "cpu": 1,
        "memory": "4Gi",
        "workload": "bert-embed",
        "objective": dice.choice(("cost", "energy")),
        "preemptible": True,
        **_simulated(dice, 2, 6),
    }
    stack = dice.choice(("", "", "CUDA", "ROCm"))
    if stack:
        document["accelerators"] = {"stacks": [stack]}
    return document


def _commands() -> list[dict[str, Any]]:
    programs: tuple[tuple[str, list[str]], ...] = (
        ("primes", [sys.executable, "-c", PRIMES]),
        ("checksum", [sys.executable, "-c", CHECKSUM]),
        ("whereami", ["sh", "-c", "uname -srm; echo on $(hostname); env | grep ^BERTH_ | sort"]),
        ("steps", ["sh", "-c", "for step in 1 2 3; do echo step $step; sleep 0.3; done"]),
        ("words", ["sh", "-c", "printf 'a b c a b a' | tr ' ' '\\n' | sort | uniq -c | sort -rn"]),
    )
    return [
        {
            "name": f"{name}-{round_}",
            "queue": "batch",
            "kind": "batch",
            "priority": 5,
            "cpu": "100m",
            "memory": "32Mi",
            "command": argv,
        }
        for round_ in range(COMMANDS // len(programs))
        for name, argv in programs
    ]
