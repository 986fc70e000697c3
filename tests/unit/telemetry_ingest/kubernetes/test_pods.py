"""What pods outside Berth take of a node, and which devices they are thought to hold."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.kubernetes.devices import DeviceResources
from telemetry_ingest.domain.inventory import DeviceRecord
from telemetry_ingest.domain.kubernetes.pods import PodUse, holders, requests_of, use_of
from tests.unit.telemetry_ingest.kubernetes.builders import a_pod

RESOURCES = DeviceResources()
GPU = "nvidia.com/gpu"


def asks(**requests: Any) -> dict[str, Any]:
    return {"resources": {"requests": {key.replace("__", "/"): value for key, value in requests.items()}}}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"containers": [asks(cpu="100m", memory="1Gi"), asks(cpu="1")]}, {"cpu": 1100, "memory": 1 << 30}),
        # One init container runs at a time, beside the sidecars before it; sidecars stay.
        (
            {
                "initContainers": [asks(cpu="3"), {**asks(cpu="1"), "restartPolicy": "Always"}, asks(cpu="4")],
                "containers": [asks(cpu="2")],
            },
            {"cpu": 5000},
        ),
        (
            {"initContainers": [{**asks(cpu="1"), "restartPolicy": "Always"}], "containers": [asks(cpu="2")]},
            {"cpu": 3000},
        ),
        ({"containers": [asks(cpu="1")], "overhead": {"cpu": "250m", "memory": "1Mi"}}, {"cpu": 1250, "memory": 2**20}),
        # The pod's own word stands for its containers'.
        ({"containers": [asks(cpu="1")], "resources": {"requests": {"cpu": "3"}}}, {"cpu": 3000}),
        ({"containers": [{"resources": {"limits": {GPU: "2"}}}]}, {GPU: 2}),
        ({}, {}),
    ],
)  # fmt: skip
def test_what_a_pod_asks_for(spec: dict[str, Any], expected: dict[str, int]) -> None:
    assert requests_of(spec) == expected


def test_a_foreign_pod_counts_from_its_binding_until_it_has_ended() -> None:
    asked = {"cpu": "1", "memory": "2Gi", GPU: "2", "example.com/thing": "1"}
    use = PodUse("n1", "ml/p1", True, cpu_milli=1000, memory_bytes=2 << 30, devices=((GPU, 2),))
    assert use_of(a_pod("p1", asked, phase="Pending"), RESOURCES) == use
    assert use_of(a_pod("p1", asked), RESOURCES) == use
    assert use_of(a_pod("p1", asked, node=""), RESOURCES) is None
    for phase in ("Succeeded", "Failed"):
        assert use_of(a_pod("p1", asked, phase=phase), RESOURCES) is None


def test_a_pod_of_berths_takes_nothing_and_names_its_devices() -> None:
    ours = {"berth.dev/job": "j1", "berth.dev/devices": "n1/nvidia.com-gpu/1, n1/nvidia.com-gpu/0"}
    assert use_of(a_pod("p1", {"cpu": "1", GPU: "2"}, annotations=ours), RESOURCES) == PodUse(
        "n1", "ml/p1", False, named=("n1/nvidia.com-gpu/0", "n1/nvidia.com-gpu/1")
    )


def test_a_request_that_cannot_be_read_counts_as_nothing_and_is_named() -> None:
    use = use_of(a_pod("p1", {"cpu": "much", "memory": "1Ki"}), RESOURCES)
    assert use is not None
    assert (use.cpu_milli, use.memory_bytes) == (0, 1024)
    assert use.problems[0].startswith("spec.containers[0].cpu: 'much'")


def devices(count: int, *held: str) -> list[DeviceRecord]:
    return [
        DeviceRecord(
            f"n1/nvidia.com-gpu/{index}", index, stack="CUDA", held_by=held[index] if index < len(held) else ""
        )
        for index in range(count)
    ]


def foreign(name: str, count: int) -> PodUse:
    return PodUse("n1", name, True, devices=((GPU, count),))


def ours(*indices: int) -> PodUse:
    return PodUse("n1", "ml/ours", False, named=tuple(f"n1/nvidia.com-gpu/{index}" for index in indices))


def held(before: list[DeviceRecord], *uses: PodUse, unavailable: int = 0) -> list[str]:
    found = holders(
        before, uses, RESOURCES, allocatable={GPU: str(len(before))},
        unavailable=[(GPU, unavailable)] if unavailable else [],
    )  # fmt: skip
    assert [one.device_id for one in found] == [one.device_id for one in before]
    return [one.held_by for one in found]


def test_foreign_pods_are_thought_to_hold_the_last_devices_that_berth_does_not_name() -> None:
    assert held(devices(4), foreign("ml/b", 1), foreign("ml/a", 1)) == ["", "", "ml/b", "ml/a"]
    assert held(devices(4), foreign("ml/a", 2), ours(3)) == ["", "ml/a", "ml/a", ""]
    # Too many for what Berth left: the node is overcommitted, and says so.
    assert held(devices(2), foreign("ml/a", 2), ours(1)) == ["ml/a", "ml/a"]
    assert held(devices(2), foreign("ml/a", 9)) == ["ml/a", "ml/a"]


def test_a_pod_keeps_what_it_was_thought_to_hold() -> None:
    before = devices(4, "ml/a", "", "ml/gone", "")
    assert held(before, foreign("ml/a", 2)) == ["ml/a", "", "", "ml/a"]
    # Unless a pod of Berth's names it.
    assert held(before, foreign("ml/a", 1), ours(0)) == ["", "", "", "ml/a"]
    assert held(before) == [""] * 4


def test_what_is_not_allocatable_is_nobodys() -> None:
    assert held(devices(3), foreign("ml/a", 1), unavailable=1) == ["", "ml/a", "kubelet/not-allocatable"]


counts = st.lists(st.integers(0, 3), max_size=4)


@given(st.integers(0, 6), counts, counts, st.sets(st.integers(0, 5)))
def test_as_many_are_held_as_are_asked_for_and_no_more(
    size: int, first: list[int], second: list[int], named: set[int]
) -> None:
    """Whoever came first: the count is right, the answer stable, and Berth's own are spared where that is possible."""
    berths = ours(*named)
    before = holders(
        devices(size),
        [foreign(f"ml/{n}", count) for n, count in enumerate(first)],
        RESOURCES,
        allocatable={},
        unavailable=(),
    )
    uses = [berths, *(foreign(f"ml/{n}", count) for n, count in enumerate(second))]
    after = holders(before, uses, RESOURCES, allocatable={}, unavailable=())
    asked = sum(second)
    assert sum(bool(one.held_by) for one in after) == min(asked, size)
    for number, count in enumerate(second):
        have = sum(one.held_by == f"ml/{number}" for one in after)
        assert have <= count
        assert have == count or asked > size
    free = sum(index not in named for index in range(size))
    taken_from_berth = sum(bool(one.held_by) and one.index in named for one in after)
    assert taken_from_berth == max(0, min(asked, size) - free)
    assert holders(after, uses, RESOURCES, allocatable={}, unavailable=()) == after
