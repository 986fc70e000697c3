"""Partitions of a device: what fits where, what is chosen, and that nothing ever overlaps."""

from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from berth import catalogue
from placement_engine.adapters.translate import accelerator_from
from placement_engine.domain.engine import Engine
from placement_engine.domain.model import Claim, DeviceClaim, Job, Member, Partition, Queue
from placement_engine.domain.partitions import COMPUTE_SLICES, MASKS, MEMORY_SLICES, NOWHERE, cut, milli_of, slices
from tests.unit.placement_engine.domain.builders import (
    NOW,
    a_job,
    a_node,
    a_sample,
    an_engine,
    device_ids,
    placed,
    why,
)

MODELS = ("A100-80-SXM", "H100-SXM", "B200")
TABLES = {name: accelerator_from(entry).partitions for name in MODELS if (entry := catalogue.by_name(name))}
H100 = TABLES["H100-SXM"]


def a_cut_node(name: str = "n1", devices: int = 1, model: str = "H100-SXM", **changes: Any):
    device = {"partitionable": True, "memory_bytes": None} | changes.pop("device", {})
    return a_node(name, devices, model, device=device, **changes)


def a_partitioned_engine(*nodes: Any) -> Engine:
    engine = an_engine(*nodes)
    engine.set_accelerators(accelerator_from(one) for one in catalogue.load())
    return engine


def a_part(job_id: str, partition: str, **changes: Any) -> Job:
    return a_job(job_id, devices=0, partition=partition, **changes)


def claims_of(engine: Engine, job_id: str) -> list[DeviceClaim]:
    claim = engine.holds(job_id)
    assert claim is not None
    return [device for member in claim.members for device in member.devices]


def starts(engine: Engine, *job_ids: str) -> dict[str, tuple[str, int]]:
    return {j: (c.device_id, c.partition_start) for j in job_ids for c in claims_of(engine, j)}


# -- tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_an_empty_device_takes_as_many_as_nvidia_says(model) -> None:
    """The counts of NVIDIA's mig-parted and of `nvidia-smi mig -lgip`."""
    counts = [
        (p.compute_slices, p.memory_slices, found.count[0])
        for p in TABLES[model]
        if (found := cut(TABLES[model], p.name))
    ]
    assert counts == [(1, 1, 7), (1, 2, 4), (2, 2, 3), (3, 4, 2), (4, 4, 1), (7, 8, 1)]


def reachable(partitions: tuple[Partition, ...]) -> dict[int, int]:
    """Every mask that placements by the rules lead to, with the most compute slices in use there."""
    found, front = {0: 0}, [(0, 0)]
    while front:
        mask, compute = front.pop()
        for one in partitions:
            for start in one.starts:
                occupied = slices(one, start)
                if mask & occupied:
                    continue
                after = (mask | occupied, compute + one.compute_slices)
                if found.get(after[0], -1) < after[1]:
                    found[after[0]] = after[1]
                    front.append(after)
    return found


@pytest.mark.parametrize("model", MODELS)
def test_starts_alone_keep_compute_within_seven_slices(model) -> None:
    assert max(reachable(TABLES[model]).values()) == COMPUTE_SLICES


@pytest.mark.parametrize("model", MODELS)
def test_a_cut_says_yes_wherever_some_start_is_free(model) -> None:
    for one, mask in product(TABLES[model], range(MASKS)):
        found = cut(TABLES[model], one.name)
        assert found is not None
        free = [start for start in one.starts if not mask & slices(one, start)]
        assert (found.start[mask] in free) == bool(free)
        assert (found.count[mask] > 0) == bool(free) == (found.start[mask] != NOWHERE)


def test_small_partitions_start_where_large_ones_lose_least() -> None:
    found = cut(H100, "1g.10gb")
    assert found is not None
    mask, order = 0, []
    while found.start[mask] != NOWHERE:
        order.append(found.start[mask])
        mask |= 1 << found.start[mask]
    assert order == [6, 4, 5, 0, 1, 2, 3]


