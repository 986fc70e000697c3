"""The engine on a virtual clock: what starts, what ends, what is lost, and the figures of a run."""

from dataclasses import replace
from typing import Any

import pytest

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import (
    Accelerator,
    Claim,
    CycleResult,
    Job,
    Node,
    Objective,
    Preemption,
    PreemptionKind,
    Profile,
)
from placement_engine.domain.policy import Policy
from placement_engine.domain.situation import Situation
from placement_engine.simulation.clock import Arrival, Clock, Ending, Fact, History
from placement_engine.simulation.outcome import outcome_of
from tests.unit.placement_engine.domain.builders import GIB, a_job, a_node, a_sample

START = 5_000.0
ACCELERATORS = (
    Accelerator("H100", "GPU", "CUDA", 80 * GIB, 3.35e12, 989.0, 700.0, 3.0),
    Accelerator("L4", "GPU", "CUDA", 24 * GIB, 0.3e12, 121.0, 72.0, 0.5),
)


def a_situation(*nodes: Node, **changes: Any) -> Situation:
    return replace(Situation(now=START, nodes=nodes, accelerators=ACCELERATORS), **changes)


def arrivals(*told: tuple[float, Job, float | None]) -> list[Arrival]:
    return [Arrival(START + at, replace(job, submitted_at=START + at, attempt=1), seconds) for at, job, seconds in told]


def spans(history: History) -> dict[str, list[tuple[float, float | None, str]]]:
    """Per job: start, end and how, in seconds from the begin."""
    return {
        job_id: [
            (s.started - START, None if s.ended is None else s.ended - START, s.ending.value if s.ending else "runs")
            for s in job.spans
        ]
        for job_id, job in history.jobs.items()
    }


def test_jobs_start_when_there_is_room_and_end_after_their_true_duration() -> None:
    jobs = arrivals(
        (0, a_job("a", devices=4), 100.0), (10, a_job("b", devices=4), 50.0), (20, a_job("c", devices=2), 5.0)
    )
    history = Clock(a_situation(a_node("n1", 4)), jobs).run()
    assert spans(history) == {
        "a": [(0, 100, "finished")],
        "b": [(100, 150, "finished")],
        "c": [(150, 155, "finished")],
    }
    outcome = outcome_of(history)
    assert (outcome.jobs_finished, outcome.makespan_seconds, outcome.preemptions) == (3, 155, 0)
    assert outcome.mean_wait_seconds == pytest.approx((0 + 90 + 130) / 3)
    assert outcome.p95_wait_seconds == 130
    assert outcome.mean_completion_seconds == pytest.approx((100 + 140 + 135) / 3)
    assert outcome.utilisation == pytest.approx((400 + 200 + 10) / (4 * 155))
    assert outcome.device_seconds == {"H100": 610.0}
    assert outcome.cost_dollars == pytest.approx(610 / 3600 * 3.0)
    assert outcome.energy_joules == pytest.approx(610 * 700)
    assert outcome.worst_slowdown == pytest.approx(135 / 10)  # run times below 10 s count as 10


def test_the_duration_is_scaled_to_the_accelerator_where_it_is_declared_and_a_profile_knows_it() -> None:
    profiles = (Profile("w", "H100", 1, 10.0, power_watts=500.0), Profile("w", "L4", 1, 2.0, power_watts=60.0))
    told = a_job("a", workload="w", models=("L4",), expected_duration_seconds=50.0)
    fast = a_job("f", workload="w", objective=Objective.TIME, expected_duration_seconds=50.0)
    situation = a_situation(a_node("n1", 1), a_node("n2", 2, model="L4"), profiles=profiles)
    jobs = arrivals((0, fast, 60.0), (0, replace(fast, job_id="g"), 60.0), (0, told, None))
    history = Clock(situation, jobs).run()
    # What the job says holds on the fastest that it may use; `g` takes the slower one that is free.
    assert spans(history) == {
        "f": [(0, 60, "finished")],
        "g": [(0, 300, "finished")],
        "a": [(0, 50, "finished")],
    }
    assert outcome_of(history).energy_joules == pytest.approx(60 * 500 + 350 * 60)


def test_nothing_known_of_the_duration_takes_the_default_and_says_so() -> None:
    history = Clock(a_situation(a_node("n1", 1)), arrivals((0, a_job("a"), None)), default_seconds=42.0).run()
    assert spans(history) == {"a": [(0, 42, "finished")]}
    assert history.notes == ("1 jobs declare no duration: 42 s is taken for each",)


