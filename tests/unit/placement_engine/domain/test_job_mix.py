"""The mix of work, learnt from the jobs that come; and the engine that packs by it."""

from dataclasses import replace

import pytest

from placement_engine.domain.hosting_value import Kind
from placement_engine.domain.job_mix import HALF_LIFE, MOST_KINDS, WARM, JobMix, Request, prior, request_of
from placement_engine.domain.model import Job
from tests.unit.placement_engine.domain.builders import GIB, NOW, a_job, a_node, an_engine, placed

HALF, WHOLE, CPU = (Request(Kind(1, 1, n, milli)) for n, milli in ((1, 500), (1, 1000), (0, 0)))


def test_a_job_is_a_kind_and_what_it_demands() -> None:
    share = a_job(device_milli=250, cpu_milli=2000, memory_bytes=GIB, models=("L4",), stacks=("CUDA",))
    assert request_of(share) == Request(Kind(2000, GIB, 1, 250), ("L4",), (), ("CUDA",))
    assert request_of(a_job(devices=4)).kind == Kind(0, 0, 4, 1000)
    assert request_of(a_job(devices=0, cpu_milli=5)).kind == Kind(5, 0, 0, 0)


def test_it_is_cold_until_enough_came_and_cpu_only_work_counts_in_the_shares() -> None:
    mix = JobMix()
    mix.observe(WHOLE, WARM // 2)
    mix.review()
    assert mix.shares == ()
    mix.observe(CPU, WARM // 2)
    mix.review()
    ((request, share),) = mix.shares
    assert request == WHOLE
    assert share == pytest.approx(0.5, abs=0.01)
    assert mix.cpu_only == ((CPU, pytest.approx(0.5, abs=0.01)),)


def test_cpu_only_work_that_asks_for_other_amounts_is_a_mix_that_moved() -> None:
    mix, large = JobMix(), Request(Kind(32, 1, 0, 0))
    for other in (CPU, large):
        for _ in range(1024):
            mix.observe(WHOLE)
            mix.observe(other)
        mix.review()
    assert [one for one, _ in mix.cpu_only] == [large, CPU]


def test_what_no_longer_comes_is_forgotten_by_half_lives() -> None:
    mix = JobMix()
    for request in (HALF, WHOLE):
        for _ in range(int(HALF_LIFE)):
            mix.observe(request)
        mix.review()
    # A half-life of wholes: halves weigh half of what they did, and an equal number of wholes came since.
    assert dict(mix.shares)[HALF] == pytest.approx(1 / 3, abs=0.01)


def test_a_mix_that_hardly_moved_stays_in_use() -> None:
    mix = JobMix()
    mix.observe(WHOLE, 1000)
    mix.review()
    in_use = mix.shares
    mix.observe(WHOLE, 900)
    mix.observe(HALF, 100)
    mix.review()
    assert mix.shares is in_use
    mix.observe(HALF, 2000)
    mix.review()
    assert dict(mix.shares)[HALF] > 0.5


def test_only_the_kinds_that_take_most_are_kept_and_in_an_order_of_their_own() -> None:
    kinds = [Request(Kind(n, 0, 1, 500)) for n in range(2 * MOST_KINDS)]
    first, second = JobMix(), JobMix()
    for n, kind in enumerate(kinds):
        first.observe(kind, n + 1)
        second.observe(kind, n + 1)
    first.review(), second.review()
    assert first.shares == second.shares
    assert [one.kind.cpu for one, _ in first.shares] == list(range(2 * MOST_KINDS - 1, MOST_KINDS - 1, -1))


def test_the_prior_asks_for_each_model_once() -> None:
    demanded = [one.models for one, _ in prior(("L4", "H100", "L4"))]
    assert [models for models in demanded if models] == [("H100",), ("L4",)]
    assert sum(share for _, share in prior(("L4",))) == pytest.approx(1.0)


def test_the_engine_learns_which_rest_is_filled() -> None:
    """A share of 300: beside 700 it fills a device; best fit puts it on 400 and strands both rests."""
    engine = an_engine(a_node("a", 1), a_node("b", 1))
    assert placed(engine, a_job("first", device_milli=600)) == {"first": ["a"]}
    for n in range(WARM):
        engine.submit(a_job(f"seen-{n}", device_milli=(300, 400, 700)[n % 3]))
        engine.withdraw(f"seen-{n}")
    assert placed(engine, a_job("share", device_milli=300)) == {"share": ["b"]}
    cold = an_engine(a_node("a", 1), a_node("b", 1))
    assert placed(cold, a_job("first", device_milli=600)) == {"first": ["a"]}
    assert placed(cold, a_job("share", device_milli=300)) == {"share": ["a"]}


def test_a_job_that_comes_again_is_seen_once() -> None:
    engine = an_engine(a_node("a", 8))
    for _ in range(WARM):
        engine.submit(a_job("same", device_milli=300))
    engine.cycle(NOW)
    assert engine._hosting._mix.shares == ()


def test_a_dry_run_teaches_nothing() -> None:
    engine = an_engine(a_node("a", 8))
    for n in range(2 * WARM):
        engine.dry_run(a_job(f"j{n}"), NOW)
    engine.cycle(NOW)
    assert engine._hosting._mix.shares == ()


def test_the_engine_keeps_the_cores_together_that_cpu_only_work_asks_for() -> None:
    """8 cores: the tightest node has 32 left, which work that comes often asks for; another has 40."""
    nodes = [a_node(name, 8, cpu_milli=cores) for name, cores in (("a", 48_000), ("b", 56_000))]

    def chosen(*seen: Job) -> str:
        engine = an_engine(*nodes)
        for n in range(WARM):
            for one in seen:
                engine.submit(replace(one, job_id=f"{one.job_id}-{n}"))
                engine.withdraw(f"{one.job_id}-{n}")
        for n in range(2):
            placed(engine, a_job(f"device-{n}", devices=8, cpu_milli=16_000))
        (node,) = placed(engine, a_job("small", devices=0, cpu_milli=8000))["small"]
        return node

    device = a_job("seen", devices=1, cpu_milli=2000)
    assert chosen(device) == "a"
    assert chosen(device, a_job("large", devices=0, cpu_milli=32_000)) == "b"


@pytest.mark.parametrize(("cores", "reviews"), [(1, 0), (8, 1)])
def test_scarcity_is_reviewed_where_cpu_went_though_no_device_did(cores: int, reviews: int) -> None:
    engine = an_engine(a_node("a", 1))
    for n in range(WARM):
        engine.submit(a_job(f"seen-{n}", devices=n % 2, cpu_milli=1000))
        engine.withdraw(f"seen-{n}")
    engine.cycle(NOW)
    before = engine._hosting.version
    placed(engine, a_job("cores", devices=0, cpu_milli=1000 * cores))
    engine.submit(a_job("next", devices=0, cpu_milli=1))
    engine.cycle(NOW)
    assert engine._hosting.version == before + reviews
