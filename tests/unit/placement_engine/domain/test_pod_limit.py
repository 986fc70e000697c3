"""A node takes no more members than its kubelet takes pods, whatever they ask for."""

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import MemberGroup, Node
from placement_engine.domain.policy import Policy
from tests.unit.placement_engine.domain.builders import GIB, NOW, a_job, a_node, an_engine, placed, why
from tests.unit.placement_engine.domain.test_reservations import EAGER


def small(name: str, pods: int | None, elsewhere: int = 0, **changes: object) -> Node:
    return a_node(name, **{"devices": 2, "pod_limit": pods, "pods_elsewhere": elsewhere} | changes)  # type: ignore[arg-type]


def a_pod(job_id: str, **changes: object):  # type: ignore[no-untyped-def]
    return a_job(job_id, **{"devices": 0} | changes)


def test_a_node_takes_so_many_members_and_no_more() -> None:
    """Also those that ask for nothing at all."""
    engine = an_engine(small("n1", 3, elsewhere=1))
    assert placed(engine, *[a_pod(f"j{i}", cpu_milli=i) for i in range(3)]) == {"j0": ["n1"], "j1": ["n1"]}
    assert why(engine, a_pod("j2")) == {"POD_LIMIT_REACHED": (1, 2)}
    rejection = engine.explain("j2", NOW)
    assert rejection is not None
    (reason,) = rejection.reasons
    assert (reason.plugin, reason.numbers) == ("PodLimit", {"pods_needed": 1.0, "pods_most_free": 0.0})
    assert reason.message == "a member is one pod, and the node runs all the pods that it allows (allocatable.pods)"
    view = engine.node_view("n1", NOW)
    assert view is not None
    assert (view.used_pods, view.node.pods_elsewhere) == (2, 1)
    # One of another scheduler's ends: only what others have of the node is another.
    engine.apply_node(small("n1", 3))
    assert placed(engine) == {"j2": ["n1"]}
    engine.release("j0", NOW)
    assert placed(engine, a_pod("j4"), a_pod("j5")) == {"j4": ["n1"]}


def test_a_limit_that_nobody_told_is_none_and_a_limit_of_none_is_one() -> None:
    jobs = [a_pod(f"j{i}") for i in range(200)]
    assert len(placed(an_engine(small("n1", None)), *jobs)) == 200
    assert placed(an_engine(small("n1", 0)), *jobs) == {}
    crowded = an_engine(small("n1", 2, elsewhere=5))
    assert why(crowded, a_pod("j")) == {"POD_LIMIT_REACHED": (1, 2)}


def test_a_gang_counts_its_pods_on_every_node() -> None:
    engine = an_engine(small("n1", 3), small("n2", 2, elsewhere=1), small("n3", None, cpu_milli=2000))
    gang = placed(engine, a_pod("g", replicas=6, cpu_milli=1000))
    assert sorted(gang["g"]) == ["n1", "n1", "n1", "n2", "n3", "n3"]
    engine = an_engine(small("n1", 3), small("n2", 1))
    assert why(engine, a_pod("g", replicas=5, cpu_milli=1)) == {"GANG_TOO_LARGE_NOW": (0, 0)}
    assert placed(engine, a_pod("e", replicas=5, min_replicas=2)) == {"e": ["n1", "n1", "n1", "n2"]}


def test_groups_of_a_gang_share_the_pods_of_a_node() -> None:
    groups = (MemberGroup("head", cpu_milli=100), MemberGroup("workers", 3, 3, device_milli=100))
    assert placed(an_engine(small("n1", 3)), a_job("g", groups=groups)) == {}
    assert placed(an_engine(small("n1", 4)), a_job("g", groups=groups)) == {"g": ["n1"] * 4}
    # Both models of a node are its pods.
    two = a_node("n1", [*a_node("n1", 2).devices, *(a_node("n1", 4, "A100").devices[2:])], pod_limit=3)
    assert (
        len(placed(an_engine(two), *[a_job(f"{m}{i}", models=(m,)) for m in ("H100", "A100") for i in range(2)])) == 3
    )


def full(policy: Policy = EAGER, pods: int = 4) -> Engine:
    """Each node runs `pods` preemptible jobs that take next to nothing, those of the second have less to lose."""
    engine = an_engine(small("n1", pods), small("n2", pods), policy=policy)
    for i in range(2 * pods):
        facts = {"cpu_milli": 10, "preemptible": True, "expected_duration_seconds": 100.0 + i}
        assert placed(engine, a_pod(f"v{i}", **facts))
    for i in range(2 * pods):
        claim = engine.holds(f"v{i}")
        assert claim is not None
        engine.started(f"v{i}", claim.job.attempt, NOW - (500 if claim.members[0].node == "n1" else 100))
    return engine


