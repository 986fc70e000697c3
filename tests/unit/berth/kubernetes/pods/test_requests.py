"""Kubernetes' rule for what a pod needs, against another way to say it: the most that ever runs at once."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from berth.kubernetes.pods.requests import Requests, requests_of

AMOUNT = st.integers(0, 20)
CONTAINERS = st.lists(AMOUNT, min_size=1, max_size=4)
INITS = st.lists(st.tuples(AMOUNT, st.booleans()), max_size=5)


def container(cpu: int, *, sidecar: bool = False) -> dict[str, Any]:
    made: dict[str, Any] = {"resources": {"requests": {"cpu": f"{cpu}m", "nvidia.com/gpu": str(cpu)}}}
    return made | ({"restartPolicy": "Always"} if sidecar else {})


@given(CONTAINERS, INITS, AMOUNT)
def test_a_pod_needs_the_most_that_runs_at_once(main: list[int], inits: list[tuple[int, bool]], overhead: int) -> None:
    pod = {
        "spec": {
            "containers": [container(one) for one in main],
            "initContainers": [container(cpu, sidecar=sidecar) for cpu, sidecar in inits],
            "overhead": {"cpu": f"{overhead}m"},
        }
    }
    running, most = 0, 0
    for cpu, sidecar in inits:
        most = max(most, running + cpu)
        running += cpu if sidecar else 0
    most = max(most, running + sum(main))
    asked = requests_of(pod)
    assert asked.cpu_milli == most + overhead
    assert asked.devices == ({"nvidia.com/gpu": most} if most else {})


def test_limits_stand_for_requests_and_the_pods_own_for_the_sum() -> None:
    one = {"resources": {"limits": {"cpu": "2", "amd.com/gpu": "1"}, "requests": {"cpu": "1500u", "memory": "1.5Gi"}}}
    pod = {"spec": {"containers": [one, {}], "resources": {"requests": {"memory": "4G", "hugepages-1Gi": "1Gi"}}}}
    assert requests_of(pod) == Requests(2, 4 * 10**9, {"amd.com/gpu": 1}, ("hugepages-1Gi",))
