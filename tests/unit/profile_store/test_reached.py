"""What other programs reached of their roofline says how far a bound may be off."""

import math
from dataclasses import replace

import pytest

from berth import catalogue
from profile_store.domain.prediction.reached import Reached, alone, carried
from profile_store.domain.prediction.roofline import RAW, Roofs, Work
from profile_store.domain.profile import Profile
from tests.unit.profile_store.builders import a_profile

ENTRIES = catalogue.load()
BERT = a_profile("bert", "H100-SXM", throughput=None, throughput_unit="steps/s", operations=1e14, bytes_moved=1e9)


def seen(kind: str, ratio: float, accelerator: str = "H100-SXM", *, by: str = "compute", distance: int = 1) -> Reached:
    return Reached(kind, (f"{kind} batch=1", 1), accelerator, by, ratio, distance)


def test_without_other_programs_the_width_is_the_assumed_one() -> None:
    assert alone([], "compute", 1.0) == 1.0
    assert alone([seen("gpt", 0.1, by="memory")], "compute", 1.0) == 1.0, "bound by something else, it says nothing"
    assert carried([seen("gpt", 0.1)], "compute", 1.0) == 1.0, "on one accelerator alone there is nothing to carry"


def test_programs_that_agree_narrow_it_and_one_counts_once() -> None:
    many = [seen(f"p{number}", 0.1) for number in range(60)]
    assert alone(many, "compute", 1.0) == pytest.approx(0.1)
    once = [replace(seen("gpt", 0.1), run=(f"gpt batch={batch}", 1)) for batch in range(60)]
    assert alone(once, "compute", 1.0) == pytest.approx(alone([seen("gpt", 0.1)], "compute", 1.0))
    far = [replace(one, distance=2) for one in many]
    assert 0.1 < alone(far, "compute", 1.0) < 1.0


def test_what_all_miss_alike_is_carried_surely() -> None:
    """Each takes e times its bound, on both GPUs: alone that is far off, carried over it is not."""
    both = [seen(f"p{number}", 1.0, name) for number in range(60) for name in ("H100-SXM", "A100-80-SXM")]
    assert alone(both, "compute", 1.0) == pytest.approx(1.0)
    assert carried(both, "compute", 1.0) == pytest.approx(0.0)


def programs(count: int) -> list[Profile]:
    """Each takes 1.1 times its bound there."""
    bound = 1e14 / (989e12 * 0.45) + 5e-5
    return [
        a_profile(f"p{number}", "H100-SXM", throughput=1 / (1.1 * bound), throughput_unit="steps/s", operations=1e14,
                  bytes_moved=1e9)
        for number in range(count)
    ]  # fmt: skip


def test_measured_programs_narrow_the_interval_of_one_that_never_ran() -> None:
    widths = []
    for count in (0, 1, 60):
        made = Roofs(ENTRIES, programs(count)).bounded(BERT, [BERT], "H100-SXM")
        assert made is not None
        widths.append(made.half_width)
    assert widths[0] == pytest.approx(RAW, abs=0.01)
    assert widths[0] > widths[1] > widths[2]
    assert widths[2] == pytest.approx(math.log(1.1), abs=0.01)
    # Its own runs are what corrects it: they are not counted among the others.
    own = replace(programs(1)[0], key=replace(programs(1)[0].key, workload="bert", accelerator="A100-80-SXM"))
    assert [one.kind for one in Roofs(ENTRIES, [own])._others(BERT, "H100-SXM")] == []


def test_a_step_that_waits_for_memory_gains_half_of_what_more_devices_give() -> None:
    def seconds(work: Work, devices: int) -> float:
        target = replace(BERT, key=replace(BERT.key, devices=devices))
        made = Roofs(ENTRIES).bounded(target, [], "H100-SXM", work)
        assert made is not None
        return made.seconds - 5e-5

    memory, compute = Work(1e9, 1e12), Work(1e15, 1e9)
    assert seconds(memory, 1) / seconds(memory, 4) == pytest.approx(4**0.5)
    assert seconds(compute, 1) / seconds(compute, 4) == pytest.approx(4**0.9)
