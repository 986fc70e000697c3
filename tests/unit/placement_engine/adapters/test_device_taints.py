"""Which rules are made, changed and taken away for what the core says."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from berth.kubernetes.client import Object
from placement_engine.adapters.device_taints import changes, split, taint_rule
from placement_engine.domain.readouts import DeviceVerdict, DeviceVerdicts, VerdictKind

DEVICES = [f"gpu.example.com/row/{node}/gpu-{index}" for node in ("a", "b") for index in (0, 1)]


def verdict(device_id: str, kind: VerdictKind = VerdictKind.FAULTY, code: int = 0) -> DeviceVerdict:
    return DeviceVerdict(device_id, "n", kind, code, "why")


def test_a_pool_of_a_driver_may_have_slashes_in_its_name() -> None:
    assert split(DEVICES[0]) == ("gpu.example.com", "row/a", "gpu-0")


def test_only_faults_evict() -> None:
    effects = {
        kind: taint_rule(verdict(DEVICES[0], kind), "default", fault_effect="NoExecute")["spec"]["taint"]["effect"]
        for kind in VerdictKind
    }
    assert effects == {
        VerdictKind.FAULTY: "NoExecute", VerdictKind.THROTTLED: "NoSchedule", VerdictKind.HOT: "NoSchedule",
    }  # fmt: skip


def apply(cluster: dict[str, Object], found: Any) -> dict[str, Object]:
    """As the API server would: it adds a version and the time of the taint."""
    left = {name: rule for name, rule in cluster.items() if rule not in found.delete}
    for rule in (*found.create, *found.replace):
        spec = {**rule["spec"], "taint": {**rule["spec"]["taint"], "timeAdded": "2026-01-01T00:00:00Z"}}
        metadata = {**rule["metadata"], "resourceVersion": "1", "uid": "u"}
        left[metadata["name"]] = {**rule, "metadata": metadata, "spec": spec}
    return left


STATES = st.dictionaries(
    st.sampled_from(DEVICES), st.tuples(st.sampled_from(list(VerdictKind)), st.sampled_from([0, 48])) | st.none()
)  # None: not heard of


@given(st.lists(st.tuples(STATES, st.sets(st.sampled_from(DEVICES)), st.sampled_from(["NoSchedule", "NoExecute"]))))
def test_after_each_round_the_rules_say_what_holds_and_a_second_look_changes_nothing(history: list[Any]) -> None:
    other = taint_rule(verdict(DEVICES[0], VerdictKind.HOT), "another pool", fault_effect="NoSchedule")
    other["metadata"] |= {"name": "berth-hot-other", "resourceVersion": "1", "uid": "o"}
    cluster: dict[str, Object] = {"berth-hot-other": other}
    for states, listed, effect in history:
        before = dict(cluster)
        found = tuple(verdict(device, *state) for device, state in sorted(states.items()) if state is not None)
        unheard = frozenset(device for device, state in states.items() if state is None)
        verdicts = {"default": DeviceVerdicts(found, unheard)}
        cluster = apply(cluster, changes(cluster, verdicts, listed, fault_effect=effect))
        again = changes(cluster, verdicts, listed, fault_effect=effect)
        assert (again.create, again.replace, again.delete) == ((), (), ())
        said = {
            (rule["metadata"]["annotations"]["berth.dev/device"], rule["spec"]["taint"]["key"].partition("/")[2])
            for name, rule in cluster.items()
            if name != "berth-hot-other"
        }
        holds = {(one.device_id, one.kind.value) for one in found if one.device_id in listed}
        kept = {
            (device, rule["spec"]["taint"]["key"].partition("/")[2])
            for name, rule in before.items()
            if (device := rule["metadata"]["annotations"]["berth.dev/device"]) in unheard and name != "berth-hot-other"
        }
        assert said == holds | kept
        for one in found:
            if one.device_id in listed:
                rule = taint_rule(one, "default", fault_effect=effect)
                there = cluster[rule["metadata"]["name"]]["spec"]
                assert {**there["taint"], "timeAdded": ""} == {**rule["spec"]["taint"], "timeAdded": ""}
        assert cluster["berth-hot-other"] == other
