"""A manifest that cannot be carried out says which field is wrong, and what to write instead."""

from typing import Any

import pytest
import yaml

from berth.errors import InvalidInput
from binder.domain.attempt import Attempt, AttemptId, State
from binder.domain.work import Assignment, Member, Work
from binder.executors.kubernetes_manifest import pods_of

POD: dict[str, Any] = {
    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "Train_A"}, "spec": {"containers": [{"name": "main"}]},
}  # fmt: skip


def of(manifest: str, attempt: int = 1) -> Assignment:
    made = Attempt(AttemptId("job", attempt), 1, State.INTENT, "kubernetes", "default", "", 2, 0.0, 0.0, 0.0)
    return Assignment(made, Work((Member(0, "n-0"), Member(1, "n-1")), manifest=manifest))


def changed(**fields: Any) -> str:
    return yaml.safe_dump({**POD, **fields})


WRONG = {
    "no YAML": ("{a: [", "kubernetes.manifest"),
    "nothing": ("# empty\n", "kubernetes.manifest: '0 documents'"),
    "two pods": (changed() + "---\n" + changed(), "kubernetes.manifest: '2 documents'"),
    "a list": ("[1, 2]", "kubernetes.manifest: '1 documents'"),
    "another kind": (changed(kind="Job"), "kubernetes.manifest: kind: 'v1 Job'"),
    "no containers": (changed(spec={}), "kubernetes.manifest: spec.containers"),
    "text for a spec": (changed(spec="x"), "kubernetes.manifest: spec"),
    "text for labels": (changed(metadata={"labels": "x"}), "kubernetes.manifest: metadata.labels"),
    "a node": (changed(spec={**POD["spec"], "nodeName": "n"}), "kubernetes.manifest: spec.nodeName"),
    "a gate": (changed(spec={**POD["spec"], "schedulingGates": [{"name": "g"}]}), "spec.schedulingGates"),
    "a closed namespace": (changed(metadata={"namespace": "kube-system"}), "metadata.namespace: 'kube-system'"),
    "no environment": (changed(spec={"containers": [{"name": "a", "env": "x"}]}), "kubernetes.manifest: env"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case: str) -> None:
    text, named = WRONG[case]
    with pytest.raises(InvalidInput) as caught:
        pods_of(of(text), frozenset({"default"}))
    assert named in str(caught.value)


def test_the_same_attempt_gives_the_same_pods_and_another_attempt_others() -> None:
    once, twice, later = (pods_of(of(changed(), attempt), frozenset()) for attempt in (1, 1, 2))
    assert once == twice
    names = [pod["metadata"]["name"] for pod in [*once, *later]]
    assert len(set(names)) == 4
    assert all(name.startswith("train-a-") for name in names)
    assert [pod["spec"]["restartPolicy"] for pod in once] == ["Never", "Never"]


def test_what_the_manifest_says_itself_stays() -> None:
    spec = {
        "containers": [{"name": "main", "env": [{"name": "BERTH_MEMBER", "value": "mine"}]}],
        "restartPolicy": "Always",
    }
    pod = pods_of(of(changed(spec=spec)), frozenset())[1]
    environment = {one["name"]: one["value"] for one in pod["spec"]["containers"][0]["env"]}
    assert (environment["BERTH_MEMBER"], environment["BERTH_NODE"]) == ("mine", "n-1")
    assert pod["spec"]["restartPolicy"] == "Always"
