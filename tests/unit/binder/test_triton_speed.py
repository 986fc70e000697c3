"""Speed from Triton's statistics: pure, and against a real server."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.backends.base import Unanswered
from berth.embedded.triton import TritonServer, unavailable
from binder.domain.executor import Asked, Reading
from binder.domain.work import Assignment, Member
from binder.executors import triton_speed
from binder.executors.triton_latency import Quantiles
from binder.executors.triton_speed import counters_of, reading_of, triton_reports
from binder.observing import LAST_LOOK_SECONDS
from tests.unit.binder.builders import make_command

SECOND = 10**9


class Looks:
    """Looks at one attempt, one after another, ten seconds apart."""

    def __init__(self, members: int = 1) -> None:
        self.members = members
        self.mark = ""
        self.at = 0.0

    def look(self, *counters: Mapping[int, tuple[int, int]] | None) -> list[tuple[int | None, float, float, int]]:
        self.at += 10.0
        reading = reading_of(
            self.mark,
            {member: counted for member, counted in enumerate(counters) if counted is not None},
            members=self.members,
            started_at=0.0,
            at=self.at,
        )
        self.mark = reading.mark
        return [
            (one.batch_size, one.units, pytest.approx(one.seconds), one.members_counted)  # type: ignore[misc]
            for one in reading.speeds
        ]


def test_executions_are_told_by_batch_size_and_waiting_is_no_work() -> None:
    looks = Looks()
    assert looks.look({1: (30, 3 * SECOND), 4: (10, 2 * SECOND)}) == [(1, 30.0, 3.0, 1), (4, 40.0, 2.0, 1)]
    assert looks.look({1: (30, 3 * SECOND), 4: (10, 2 * SECOND)}) == []
    assert looks.look({1: (40, 4 * SECOND), 4: (10, 2 * SECOND)}) == [(1, 10.0, 1.0, 1)]


def test_little_work_is_told_once_there_is_enough_of_it() -> None:
    looks = Looks()
    assert [looks.look({1: (n, n * SECOND // 4)}) for n in (1, 2, 3)] == [[], [], []]
    assert looks.look({1: (5, 5 * SECOND // 4)}) == [(1, 5.0, 1.25, 1)]


def test_instances_that_overlap_count_no_more_seconds_than_went_by() -> None:
    assert Looks().look({1: (400, 40 * SECOND)}) == [(1, 400.0, 10.0, 1)]
    assert Looks().look({1: (100, 15 * SECOND), 2: (50, 5 * SECOND)}) == [(1, 100.0, 7.5, 1), (2, 100.0, 2.5, 1)]


def test_counters_that_begin_anew_are_counted_from_there() -> None:
    looks = Looks()
    looks.look({1: (100, 5 * SECOND)})
    assert looks.look({1: (20, 2 * SECOND)}) == [(1, 20.0, 2.0, 1)]
    assert looks.look({4: (20, 2 * SECOND)}) == [(4, 80.0, 2.0, 1)]


def test_the_rates_of_members_are_added_once_all_have_worked() -> None:
    looks = Looks(members=2)
    assert looks.look({1: (10, 2 * SECOND)}, {1: (1, SECOND // 10)}) == []
    assert looks.look({1: (10, 2 * SECOND)}, None) == []
    # 5 and 10 queries a second, over the mean of 2 and 1.1 s.
    ((batch, units, seconds, counted),) = looks.look({1: (10, 2 * SECOND)}, {1: (11, 11 * SECOND // 10)})
    assert (batch, counted, units) == (1, 2, pytest.approx(15 * 1.55))
    assert seconds == 1.55


@pytest.mark.parametrize("broken", [{"batch_stats": [{}]}, {"batch_stats": 3}, {"batch_stats": [{"batch_size": "x"}]}])
def test_what_triton_would_not_write_is_an_error(broken: Any) -> None:
    with pytest.raises(ValueError, match="batch_stats are not as Triton writes them"):
        counters_of(broken)
    assert counters_of({"name": "m"}) == {}


@given(
    st.lists(
        st.dictionaries(st.integers(1, 4), st.tuples(st.integers(0, 1000), st.integers(0, 20 * SECOND))), max_size=12
    )
)
def test_whatever_it_counts_speeds_are_sound_and_never_more_than_was_done(
    looks: list[dict[int, tuple[int, int]]],
) -> None:
    counts = Looks()
    told = 0.0
    for counters in looks:
        for _, units, _, _ in counts.look(counters):
            assert units > 0
            told += units
    assert told <= sum(batch * count for counters in looks for batch, (count, _) in counters.items())
    assert json.loads(counts.mark or "{}") is not None


async def test_a_server_that_does_not_answer_spoils_no_other_reading() -> None:
    good, gone, broken, over = (
        replace(one, attempt=replace(one.attempt, started_at=0.0))
        for one in (make_command(name, "none") for name in ("good", "gone", "broken", "over"))
    )

    async def statistics(assignment: Assignment, member: Member) -> Mapping[str, Any] | None:
        if assignment is gone:
            raise Unanswered("no answer")
        if assignment is over:
            raise AssertionError("what has ended has no model any more")
        phases = {phase: {"count": 4, "ns": SECOND} for phase in ("compute_input", "compute_infer", "compute_output")}
        return {"batch_stats": [{} if assignment is broken else {"batch_size": 2, **phases}]}

    asked = [Asked(one, "", ended=one is over) for one in (good, gone, broken, over)]
    readings = await triton_reports(asked, statistics, lambda: 100.0)
    assert list(readings) == [good.id]
    assert [(speed.units, speed.seconds) for speed in readings[good.id].speeds] == [(8.0, 3.0)]


async def test_a_silent_member_or_page_costs_a_last_look_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    assert triton_speed.ANSWER_SECONDS < LAST_LOOK_SECONDS
    monkeypatch.setattr(triton_speed, "ANSWER_SECONDS", 0.1)
    gang = make_command("gang", "none", members=2)
    gang = replace(gang, attempt=replace(gang.attempt, started_at=0.0))

    async def statistics(assignment: Assignment, member: Member) -> Mapping[str, Any] | None:
        if member.member:
            await asyncio.sleep(60)
        phases = {phase: {"count": 4, "ns": SECOND} for phase in ("compute_input", "compute_infer", "compute_output")}
        return {"batch_stats": [{"batch_size": 2, **phases}]}

    async def latency(assignment: Assignment, member: Member) -> Quantiles:
        await asyncio.sleep(60)
        return Quantiles(1.0)

    async with asyncio.timeout(5):
        readings = await triton_reports([Asked(gang, "", ended=False)], statistics, lambda: 100.0, latency)
    assert json.loads(readings[gang.id].mark)["0"]["pending"] == {"2": [4, 3.0]}


async def test_a_server_that_hangs_silences_its_own_members_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gang of two on it took twice the time of one, more than the observer waits: nobody was heard."""
    monkeypatch.setattr("binder.executors.triton_speed.ANSWER_SECONDS", 0.2)
    gang, good = (
        replace(made, attempt=replace(made.attempt, started_at=1.0))
        for made in (make_command("gang", "none", members=20), make_command("good", "none"))
    )

    async def statistics(assignment: Assignment, member: Member) -> Mapping[str, Any]:
        if assignment is gang:
            await asyncio.sleep(30.0)
        phases = {phase: {"count": 4, "ns": SECOND} for phase in ("compute_input", "compute_infer", "compute_output")}
        return {"batch_stats": [{"batch_size": 2, **phases}]}

    async with asyncio.timeout(2.0):
        readings = await triton_reports([Asked(one, "", ended=False) for one in (gang, good)], statistics, lambda: 9.0)
    assert list(readings) == [good.id]


