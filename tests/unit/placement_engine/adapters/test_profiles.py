"""Which of several configurations speaks for a workload on an accelerator."""

import itertools
from typing import Any

import pytest

from berth.v1 import profiles_pb2 as pb
from placement_engine.adapters.profiles import Profiles


def a_profile(configuration: str = "", version: int = 1, **changes: Any) -> pb.Profile:
    plain: dict[str, Any] = {"throughput": 10.0, "provenance": pb.PROVENANCE_MEASURED}
    return pb.Profile(
        workload="bert",
        accelerator="L4",
        devices=1,
        configuration=configuration,
        version=version,
        **{**plain, **changes},
    )


SLOW = a_profile("batch=1")
FAST = a_profile("batch=64", throughput=90.0)
PREDICTED = a_profile("batch=128", throughput=200.0, provenance=pb.PROVENANCE_TRANSFERRED)
DOUBTFUL = a_profile("batch=256", throughput=300.0, low_confidence=True)
STREAM = pb.Profile(workload="bert", accelerator="L4", devices=1, stream_throughput=900.0, configuration="one-stream")


@pytest.mark.parametrize("order", list(itertools.permutations([SLOW, FAST, PREDICTED, DOUBTFUL, STREAM])))
def test_the_surest_and_then_the_fastest_speaks_whatever_was_heard_first(order: tuple[pb.Profile, ...]) -> None:
    profiles = Profiles()
    for profile in order:
        profiles.hear(profile)
    assert profiles.fitting() == [FAST]


def test_a_newer_version_of_the_fastest_lets_another_speak() -> None:
    profiles = Profiles()
    assert profiles.hear(SLOW) == SLOW
    assert profiles.hear(FAST) == FAST
    slower = a_profile("batch=64", version=2, throughput=5.0)
    assert profiles.hear(slower) == SLOW
    # An older record, and one of a pair that shares devices, are no news.
    assert profiles.hear(FAST) is None
    assert profiles.hear(a_profile("batch=2", throughput=99.0, co_located_with="gpt")) is None
    assert profiles.fitting() == [SLOW]


def test_records_from_before_configurations_are_replaced_by_their_successors() -> None:
    profiles = Profiles()
    profiles.hear(a_profile("", precision="fp16", throughput=50.0))
    newer = a_profile("precision=fp16", version=2, precision="fp16", throughput=20.0)
    assert profiles.hear(newer) == newer
    assert profiles.fitting() == [newer]


def test_what_the_one_that_speaks_does_not_say_is_the_next_bests_word() -> None:
    """A measurement of memory and power alone is not hidden by a prediction that has the speed alone."""
    profiles = Profiles()
    profiles.hear(a_profile("batch=1", throughput=None, memory_bytes=60, power_watts=300.0, latency_p99_seconds=0.1))
    profiles.hear(a_profile("batch=2", throughput=None, memory_bytes=9, provenance=pb.PROVENANCE_DECLARED))
    spoken = profiles.hear(PREDICTED)
    filled = pb.Profile()
    filled.CopyFrom(PREDICTED)
    filled.memory_bytes, filled.power_watts = 60, 300.0
    assert spoken == filled
    assert profiles.fitting() == [filled]
    assert not PREDICTED.HasField("memory_bytes"), "the record itself stays as it was heard"


def test_mean_and_peak_power_are_of_one_record() -> None:
    profiles = Profiles()
    profiles.hear(a_profile("batch=1", power_watts=200.0, peak_power_watts=250.0))
    fast = a_profile("batch=64", throughput=90.0, power_watts=300.0)
    assert profiles.hear(fast) == fast


def test_what_was_observed_here_speaks_before_what_was_measured_faster_elsewhere() -> None:
    observed = a_profile("batch=64 observed", throughput=40.0, provenance=pb.PROVENANCE_OBSERVED)
    limits = a_profile("batch=64", throughput=90.0, memory_bytes=10**9, power_watts=60.0)
    profiles = Profiles()
    profiles.hear(limits)
    spoken = profiles.hear(observed)
    assert spoken is not None
    assert (spoken.throughput, spoken.provenance) == (40.0, pb.PROVENANCE_OBSERVED)
    assert (spoken.memory_bytes, spoken.power_watts) == (10**9, 60.0)


def test_a_latency_is_that_of_the_configuration_whose_speed_speaks() -> None:
    """5 ms at batch 1 is no latency of the 1000 queries a second at batch 256: no target is held by it."""
    profiles = Profiles()
    profiles.hear(a_profile("precision=bf16 batch=1", throughput=50.0, latency_p99_seconds=0.005, memory_bytes=9))
    fast = a_profile("precision=bf16 batch=256 observed", throughput=1000.0, provenance=pb.PROVENANCE_OBSERVED)
    spoken = profiles.hear(fast)
    assert spoken is not None
    assert (spoken.throughput, spoken.HasField("latency_p99_seconds"), spoken.memory_bytes) == (1000.0, False, 9)
    spoken = profiles.hear(a_profile("precision=bf16 batch=256", throughput=900.0, latency_p99_seconds=0.3))
    assert spoken is not None
    assert (spoken.throughput, spoken.latency_p99_seconds) == (1000.0, 0.3)