class Stopping(Engine):
    """Stops job `a` once, at START + 70."""

    done = False

    def cycle(self, now: float, limit: int | None = None) -> CycleResult:
        found = super().cycle(now, limit)
        if now == START + 70 and not self.done:
            self.done = True
            stop = Preemption("a", 1, "b", PreemptionKind.PRIORITY, 0.0, "for b")
            return replace(found, preemptions=(stop,))
        return found


@pytest.mark.parametrize(("checkpoint", "lost", "left"), [(None, 70.0, 100.0), (30.0, 10.0, 40.0)])
def test_a_job_that_is_stopped_loses_its_work_since_the_last_checkpoint(
    monkeypatch: pytest.MonkeyPatch, checkpoint: float | None, lost: float, left: float
) -> None:
    monkeypatch.setattr("placement_engine.simulation.clock.Engine", Stopping)
    jobs = arrivals(
        (0, a_job("a", devices=2, checkpoint_seconds=checkpoint, preemptible=True), 100.0),
        (70, a_job("b", devices=2, priority=5), 30.0),
    )
    history = Clock(a_situation(a_node("n1", 2)), jobs).run()
    assert spans(history) == {
        "a": [(0, 70, "preempted"), (100, 100 + left, "finished")],
        "b": [(70, 100, "finished")],
    }
    first, second = history.jobs["a"].spans
    assert (first.attempt, first.lost_seconds, first.message, second.attempt) == (1, lost, "for b", 2)
    outcome = outcome_of(history)
    assert (outcome.preemptions, outcome.lost_device_seconds) == (1, 2 * lost)


def test_a_node_that_is_lost_takes_its_jobs_with_it() -> None:
    node = a_node("n2", 2)
    jobs = arrivals((0, a_job("a", devices=2), 100.0), (0, a_job("g", devices=1, replicas=2, models=("H100",)), 100.0))
    facts = [Fact(START + 30, "n2"), Fact(START + 500, node)]
    history = Clock(a_situation(a_node("n1", 2), node), jobs, facts).run()
    lost = [job_id for job_id, told in spans(history).items() if len(told) == 2]
    assert len(lost) == 1
    assert spans(history)[lost[0]] == [(0, 30, "node lost"), (100, 200, "finished")]
    assert history.capacity == {"H100": 4 * 30 + 2 * 170}, "to the last end, though the node is back later"


def test_hot_devices_take_nothing_until_they_have_cooled() -> None:
    facts = [
        Fact(START, a_sample("n1", {"margin_celsius": 1.0}, at=START)),
        Fact(START + 90, a_sample("n1", {"margin_celsius": 20.0}, at=START + 90)),
    ]
    history = Clock(a_situation(a_node("n1", 1)), arrivals((0, a_job("a"), 10.0)), facts).run()
    assert spans(history) == {"a": [(90, 100, "finished")]}


def test_what_runs_already_runs_on_to_its_expected_end_and_is_no_wait() -> None:
    job = a_job("r", devices=2, submitted_at=START - 500, attempt=1, expected_duration_seconds=300.0)
    engine = Clock(a_situation(a_node("n1", 2)), arrivals((0, job, 1.0))).engine
    engine.submit(job)
    (decision,) = engine.cycle(START).decisions
    claim = Claim(job, decision.members, placed_at=START - 120, started_at=START - 100)
    situation = a_situation(a_node("n1", 2), running=(claim,), ends={"r": START + 200})
    history = Clock(situation, arrivals((0, a_job("b", devices=2), 10.0))).run()
    assert spans(history) == {"r": [(-100, 200, "finished")], "b": [(200, 210, "finished")]}
    outcome = outcome_of(history)
    assert (outcome.jobs_finished, outcome.mean_wait_seconds) == (2, 200)
    assert outcome.device_seconds == {"H100": 2 * 200 + 2 * 10}


def test_what_never_fits_waits_with_its_reasons_and_the_run_ends() -> None:
    history = Clock(a_situation(a_node("n1", 1)), arrivals((0, a_job("a", devices=2), 1.0), (0, a_job("b"), 5.0))).run()
    why = history.jobs["a"].why
    assert why is not None
    assert [reason.code for reason in why.reasons] == ["DEVICES_BUSY"]
    outcome = outcome_of(history)
    assert (outcome.jobs_waiting, outcome.jobs_finished) == (1, 1)


def test_a_run_can_be_cut() -> None:
    history = Clock(a_situation(a_node("n1", 1)), arrivals((0, a_job("a"), 100.0), (0, a_job("b"), 1.0))).run(
        START + 40
    )
    assert spans(history) == {"a": [(0, None, "runs")], "b": []}
    outcome = outcome_of(history)
    assert (outcome.jobs_running, outcome.jobs_waiting, outcome.utilisation) == (1, 1, 1.0)
    assert history.end == START + 40