MODEL = """
import os, sys
sys.path[:0] = os.environ["BERTH_TRITON_PYTHONPATH"].split(":")
import time
import numpy
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.1)
        ones = [numpy.ones((one.inputs()[0].shape()[0], 1), dtype=numpy.float32) for one in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("OUT", each)]) for each in ones]
"""
CONFIGURATION = {
    "name": "m", "backend": "python", "max_batch_size": 4,
    "input": [{"name": "IN", "data_type": "TYPE_FP32", "dims": [1]}],
    "output": [{"name": "OUT", "data_type": "TYPE_FP32", "dims": [1]}],
    "instance_group": [{"kind": "KIND_CPU", "count": 1}],
}  # fmt: skip


class Client:
    def __init__(self, server: TritonServer, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session

    async def post(self, path: str, body: Any) -> None:
        async with self.session.post(f"{self.server.address}/v2/{path}", json=body) as answer:
            assert answer.status == 200, await answer.text()

    async def load(self) -> None:
        file = base64.b64encode(MODEL.encode()).decode()
        parameters = {"config": json.dumps(CONFIGURATION), "file:1/model.py": file}
        await self.post("repository/models/m/load", {"parameters": parameters})

    async def ask(self, batch: int) -> None:
        tensor = {"name": "IN", "shape": [batch, 1], "datatype": "FP32", "data": [1.0] * batch}
        await self.post("models/m/infer", {"inputs": [tensor]})

    async def statistics(self, assignment: Assignment, member: Member) -> Mapping[str, Any] | None:
        async with self.session.get(f"{self.server.address}/v2/models/m/stats") as answer:
            found = await answer.json()
        return dict(found["model_stats"][0]) if answer.status == 200 else None

    async def reading(self, mark: str) -> Reading | None:
        made = make_command("served", "none")
        running = replace(made, attempt=replace(made.attempt, started_at=time.time() - 60.0))
        answers = await triton_reports([Asked(running, mark, ended=False)], self.statistics, time.time)
        return answers.get(running.id)


@pytest.fixture
async def triton(tmp_path: Path) -> AsyncIterator[Client]:
    if missing := unavailable():
        pytest.skip(f"Triton cannot run here: {missing}")
    server = TritonServer(tmp_path)
    await server.start()
    try:
        # A connection that a killed server left behind would be used again.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            made = Client(server, session)
            await made.load()
            yield made
    finally:
        await asyncio.to_thread(server.stop)


async def test_a_real_servers_speed_is_that_of_its_executions(triton: Client) -> None:
    for batch in [1] * 12 + [4] * 11:
        await triton.ask(batch)
    await asyncio.sleep(1.0)  # nobody asks: no work
    first = await triton.reading("")
    assert first is not None
    told = {speed.batch_size: speed for speed in first.speeds}
    # An execution takes a tenth of a second and a little, whatever its batch.
    assert {batch: round(speed.units, 6) for batch, speed in told.items()} == {1: 12.0, 4: 44.0}
    assert 7.0 < told[1].units / told[1].seconds < 10.0
    assert 28.0 < told[4].units / told[4].seconds < 40.0
    assert {(speed.unit, speed.source, speed.members_counted) for speed in first.speeds} == {("queries", "triton", 1)}
    again = await triton.reading(first.mark)
    assert again is not None
    assert again.speeds == ()
    # The server dies, and its counters begin anew.
    await asyncio.to_thread(triton.server.kill)
    await triton.server.start()
    await triton.load()
    for _ in range(11):
        await triton.ask(1)
    last = await triton.reading(again.mark)
    assert last is not None
    assert [(speed.batch_size, round(speed.units, 6)) for speed in last.speeds] == [(1, 11.0)]