def test_one_is_stopped_for_the_pod_it_is() -> None:
    for asks in ({"devices": 1}, {"cpu_milli": 5000}, {}, {"memory_bytes": GIB}):
        engine = full()
        engine.submit(a_pod("urgent", priority=1, **asks))
        result = engine.cycle(NOW)
        assert len(result.preemptions) == 1, asks
        victim = engine.holds(result.preemptions[0].job_id)
        assert victim is not None
        assert victim.members[0].node == "n2"
        engine.release(victim.job.job_id, NOW)
        assert placed(engine) == {"urgent": ["n2"]}, asks


def test_a_gang_has_as_many_stopped_as_it_has_pods() -> None:
    engine = full()
    engine.submit(a_pod("urgent", priority=1, replicas=3, cpu_milli=1000))
    stopped = [one.job_id for one in engine.cycle(NOW).preemptions]
    assert len(stopped) == 3
    for job_id in stopped:
        engine.release(job_id, NOW)
    assert len(placed(engine)["urgent"]) == 3


def test_a_reservation_keeps_pods_against_those_behind() -> None:
    """A gang of three waits for the pods of two that run and keeps the one that is free."""
    for seconds, may in ((101.0, False), (99.0, True)):
        engine = an_engine(small("n1", 3, cpu_milli=8000), policy=EAGER)
        assert placed(engine, a_pod("soon", cpu_milli=4000, expected_duration_seconds=50.0)) == {"soon": ["n1"]}
        assert placed(engine, a_pod("late", cpu_milli=100, expected_duration_seconds=100.0)) == {"late": ["n1"]}
        assert placed(engine, a_pod("gang", replicas=3, cpu_milli=10, submitted_at=1.0)) == {}
        rejection = engine.explain("gang", NOW)
        assert rejection is not None
        assert rejection.reasons[0].message == "starts in about 100 s, after jobs soon, late"
        behind = a_pod("behind", submitted_at=2.0, cpu_milli=1, expected_duration_seconds=seconds)
        assert placed(engine, behind) == ({"behind": ["n1"]} if may else {})


def test_a_reservation_counts_the_pod_that_who_ends_will_leave_once() -> None:
    """One large pod ends, two small ones come: one of their pods is its, the other is kept."""
    engine = an_engine(small("n1", 3, cpu_milli=8000), policy=EAGER)
    assert placed(engine, a_pod("large", cpu_milli=8000, expected_duration_seconds=100.0)) == {"large": ["n1"]}
    assert placed(engine, a_pod("pair", replicas=2, cpu_milli=4000, submitted_at=1.0)) == {}
    assert placed(engine, *[a_pod(f"w{i}", submitted_at=2.0) for i in range(3)]) == {"w0": ["n1"]}
    engine.release("large", NOW)
    assert placed(engine) == {"pair": ["n1", "n1"]}


def test_what_is_told_bit_by_bit_is_as_what_is_told_at_once() -> None:
    slowly, at_once = an_engine(small("n1", 3, elsewhere=2)), an_engine(small("n1", 3))
    slowly.apply_node(small("n1", 3))
    assert slowly.state_digest() == at_once.state_digest()
    for engine in (slowly, at_once):
        assert placed(engine, a_pod("j1"), a_pod("j2")) == {"j1": ["n1"], "j2": ["n1"]}
        engine.release("j1", NOW)
    assert slowly.state_digest() == at_once.state_digest()
    # A changed limit is a node declared anew: who sits there counts.
    slowly.apply_node(small("n1", 1))
    assert why(slowly, a_pod("j3")) == {"POD_LIMIT_REACHED": (1, 2)}


def test_a_job_that_no_node_can_ever_hold_is_known() -> None:
    engine = an_engine(small("n1", 3, elsewhere=3), small("n2", 2))
    assert engine.matching_capacity(a_pod("j", replicas=9)).members == 5


def test_the_cheapest_pod_of_many_nodes_is_found_by_what_one_pod_costs() -> None:
    """Not by what all of its node's would, which have next to nothing but their pods to give."""
    names = [f"n{i:02d}" for i in range(12)]
    for asks in ({"cpu_milli": 5000}, {"devices": 1}):
        engine = an_engine(*[small(name, 2) for name in names], policy=EAGER)
        engine_jobs = [a_pod(f"v{i:02d}", cpu_milli=10, preemptible=True) for i in range(2 * len(names))]
        assert len(placed(engine, *engine_jobs)) == len(engine_jobs)
        seen: set[str] = set()
        for job in engine_jobs:
            claim = engine.holds(job.job_id)
            assert claim is not None
            node = claim.members[0].node
            ran = 200 if node != "n11" else 10_000 if node in seen else 10
            seen.add(node)
            engine.started(job.job_id, claim.job.attempt, NOW - ran)
        engine.submit(a_pod("urgent", priority=1, **asks))
        (stopped,) = engine.cycle(NOW).preemptions
        victim = engine.holds(stopped.job_id)
        assert victim is not None
        assert (victim.members[0].node, victim.started_at) == ("n11", NOW - 10)