def test_a_table_of_another_shape_knows_no_such_partition() -> None:
    assert cut(H100, "1g.23gb") is None
    assert [milli_of(one) for one in H100] == [142, 142, 285, 428, 571, 1000]


# -- placement -------------------------------------------------------------------------------------


def test_a_partition_is_claimed_with_start_thousandths_and_memory() -> None:
    engine = a_partitioned_engine(a_cut_node())
    assert placed(engine, a_part("a", "3g.40gb")) == {"a": ["n1"]}
    assert claims_of(engine, "a") == [DeviceClaim("n1/0", 0, 428, 40 * 10**9, "H100-SXM", "3g.40gb", 4)]
    view = engine.node_view("n1", NOW)
    assert view is not None
    assert (view.devices[0].used_milli, view.devices[0].free_slices, view.devices_free) == (428, 4, 0)


def test_begun_devices_are_filled_before_others_are_opened() -> None:
    engine = a_partitioned_engine(a_cut_node("n1", 2), a_cut_node("n2", 2))
    jobs = [a_part(f"j{i}", "1g.10gb", submitted_at=float(i)) for i in range(7)]
    placed(engine, *jobs)
    assert {device for device, _ in starts(engine, *(j.job_id for j in jobs)).values()} == {"n1/0"}
    placed(engine, a_part("big", "7g.80gb"), a_part("half", "4g.40gb", submitted_at=1.0))
    assert starts(engine, "big", "half") == {"big": ("n1/1", 0), "half": ("n2/0", 0)}


def test_a_small_one_goes_where_no_larger_one_fits_any_more() -> None:
    engine = a_partitioned_engine(a_cut_node("n1", 2))
    for job_id, name in (("a", "7g.80gb"), ("b", "4g.40gb")):
        placed(engine, a_part(job_id, name))
    engine.release("a")
    placed(engine, a_part("c", "2g.20gb"), a_part("d", "1g.10gb", submitted_at=1.0))
    assert starts(engine, "b", "c", "d") == {"b": ("n1/1", 0), "c": ("n1/1", 4), "d": ("n1/1", 6)}


def test_a_device_is_never_cut_and_shared_otherwise_at_once() -> None:
    engine = a_partitioned_engine(a_cut_node("n1", 2))
    placed(engine, *(a_part(f"p{i}", "1g.10gb") for i in range(7)))
    assert why(engine, a_job("two", devices=2)) == {"DEVICES_BUSY": (1, 2)}
    engine.withdraw("two")
    placed(engine, a_job("f", device_milli=5))
    assert device_ids(engine, "f") == [["n1/1"]], "six thousandths are left of n1/0, but it is cut"
    assert why(engine, a_part("q", "1g.10gb")) == {"PARTITION_NO_ROOM": (1, 2)}
    rejection = engine.explain("q", NOW)
    assert rejection is not None
    assert rejection.reasons[0].numbers == {"devices_without_slices": 1.0, "devices_undivided": 1.0}


def test_what_cannot_be_cut_so_is_excluded_with_a_reason() -> None:
    engine = a_partitioned_engine(
        a_cut_node("n1", 1, device={"partitionable": False}),
        a_cut_node("n2", 1, "L4"),
        a_cut_node("n3", 1, "B200"),
    )
    assert why(engine, a_part("a", "1g.10gb")) == {"PARTITION_UNSUPPORTED": (3, 3)}
    assert engine.matching_capacity(a_part("a", "1g.10gb")).devices == 0
    assert engine.matching_capacity(a_part("b", "1g.23gb")).members == 7
    assert engine.matching_capacity(a_part("c", "1g.23gb", replicas=9)).members == 7


