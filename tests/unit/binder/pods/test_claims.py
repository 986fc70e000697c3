"""Resource claims of pods in the jobs that are made of them."""

from collections.abc import Callable
from typing import Any, cast

import pytest
from google.protobuf import text_format

from berth.errors import InvalidInput
from berth.kubernetes.claims.matching import ClaimError
from berth.kubernetes.claims.needs import ClaimAsk, ClaimsNotReady
from berth.kubernetes.client import Object
from berth.kubernetes.pods.translation import Translated, job_of
from berth.v1 import jobs_pb2 as pb
from binder.pods.claims import PodClaims
from binder.pods.plan import plan
from tests.unit.berth.kubernetes.pods.builders import a_gang, a_pod

LABEL = {"key": "claims.berth.dev/abc", "operator": "In", "values": ["2"]}
TWO = ClaimAsk(2, "abc", ({"matchExpressions": [LABEL]},))
CLAIM = [{"name": "gpu", "resourceClaimName": "mine"}]


def made(*pods: Object, ask: ClaimAsk = TWO) -> Translated:
    return job_of(pods, a_gang(len(pods)) if len(pods) > 1 else None, lambda _: None, ask_of=lambda _: ask)


def required(spec: pb.JobSpec) -> list[list[tuple[str, str, list[str]]]]:
    return [[(r.key, r.operator, list(r.values)) for r in term.requirements] for term in spec.nodes.required]


def test_a_claim_is_devices_with_the_needs_trait_on_marked_nodes() -> None:
    spec = made(a_pod(resourceClaims=CLAIM, nodeSelector={"zone": "a"})).spec
    assert text_format.MessageToString(spec.accelerators) == 'traits: "abc"\n'
    assert spec.resources.devices == 2
    assert required(spec) == [[("zone", "In", ["a"]), ("claims.berth.dev/abc", "In", ["2"])]]


def test_every_choice_of_nodes_is_narrowed() -> None:
    terms = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]} for zone in "ab"]
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
    field = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}
    ask = ClaimAsk(0, "", (field, {"matchExpressions": [LABEL]}))
    spec = made(a_pod(resourceClaims=CLAIM, affinity=affinity), ask=ask).spec
    assert required(spec) == [
        [("zone", "In", [zone]), end]
        for zone in "ab"
        for end in (("metadata.name", "In", ["n1"]), ("claims.berth.dev/abc", "In", ["2"]))
    ]
    assert not spec.HasField("accelerators")


def test_claims_and_a_plugins_resource_are_not_mixed() -> None:
    from berth.kubernetes.devices import claim_of

    with pytest.raises(InvalidInput, match=r"spec\.resourceClaims: 'given': a pod takes devices by claims or"):
        job_of([a_pod(resourceClaims=CLAIM, requests={"nvidia.com/gpu": "1"})], None, claim_of, ask_of=lambda _: TWO)


def test_members_do_not_share_what_is_not_allocated() -> None:
    pods = [a_pod(name, resourceClaims=CLAIM) for name in ("a", "b")]
    with pytest.raises(InvalidInput, match=r"'mine': members of a gang cannot share a claim"):
        made(*pods)
    assert made(*pods, ask=ClaimAsk()).spec.replicas == 2


def test_a_pod_whose_claim_is_not_there_waits_and_one_that_cannot_be_is_refused() -> None:
    pod = a_pod(resourceClaims=CLAIM)

    def planned(error: Exception) -> tuple[dict[str, str], float | None]:
        def make(pods: object, gang: object, minimum: int) -> Translated:
            def ask_of(_: Object) -> ClaimAsk:
                raise error

            return job_of([pod], None, lambda _: None, ask_of=ask_of)

        found = plan([pod], None, [], make, now=0.0)
        assert not found.submit
        return found.said, found.again_in

    assert planned(ClaimsNotReady("waits for claim 'mine'")) == ({"uid-p": "waits for claim 'mine'"}, 5.0)
    said, _ = planned(ClaimError("there is no device class 'x'"))
    assert said == {"uid-p": "refused: spec.resourceClaims: 'given': there is no device class 'x'"}


def test_pods_are_gone_through_only_for_claims_that_were_not_made_for_one() -> None:
    pods = [a_pod("names", resourceClaims=CLAIM), a_pod("other")]
    owner = {"kind": "Pod", "name": "p", "uid": "uid-of-its-pod"}
    changed: list[Callable[[Object | None, Object | None], None]] = []
    listed, told = [], []

    class FakeEvents:
        def listen(self, listener: Any) -> None:
            changed.append(listener)

    class FakeBook(FakeEvents):
        claim_events = FakeEvents()

    class FakeSource:
        def waiting_pods(self) -> list[Object]:
            listed.append(len(pods))
            return pods

        def claims_changed(self, uids: Any) -> None:
            told.append(sorted(uids))

    PodClaims(cast(Any, FakeBook()), cast(Any, None)).follow(cast(Any, FakeSource()))
    changed[0](None, {"metadata": {"name": "its", "namespace": "team", "ownerReferences": [owner]}})
    assert (told, listed) == ([["uid-of-its-pod"]], [])
    changed[0](None, {"metadata": {"name": "mine", "namespace": "team"}})
    assert (told, listed) == ([["uid-of-its-pod"], ["uid-names"]], [2])
