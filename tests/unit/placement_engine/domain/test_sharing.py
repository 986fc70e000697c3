"""Fractions and shares of memory: of one device, never across devices, never more than is really there."""

import math
from collections import defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import Accelerator, DeviceClaim, Profile
from tests.unit.placement_engine.domain.builders import (
    GIB,
    NOW,
    a_device,
    a_job,
    a_node,
    a_sample,
    an_engine,
    device_ids,
    placed,
    why,
)


def a_share(job_id: str, gib: float, **changes: Any):
    return a_job(job_id, devices=0, device_share_bytes=int(gib * GIB), **changes)


def claim_of(engine: Engine, job_id: str) -> DeviceClaim:
    claim = engine.holds(job_id)
    assert claim is not None
    (device,) = claim.members[0].devices
    return device


def test_a_share_is_its_part_of_the_model_that_it_gets() -> None:
    engine = an_engine(a_node("n1", 1, "H100"), a_node("n2", 1, "L4", device={"memory_bytes": 24 * GIB}))
    placed(engine, a_share("a", 10, models=("H100",)), a_share("b", 10, models=("L4",)))
    assert claim_of(engine, "a") == DeviceClaim("n1/0", 0, 125, 10 * GIB, "H100")
    assert claim_of(engine, "b") == DeviceClaim("n2/0", 0, 417, 10 * GIB, "L4")


def test_devices_of_one_model_that_differ_in_size_count_each_by_its_own() -> None:
    small = a_device("n1", 0, memory_bytes=40 * GIB)
    engine = an_engine(a_node("n1", [small, a_device("n1", 1, memory_bytes=80 * GIB - 3 * 2**20)]))
    placed(engine, *(a_share(str(i), 40) for i in range(2)))
    assert sorted((claim_of(engine, str(i)).device_id, claim_of(engine, str(i)).milli) for i in range(2)) == [
        ("n1/0", 1000),
        ("n1/1", 501),
    ]
    assert why(engine, a_share("2", 40)) == {"DEVICES_BUSY": (1, 2)}
    assert placed(engine, a_share("3", 39)) == {"3": ["n1"]}


def test_a_share_is_rounded_up() -> None:
    engine = an_engine(a_node("n1", 1))
    placed(engine, a_job("half", device_milli=500, device_memory_bytes=1))
    assert why(engine, a_job("a", devices=0, device_share_bytes=40 * GIB + 1)) == {"DEVICES_BUSY": (1, 1)}
    assert placed(engine, a_share("b", 40)) == {"b": ["n1"]}


def test_a_share_of_unknown_memory_is_excluded_with_a_reason() -> None:
    engine = an_engine(a_node("n1", 1, device={"memory_bytes": None}), a_node("n2", 1, "L4", schedulable=False))
    assert why(engine, a_share("a", 1)) == {"DEVICE_MEMORY_UNKNOWN": (1, 1), "NODE_CORDONED": (1, 1)}
    assert engine.matching_capacity(a_share("a", 1)).devices == 1


def test_telemetry_tells_the_size_of_a_device_too() -> None:
    engine = an_engine(a_node("n1", 1, device={"memory_bytes": None}, telemetry_exempt=False))
    engine.apply_sample(a_sample("n1", {"memory_total_bytes": 20 * GIB}))
    assert placed(engine, a_share("a", 5)) == {"a": ["n1"]}
    assert claim_of(engine, "a").milli == 250


def test_leaked_memory_makes_a_device_smaller_for_shares_and_fractions() -> None:
    engine = an_engine(a_node("n1", 1, telemetry_exempt=False))
    engine.apply_sample(a_sample("n1", {"memory_used_bytes": 30 * GIB}))
    assert why(engine, a_share("a", 51)) == {"DEVICE_MEMORY_SHORT": (1, 1)}
    engine.withdraw("a")
    placed(engine, a_share("b", 30))
    assert why(engine, a_share("c", 21)) == {"DEVICE_MEMORY_SHORT": (1, 1)}
    assert placed(engine, a_share("d", 20)) == {"d": ["n1"]}


