"""Resource claims where a real API server seldom refuses: by answers that say nothing of the claim."""

from typing import Any

import pytest

from berth.kubernetes.claims.book import ClaimBook
from berth.kubernetes.client import KubernetesError, Object
from binder.executors import kubernetes_claims
from binder.executors.kubernetes_claims import ClaimAllocator, ClaimsRefused

NODES = "/api/v1/nodes/"


class FakeClient:
    """Nodes are there; every write is refused by `refusal`."""

    def __init__(self, refusal: KubernetesError) -> None:
        self.refusal = refusal

    async def get(self, path: str) -> Object:
        assert path.startswith(NODES), path
        return a_node(path.removeprefix(NODES))

    async def put(self, path: str, body: Object) -> Object:
        raise self.refusal


def a_node(name: str) -> Object:
    return {"metadata": {"name": name, "labels": {"zone": "a"}}, "status": {"images": ["many"]}}


def allocator_on(client: Any) -> ClaimAllocator:
    """Its mirror has one claim, that is allocated."""
    book = ClaimBook(client)
    for informer in (book._slices, book._classes, book._claims, book._rules):
        informer.synced.set()
    allocation = {"devices": {"results": [{"request": "gpu", "driver": "d", "pool": "p", "device": "0"}]}}
    metadata = {"namespace": "default", "name": "shared", "uid": "u", "resourceVersion": "1"}
    book._claims.objects["default/shared"] = {
        "metadata": metadata, "spec": {"devices": {"requests": []}}, "status": {"allocation": allocation},
    }  # fmt: skip
    return ClaimAllocator(client, book)


POD: Object = {
    "metadata": {"namespace": "default", "name": "a", "uid": "u-a"},
    "spec": {"resourceClaims": [{"name": "gpu", "resourceClaimName": "shared"}]},
}


@pytest.mark.parametrize(
    ("status", "raised"),
    [(401, KubernetesError), (403, KubernetesError), (429, KubernetesError), (422, ClaimsRefused)],
)
async def test_an_answer_that_says_nothing_of_the_claim_refuses_nothing(status: int, raised: type[Exception]) -> None:
    allocator = allocator_on(FakeClient(KubernetesError(status, "Reason", "words")))
    with pytest.raises(raised, match="words"):
        await allocator.allocate(POD, "n-0", [], "job.1")


async def test_of_a_node_its_labels_are_kept_and_of_no_more_nodes_than_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kubernetes_claims, "MOST_NODES", 3)
    allocator = allocator_on(FakeClient(KubernetesError(422, "Invalid", "words")))
    for number in range(10):
        assert await allocator._node(f"n-{number}") == {"metadata": {"name": f"n-{number}", "labels": {"zone": "a"}}}
        assert len(allocator._nodes) <= 3
    assert "n-9" in allocator._nodes
