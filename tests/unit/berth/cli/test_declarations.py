"""Queues, pools and nodes as a person declares them."""

from typing import Any

import pytest

from berth.cli.declarations import parse_declarations
from berth.errors import InvalidInput
from berth.v1 import fleet_pb2 as pb


def test_a_queue_with_quotas() -> None:
    (queue,) = parse_declarations(
        [
            {
                "queues": [
                    {
                        "name": "vision",
                        "parent": "research",
                        "weight": 2,
                        "quotas": [
                            {"accelerator": "NVIDIA H100 SXM", "devices": 16, "borrowing_limit": 8, "lending_limit": 0},
                            {"accelerator": "GPU", "devices": 24},
                            {"devices": 32},
                        ],
                        "reclaim": "lower_priority",
                        "protected": "10m",
                    }
                ]
            }
        ]
    ).queues
    assert queue == pb.Queue(
        name="vision",
        parent="research",
        weight=2.0,
        quotas=[
            pb.Quota(accelerator="H100-SXM", devices=16, borrowing_limit=8, lending_limit=0),
            pb.Quota(accelerator="GPU", devices=24),
            pb.Quota(devices=32),
        ],
        reclaim=pb.RECLAIM_LOWER_PRIORITY,
        protected_seconds=600,
    )


def test_devices_spread_over_numa_domains_and_links() -> None:
    (node,) = parse_declarations(
        [{"nodes": [{"name": "n", "devices": {"model": "H100-SXM", "count": 4, "numa": 2, "link": 1}}]}]
    ).nodes
    assert [dict(device.topology) for device in node.devices] == [
        {"numa": "0", "link": "0"},
        {"numa": "0", "link": "0"},
        {"numa": "1", "link": "0"},
        {"numa": "1", "link": "0"},
    ]


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"queues": [{"name": "q", "quotas": [{"accelerator": "H1000", "devices": 1}]}]}, "queues[0].quotas[0].accel"),
        ({"queues": [{"name": "q", "quotas": [{"device": 1}]}]}, "queues[0].quotas[0].device"),
        ({"queues": [{"name": "q", "quotas": [{"devices": "many"}]}]}, "queues[0]"),
        ({"queues": [{"name": "q", "reclaim": "always"}]}, "queues[0].reclaim"),
        ({"queues": [{"name": "q", "protected": "soon"}]}, "queues[0].protected"),
        ({"nodes": [{"name": "n", "devices": {"model": "L4", "count": 2, "numa": 3}}]}, "nodes[0].devices.numa"),
        ({"nodes": [{"name": "n", "devices": {"model": "L4", "gpus": 3}}]}, "nodes[0].devices.gpus"),
    ],
)
def test_a_mistake_names_its_place(document: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_declarations([document])
    assert any(error.field.startswith(field) and error.remedy for error in caught.value.errors)