def test_fairness_is_jains_index_of_how_fast_queues_are_served() -> None:
    jobs = arrivals(
        (0, a_job("a1", queue="a"), 100.0),
        (0, a_job("a2", queue="a"), 100.0),
        (0, a_job("b1", queue="b", devices=9), 1.0),
    )
    alike = outcome_of(Clock(a_situation(a_node("n1", 2)), jobs[:2]).run())
    alone = outcome_of(Clock(a_situation(a_node("n1", 2)), jobs).run())
    assert (alike.fairness, alone.fairness) == (1.0, 0.5)


def test_the_same_run_twice_is_the_same_to_the_letter() -> None:
    def run() -> str:
        jobs = arrivals(
            *((float(i % 7), a_job(f"j{i}", devices=1 + i % 3, queue="ab"[i % 2]), 10.0 + i) for i in range(40))
        )
        return repr(Clock(a_situation(a_node("n1", 4), a_node("n2", 3)), jobs).run())

    assert run() == run()


def test_an_end_is_one_of_three_or_a_change_of_size() -> None:
    assert {one.value for one in Ending} == {"finished", "preempted", "node lost", "grown", "shrunk"}


RESIZING = Policy(resize_gangs=True, grow_after_seconds=10.0)


def a_gang(job_id: str = "gang", **changes: Any) -> Job:
    facts: dict[str, Any] = {"devices": 1, "replicas": 4, "min_replicas": 2, "preemptible": True}
    return a_job(job_id, **(facts | {"expected_duration_seconds": 100.0} | changes))


def test_a_gang_that_grows_shares_the_work_that_is_left() -> None:
    """400 member-seconds: 100 s by two, then four do the rest in 50 s."""
    jobs = arrivals((0, a_job("first", devices=2), 100.0), (0, a_gang(), None))
    history = Clock(a_situation(a_node("n1", 4), policy=RESIZING), jobs).run()
    assert spans(history) == {"first": [(0, 100, "finished")], "gang": [(0, 100, "grown"), (100, 150, "finished")]}
    assert [span.replicas for span in history.jobs["gang"].spans] == [2, 4]
    outcome = outcome_of(history)
    assert (outcome.utilisation, outcome.preemptions, outcome.lost_device_seconds) == (1.0, 0, 0.0)
    assert outcome.jobs_finished == 2


def test_it_grows_when_its_time_has_come_though_nothing_else_happens() -> None:
    jobs = arrivals((0, a_job("first", devices=2), 5.0), (0, a_gang(), None))
    history = Clock(a_situation(a_node("n1", 4), policy=RESIZING), jobs, tick_seconds=10.0).run()
    assert spans(history)["gang"] == [(0, 15, "grown"), (15, 15 + (400 - 30) / 4, "finished")]


def test_a_gang_that_gives_members_takes_the_longer() -> None:
    """Four for 40 s, two for the 20 s of the other, then four again once they may."""
    jobs = arrivals((0, a_gang(), None), (40, a_job("high", devices=2, priority=1), 20.0))
    history = Clock(a_situation(a_node("n1", 4), policy=RESIZING), jobs).run()
    assert spans(history) == {
        "gang": [(0, 40, "shrunk"), (40, 60, "grown"), (60, 110, "finished")],
        "high": [(40, 60, "finished")],
    }
    assert outcome_of(history).preemptions == 0


def test_a_gang_that_is_stopped_loses_what_it_did_at_every_size() -> None:
    jobs = arrivals(
        (0, a_gang(), None),
        (40, a_job("high", devices=2, priority=1), 20.0),
        (80, a_job("all", devices=4, priority=1), 10.0),
    )
    history = Clock(a_situation(a_node("n1", 4), policy=RESIZING), jobs).run()
    assert spans(history)["gang"] == [
        (0, 40, "shrunk"), (40, 60, "grown"), (60, 80, "preempted"), (90, 190, "finished"),
    ]  # fmt: skip
    assert outcome_of(history).lost_device_seconds == 4 * 40 + 2 * 20 + 4 * 20
    checked = [replace(one, job=replace(one.job, checkpoint_seconds=20.0)) for one in jobs]
    history = Clock(a_situation(a_node("n1", 4), policy=RESIZING), checked).run()
    assert spans(history)["gang"][-1] == (90, 90 + (400 - 160 - 40 - 80) / 4, "finished")
    assert outcome_of(history).lost_device_seconds == 0