def test_a_partition_smaller_than_the_work_is_none() -> None:
    engine = a_partitioned_engine(a_cut_node())
    assert why(engine, a_part("a", "1g.10gb", device_memory_bytes=11 * 10**9)) == {"PARTITION_UNSUPPORTED": (1, 1)}
    assert placed(engine, a_part("b", "1g.20gb", device_memory_bytes=11 * 10**9)) == {"b": ["n1"]}


def test_memory_that_others_leaked_is_not_there_for_partitions() -> None:
    engine = a_partitioned_engine(a_cut_node(telemetry_exempt=False))
    engine.apply_sample(a_sample("n1", {"memory_used_bytes": 30 * 10**9, "memory_total_bytes": 80 * 10**9}))
    assert why(engine, a_part("a", "7g.80gb")) == {"DEVICE_MEMORY_SHORT": (1, 1)}
    engine.withdraw("a")
    placed(engine, a_part("b", "3g.40gb"))
    assert why(engine, a_part("c", "3g.40gb")) == {"DEVICE_MEMORY_SHORT": (1, 1)}


def test_a_gang_of_partitions_sits_on_few_devices_and_counts_by_the_tables() -> None:
    engine = a_partitioned_engine(a_cut_node("n1", 2))
    placed(engine, a_part("g", "2g.20gb", replicas=6))
    assert sorted((c.device_id, c.partition_start) for c in claims_of(engine, "g")) == [
        (device, start) for device in ("n1/0", "n1/1") for start in (0, 2, 4)
    ]
    assert "GANG_TOO_LARGE_NOW" not in why(engine, a_part("h", "2g.20gb", replicas=2))


def test_power_of_a_partition_is_its_part_of_the_peak() -> None:
    engine = a_partitioned_engine(a_cut_node("n1", 1, power_cap_watts=300.0))
    assert len(placed(engine, *(a_part(f"j{i}", "2g.20gb") for i in range(3)))) == 1, "285 of 700 W, twice is too much"


def test_a_queues_limit_counts_what_a_partition_may_come_to() -> None:
    engine = a_partitioned_engine(a_cut_node("n1", 4))
    engine.set_queues([Queue("q", device_limit=1)])
    jobs = [a_part(f"j{i}", "4g.40gb", queue="q") for i in range(2)]
    assert list(placed(engine, *jobs)) == ["j0"]
    assert "QUEUE_DEVICE_LIMIT" in why(engine, jobs[1])


def test_restored_claims_bring_their_slices_back() -> None:
    engine, rebuilt = (a_partitioned_engine(a_cut_node("n1", 2)) for _ in range(2))
    jobs = [a_part("a", "3g.40gb"), a_part("b", "2g.20gb", submitted_at=1.0), a_part("c", "1g.20gb", submitted_at=2.0)]
    placed(engine, *jobs)
    for job in jobs:
        claim = engine.holds(job.job_id)
        assert claim is not None
        rebuilt.restore(claim)
    assert rebuilt.state_digest() == engine.state_digest()
    assert placed(rebuilt, a_part("d", "4g.40gb")) == placed(engine, a_part("d", "4g.40gb"))


def test_a_claim_of_an_unknown_partition_makes_a_device_undivided() -> None:
    engine = a_partitioned_engine(a_cut_node())
    member = Member(0, "n1", (DeviceClaim("n1/0", 0, 100, 0, "H100-SXM", "1g.9gb", 0),))
    engine.restore(Claim(a_part("old", "1g.9gb"), (member,)))
    assert why(engine, a_part("a", "1g.10gb")) == {"PARTITION_NO_ROOM": (1, 1)}


# -- nothing overlaps, whatever happens ------------------------------------------------------------


