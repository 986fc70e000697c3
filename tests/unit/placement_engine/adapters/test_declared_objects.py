"""Queue and Pool objects as messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import InvalidInput
from berth.v1 import fleet_pb2
from placement_engine.adapters.declared_objects import parents_first, pool_of, queue_of

NAMES = st.sampled_from("abcdef")


@given(st.dictionaries(NAMES, NAMES | st.just("") | st.just("elsewhere")))
def test_a_parent_comes_before_its_children_unless_they_are_in_a_loop(parents: dict[str, str]) -> None:
    ordered = [queue.name for queue in parents_first(fleet_pb2.Queue(name=k, parent=v) for k, v in parents.items())]
    assert sorted(ordered) == sorted(parents)
    for name, parent in parents.items():
        seen = {name}
        while parent in parents and parent not in seen:
            seen.add(parent)
            parent = parents[parent]
        if parent not in parents and parents[name] in parents:
            assert ordered.index(parents[name]) < ordered.index(name)


def test_an_object_of_an_older_definition_is_refused_with_words_and_breaks_nothing() -> None:
    for spec, said in (
        ({"quotas": [{"accelerator": "GPU"}]}, "spec: .*a value is missing or of the wrong type"),
        ({"weight": "much"}, "a value is missing"),
        ({"reclaim": "any"}, "spec.reclaim: 'any': write one of: Any, LowerPriority, Never"),
        ({"protected": "ten"}, "spec.protected: 'ten': write a duration"),
    ):
        with pytest.raises(InvalidInput, match=said):
            queue_of({"metadata": {"name": "a"}, "spec": spec})
    with pytest.raises(InvalidInput, match="a value is missing"):
        pool_of({"metadata": {"name": "a"}, "spec": {"powerDomains": [{"level": "rack"}]}})
    assert pool_of({"metadata": {"name": "a"}}) == fleet_pb2.Pool(name="a")
