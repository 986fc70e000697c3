"""Which devices a container should have."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.device_plugin.inventory import Device, Refusal, Resource
from berth.device_plugin.preference import preferred


def lpu(*places: tuple[str, int | None], ill: tuple[int, ...] = ()) -> Resource:
    """Devices d0 and on, each with its link group and NUMA node."""
    return Resource(
        "groq.com/lpu",
        tuple(
            Device(f"d{number}", number not in ill, link=link, numa=() if numa is None else (numa,))
            for number, (link, numa) in enumerate(places)
        ),
    )


def ids(text: str) -> list[str]:
    return [f"d{one}" for one in text.split()]


PAIRS = lpu(("a", 0), ("b", 1), ("a", 0), ("b", 1), ("c", 1), ("c", 0), ("", 0))


@pytest.mark.parametrize(
    ("available", "required", "size", "expected"),
    [
        ("0 1 2 3", "", 2, "0 2"),
        ("3 2 1 0", "", 2, "0 2"),
        ("0 1 3", "", 2, "1 3"),
        ("0 1 2 3", "3", 2, "3 1"),
        ("0 1 2 3 5", "1 5", 3, "1 5 3"),
        # One alone is taken where no pair is broken by it.
        ("0 2 1", "", 1, "1"),
        # Three: a pair and, from a pair there must be, one of the NUMA node that is begun.
        ("0 2 4 5", "", 3, "0 2 5"),
        ("6 1", "", 1, "1"),
        ("0 1", "", 0, ""),
        ("0 1", "0 1", 2, "0 1"),
    ],
)
def test_devices_of_one_link_group_then_of_one_numa_node(
    available: str, required: str, size: int, expected: str
) -> None:
    assert preferred(PAIRS, ids(available), ids(required), size) == ids(expected)


def test_without_link_groups_the_numa_node_decides() -> None:
    resource = lpu(("", 0), ("", 1), ("", 0), ("", 1), ("", None))
    assert preferred(resource, ids("0 1 2 3 4"), ids("1"), 2) == ids("1 3")
    assert preferred(resource, ids("0 1 3 4"), [], 2) == ids("1 3")


def test_what_the_kubelet_alone_knows_comes_last() -> None:
    resource = lpu(("a", 0), ("a", 0), ill=(0,))
    assert preferred(resource, ["gone", "d0", "d1"], [], 1) == ["d1"]
    assert preferred(resource, ["gone", "d0", "d1"], ["gone"], 2) == ["gone", "d1"]
    assert preferred(resource, ["gone", "d0", "d1"], [], 3) == ["d1", "gone", "d0"]


@pytest.mark.parametrize(
    ("available", "required", "size", "said"),
    [
        ("0 1", "2", 1, "required but not among those available: d2"),
        ("0 1", "", 3, "3 devices cannot be chosen from 2 available, 0 required"),
        ("0 1", "0 1", 1, "1 devices cannot be chosen from 2 available, 2 required"),
        ("0 1", "", -1, "-1 devices cannot be chosen"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused(available: str, required: str, size: int, said: str) -> None:
    with pytest.raises(Refusal, match=said):
        preferred(PAIRS, ids(available), ids(required), size)


PLACES = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0, 1])), min_size=1, max_size=7)


@given(PLACES, st.data())
def test_no_other_choice_spans_fewer_link_groups(places: list[tuple[str, int]], data: st.DataObject) -> None:
    resource = lpu(*places)
    everything = [device.id for device in resource.devices]
    available = data.draw(st.lists(st.sampled_from(everything), unique=True, min_size=1))
    required = data.draw(st.lists(st.sampled_from(available), unique=True))
    size = data.draw(st.integers(len(required), len(available)))

    chosen = preferred(resource, available, required, size)

    def groups(some: tuple[str, ...] | list[str]) -> int:
        return len({device.link for device in resource.devices if device.id in some})

    assert len(chosen) == len(set(chosen)) == size
    assert set(required) <= set(chosen) <= set(available)
    rest = [one for one in available if one not in required]
    fewest = min(groups([*required, *more]) for more in combinations(rest, size - len(required)))
    assert groups(chosen) == fewest