class Cutting(RuleBasedStateMachine):
    """Random partitions, fractions and whole devices come and go on devices of three models."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = a_partitioned_engine(*(a_cut_node(f"n{i}", 2, model) for i, model in enumerate(MODELS)))
        self.running: dict[str, Job] = {}
        self.serial = 0

    @initialize()
    def start(self) -> None:
        assert self.engine.cycle(NOW).decisions == ()

    def submit(self, **changes: Any) -> None:
        job = a_job(f"j{self.serial:03d}", **changes)
        self.serial += 1
        fits = self.fits(job)
        found = placed(self.engine, job)
        assert (job.job_id in found) == fits, (job.partition, self.used())
        if found:
            self.running[job.job_id] = job
        else:
            self.engine.withdraw(job.job_id)

    @rule(model=st.sampled_from(MODELS), number=st.integers(0, 5))
    def partition(self, model: str, number: int) -> None:
        self.submit(devices=0, partition=TABLES[model][number].name)

    @rule(milli=st.sampled_from((1, 5, 300)))
    def fraction(self, milli: int) -> None:
        self.submit(device_milli=milli)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.running:
            job_id = data.draw(st.sampled_from(sorted(self.running)))
            self.engine.release(job_id)
            del self.running[job_id]

    @rule()
    def rebuild(self) -> None:
        """A planner that starts anew reads the claims from the ledger."""
        fresh = a_partitioned_engine(*(a_cut_node(f"n{i}", 2, model) for i, model in enumerate(MODELS)))
        for job_id in sorted(self.running, reverse=True):
            claim = self.engine.holds(job_id)
            assert claim is not None
            fresh.restore(claim)
        assert fresh.state_digest() == self.engine.state_digest()
        self.engine = fresh

    def used(self) -> dict[str, list[DeviceClaim]]:
        found: dict[str, list[DeviceClaim]] = {f"n{i}/{d}": [] for i in range(len(MODELS)) for d in range(2)}
        for job_id in self.running:
            for claim in claims_of(self.engine, job_id):
                found[claim.device_id].append(claim)
        return found

    def fits(self, job: Job) -> bool:
        """By trying every start of every device."""
        for device_id, claims in self.used().items():
            table = {one.name: one for one in TABLES[MODELS[int(device_id[1])]]}
            if not job.partition:
                cut_up = any(claim.partition for claim in claims)
                if not cut_up and sum(claim.milli for claim in claims) + job.device_milli <= 1000:
                    return True
                continue
            if job.partition not in table or any(not claim.partition for claim in claims):
                continue
            taken = {
                s
                for c in claims
                for s in range(c.partition_start, c.partition_start + table[c.partition].memory_slices)
            }
            one = table[job.partition]
            if any(not taken & set(range(start, start + one.memory_slices)) for start in one.starts):
                return True
        return False

    @invariant()
    def nothing_overlaps(self) -> None:
        for device_id, claims in self.used().items():
            table = {one.name: one for one in TABLES[MODELS[int(device_id[1])]]}
            cuts = [claim for claim in claims if claim.partition]
            assert not cuts or len(cuts) == len(claims), "cut or shared otherwise, never both"
            taken: list[int] = []
            for claim in cuts:
                one = table[claim.partition]
                assert claim.partition_start in one.starts
                taken += range(claim.partition_start, claim.partition_start + one.memory_slices)
            assert len(taken) == len(set(taken)) <= MEMORY_SLICES
            assert sum(table[claim.partition].compute_slices for claim in cuts) <= COMPUTE_SLICES
            assert sum(claim.milli for claim in claims) <= 1000


Cutting.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCutting = Cutting.TestCase


@settings(max_examples=60, deadline=None)
@given(names=st.lists(st.sampled_from([one.name for one in H100]), max_size=20))
def test_partitions_of_one_device_never_reach_another(names: list[str]) -> None:
    engine = a_partitioned_engine(a_cut_node("n1", 3))
    placed(engine, *(a_part(f"j{i:02d}", name) for i, name in enumerate(names)))
    for number in range(len(names)):
        if engine.holds(f"j{number:02d}"):
            assert len(claims_of(engine, f"j{number:02d}")) == 1