def test_a_fraction_without_stated_memory_takes_its_share_of_it() -> None:
    engine = an_engine(a_node("n1", 1))
    placed(engine, a_job("a", device_milli=500))
    assert why(engine, a_share("b", 41)) == {"DEVICES_BUSY": (1, 1)}
    assert why(engine, a_job("c", device_milli=400, device_memory_bytes=41 * GIB)) == {"DEVICE_MEMORY_SHORT": (1, 1)}


def test_a_gang_of_shares_fills_devices_as_far_as_each_goes() -> None:
    engine = an_engine(a_node("n1", 2))
    placed(engine, a_share("g", 30, replicas=4))
    assert sorted(device_ids(engine, "g")) == [["n1/0"], ["n1/0"], ["n1/1"], ["n1/1"]]
    assert "GANG_TOO_LARGE_NOW" not in why(engine, a_share("h", 30, replicas=2))


def test_power_of_a_share_is_its_part_of_the_peak() -> None:
    engine = an_engine(a_node("n1", 4, power_cap_watts=500.0))
    engine.set_accelerators([Accelerator("H100", "GPU", "CUDA", 80 * GIB, tdp_watts=700.0)])
    assert len(placed(engine, *(a_share(str(i), 20) for i in range(4)))) == 2, "a quarter is 175 W each"
    engine.put_profile(Profile("w", "H100", 1, 1.0, None, None, 80.0, 100.0))
    assert placed(engine, a_share("w", 40, workload="w")) == {"w": ["n1"]}


sizes = st.sampled_from((24, 40, 79.65, 80))
demands = st.one_of(
    st.builds(lambda milli: {"device_milli": milli}, st.integers(1, 999)),
    st.builds(lambda gib: {"devices": 0, "device_share_bytes": int(gib * GIB)}, st.floats(0.5, 80)),
    st.builds(lambda count: {"devices": count}, st.integers(1, 2)),
)


@settings(max_examples=120, deadline=None)
@given(
    memories=st.lists(sizes, min_size=1, max_size=4),
    jobs=st.lists(demands, max_size=15),
    leak=st.sampled_from((0, 20)),
    freed=st.sets(st.integers(0, 14)),
)
def test_a_share_sits_on_one_device_and_no_device_gives_more_than_it_has(memories, jobs, leak, freed) -> None:
    devices = [a_device("n1", i, memory_bytes=int(gib * GIB)) for i, gib in enumerate(memories)]
    engine = an_engine(a_node("n1", devices, telemetry_exempt=False))
    engine.apply_sample(a_sample("n1", *({"memory_used_bytes": leak * GIB} for _ in devices)))
    for number, demand in enumerate(jobs):
        placed(engine, a_job(f"j{number:02d}", submitted_at=float(number), **demand))
        if number in freed:
            engine.release(f"j{number:02d}")
    milli: dict[str, int] = defaultdict(int)
    shared: dict[str, int] = defaultdict(int)
    for number, demand in enumerate(jobs):
        claim = engine.holds(f"j{number:02d}")
        if claim is None:
            continue
        (member,) = claim.members
        assert len(member.devices) == max(1, demand.get("devices", 0))
        for device in member.devices:
            milli[device.device_id] += device.milli
            share = demand.get("device_share_bytes", 0)
            if share:
                shared[device.device_id] += share
                assert device.milli == math.ceil(share * 1000 / devices[device.index].memory_bytes)
                assert device.memory_bytes == share
    for index, gib in enumerate(memories):
        assert milli[f"n1/{index}"] <= 1000
        assert shared[f"n1/{index}"] <= max(0, int(gib * GIB) - leak * GIB)
    view = engine.node_view("n1", NOW)
    assert view is not None
    assert {d.device.device_id: d.used_milli for d in view.devices if d.used_milli} == {
        k: v for k, v in milli.items() if v
    }
