"""The executor `triton` over a FakeBackend: who may say what, and when, about a copy of a model."""

import asyncio
from pathlib import Path

import pytest

from berth.backends.base import Health, Refused, Unanswered, Unreachable
from berth.models.artefact import Artefact
from berth.models.artefact_file import Opened
from binder.domain.attempt import Seen
from binder.executors.triton_copies import Servers, served_name
from binder.executors.triton_members import Held, Members
from tests.unit.binder.fake_backend import Clock, FakeBackend, bound, executor, until, wanted


async def test_a_read_back_from_before_a_release_does_not_undo_it() -> None:
    backend = FakeBackend()
    async with executor(backend) as (made, _):
        gang = wanted("job", "n1", "n2")
        assert (await made.bind([gang]))[gang.id].seen is Seen.STARTED
        looked, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> None:
            looked.set()
            await go_on.wait()

        backend.wrong["look", "n2"] = slow
        reading = asyncio.create_task(made.read_back([bound(gang)]))
        await looked.wait()
        del backend.wrong["look", "n2"]
        assert (await made.release([bound(gang, release_wanted=True)]))[gang.id].seen is Seen.RELEASED
        go_on.set()
        assert (await reading)[gang.id].seen is Seen.RELEASED
        await asyncio.sleep(0.1)
        assert backend.nodes() == set()


async def test_a_read_back_does_not_take_up_what_is_being_released() -> None:
    backend = FakeBackend()
    async with executor(backend, bind=0.05) as (made, _):
        one = wanted()
        await made.bind([one])
        looked, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> None:
            looked.set()
            await go_on.wait()

        backend.wrong["look", "n1"] = backend.wrong["release", "n1"] = slow
        reading = asyncio.create_task(made.read_back([bound(one)]))
        await looked.wait()
        assert (await made.release([bound(one, release_wanted=True)]))[one.id].seen is Seen.UNCLEAR
        del backend.wrong["look", "n1"]
        go_on.set()
        assert (await reading)[one.id].seen in (Seen.UNCLEAR, Seen.RELEASED)
        await asyncio.sleep(0.1)
        assert backend.nodes() == set()


async def test_a_no_to_a_look_does_not_end_what_is_bound() -> None:
    backend = FakeBackend()
    async with executor(backend) as (made, told):
        one = wanted()
        await made.bind([one])
        backend.wrong["look", "n1"] = Refused("404 page not found")
        assert (await made.read_back([bound(one)]))[one.id].seen is Seen.UNCLEAR
        assert (await made.read_back([wanted("other")]))[wanted("other").id].seen is Seen.UNCLEAR
        await asyncio.sleep(0.05)
        assert [seen.seen for _, seen in told] == [Seen.STARTED]


async def test_what_is_to_be_released_is_not_called_ended_by_a_look() -> None:
    backend = FakeBackend()
    async with executor(backend) as (made, _):
        gang = bound(wanted("job", "n1", "n2"), release_wanted=True)
        backend.copies = {(served_name(gang, gang.work.members[0]), "n1")}
        assert (await made.read_back([gang]))[gang.id].seen is Seen.UNCLEAR


async def test_what_is_there_still_is_not_released_however_long_it_takes() -> None:
    backend, clock = FakeBackend(), Clock()
    async with executor(backend, servers=Servers(), clock=clock) as (made, _):
        one = wanted()
        await made.bind([one])
        backend.wrong["release", "n1"] = Unanswered("it is there still after release")
        ending = bound(one, release_wanted=True)
        for _ in range(3):
            assert (await made.release([ending]))[one.id].seen is Seen.UNCLEAR
            clock.now += 100
        backend.wrong["release", "n1"] = Unreachable("nobody is there")
        assert (await made.release([ending]))[one.id].seen is Seen.UNCLEAR
        clock.now += 100
        assert (await made.release([ending]))[one.id].seen is Seen.RELEASED


async def test_silence_about_a_process_ends_it_before_it_is_called_failed() -> None:
    backend, clock = FakeBackend(), Clock()
    async with executor(backend, servers=Servers(), clock=clock) as (made, told):
        one = wanted()
        await made.bind([one])
        backend.wrong["look", "n1"] = Unanswered("health: it did not end in time")
        backend.wrong["release", "n1"] = Unanswered("its processes do not end")
        await until(lambda: backend.calls.count(("look", "n1")) > 3)
        clock.now += 100
        await until(lambda: backend.calls.count(("release", "n1")) > 2)
        assert [seen.seen for _, seen in told] == [Seen.STARTED]
        del backend.wrong["release", "n1"]
        await until(lambda: len(told) > 1)
        assert told[1][1].seen is Seen.FAILED
        assert backend.nodes() == set()


async def test_the_copies_that_can_be_reached_are_gone_before_a_gang_is_called_failed() -> None:
    backend, clock = FakeBackend(), Clock()
    async with executor(backend, clock=clock) as (made, told):
        await made.bind([wanted("job", "n1", "n2")])
        backend.wrong["look", "n1"] = backend.wrong["release", "n1"] = Unreachable("n1 is away")
        go_on = asyncio.Event()
        backend.wrong["release", "n2"] = go_on.wait
        await until(lambda: backend.calls.count(("look", "n1")) > 3)
        clock.now += 100
        await until(lambda: ("release", "n2") in backend.calls)
        await asyncio.sleep(0.05)
        assert [seen.seen for _, seen in told] == [Seen.STARTED]
        go_on.set()
        await until(lambda: len(told) > 1)
        assert backend.nodes() == {"n1"}
        assert told[1][1].seen is Seen.FAILED
        assert "gone for more than 60 s" in told[1][1].message


async def test_what_was_released_is_ended_by_the_sweep_where_nothing_is_said_of_it() -> None:
    backend = FakeBackend()
    async with executor(backend, servers=Servers()) as (made, _):
        one = wanted()
        await made.bind([one])
        await made.release([one])
        backend.copies = {(served_name(one, one.work.members[0]), "n1")}
        backend.wrong["look", "n1"] = Unanswered("health: it did not end in time")
        await until(lambda: not backend.copies)


async def test_an_attempt_whose_server_goes_away_before_it_was_bound_is_given_up_after_the_grace() -> None:
    backend, clock = FakeBackend(), Clock()
    async with executor(backend, clock=clock) as (made, _):
        gang = wanted("job", "n1", "n2")
        for call in ("serve", "look", "release"):
            backend.wrong[call, "n1"] = Unreachable("n1 is away")
        assert (await made.bind([gang]))[gang.id].seen is Seen.UNCLEAR
        assert (await made.read_back([gang]))[gang.id].seen is Seen.UNCLEAR
        # An answer in between begins the count anew.
        clock.now += 59
        del backend.wrong["look", "n1"]
        assert (await made.read_back([gang]))[gang.id].seen is Seen.PARTIAL
        backend.wrong["look", "n1"] = Unreachable("n1 is away")
        clock.now += 59
        assert (await made.read_back([gang]))[gang.id].seen is Seen.UNCLEAR
        clock.now += 61
        refused = (await made.read_back([gang]))[gang.id]
        assert (refused.seen, refused.retryable) == (Seen.REFUSED, True)
        assert "could not be reached for more than 60 s: n1 is away" in refused.message
        assert not backend.copies
        # Its load was on its way all the while.
        backend.copies = {(served_name(gang, gang.work.members[0]), "n1")}
        backend.wrong.clear()
        await until(lambda: not backend.copies)
        assert (await made.bind([gang]))[gang.id].seen is Seen.RELEASED


async def test_what_is_there_and_says_nothing_is_not_given_up_before_it_was_bound() -> None:
    backend, clock = FakeBackend(), Clock()
    async with executor(backend, servers=Servers(), clock=clock) as (made, _):
        backend.wrong["look", "n1"] = Unanswered("health: it did not end in time")
        for _ in range(3):
            assert (await made.read_back([wanted()]))[wanted().id].seen is Seen.UNCLEAR
            clock.now += 100


async def test_a_server_that_is_silent_keeps_neither_the_watch_nor_the_sweep_from_the_others() -> None:
    backend = FakeBackend()
    async with executor(backend) as (made, _):
        lone, held = wanted("lone", "n3"), wanted("held", "n1")
        gone = [wanted(f"gone{number}", "n1", "n2") for number in range(3)]
        await made.bind([lone, held, *gone])
        await made.release(gone)
        never = asyncio.Event()
        backend.wrong["look", "n1"] = never.wait
        await until(lambda: backend.calls[-30:].count(("look", "n1")) > 0)
        asked = backend.calls.count(("look", "n1"))
        backend.copies = {(served_name(one, one.work.members[1]), "n2") for one in gone}
        # What vanished is loaded again, and what was released and is there again is unloaded.
        await until(lambda: backend.nodes() == {"n3"})
        # One probe of the sweep and one of the watch wait for the silent server, not one for each copy and turn.
        assert backend.calls.count(("look", "n1")) - asked <= 2


async def test_what_vanished_and_cannot_be_loaded_again_is_tried_less_and_less_and_fails_after_the_grace() -> None:
    backend, clock = FakeBackend(), Clock()
    async with executor(backend, clock=clock) as (made, told):
        one = wanted()
        await made.bind([one])
        backend.copies.clear()
        backend.calls.clear()
        backend.wrong["serve", "n1"] = Unanswered("500: failed to load: internal")
        for _ in range(60):
            clock.now += 1
            await asyncio.sleep(0.03)
            await made.read_back([bound(one)])
        assert 3 < backend.calls.count(("serve", "n1")) < 10
        clock.now += 2
        await until(lambda: len(told) > 1)
        assert told[1][1].seen is Seen.FAILED
        assert "vanished and was not ready again within 60 s: 500: failed to load" in told[1][1].message


async def test_what_was_loaded_again_may_vanish_again() -> None:
    backend, clock = FakeBackend(), Clock()
    async with executor(backend, clock=clock) as (made, told):
        await made.bind([wanted()])
        for _ in range(3):
            backend.copies.clear()
            await until(lambda: bool(backend.copies))
            clock.now += 59
        assert {seen.seen for _, seen in told} == {Seen.STARTED}


async def test_a_file_that_nobody_foresaw_is_a_refusal_and_holds_no_device() -> None:
    backend = FakeBackend()
    async with executor(backend) as (made, _):
        gang = wanted("job", "n1", "n2")
        backend.wrong["prepare", "n2"] = TypeError("'str' object is not a mapping")
        refused = (await made.bind([gang]))[gang.id]
        assert refused.seen is Seen.REFUSED
        assert "TypeError: 'str' object is not a mapping" in refused.message
        assert not backend.copies


async def test_a_gangs_model_is_opened_once() -> None:
    backend, opened = FakeBackend(), 0

    def read(path: Path) -> Opened:
        nonlocal opened
        opened += 1
        return Opened(Artefact("m", "jax-export", "a" * 64, 1, (), ()), path)

    async with executor(backend, read=read) as (made, _):
        gang = wanted("job", "n1", "n2", "n3")
        assert (await made.bind([gang]))[gang.id].seen is Seen.STARTED
        assert backend.nodes() == {"n1", "n2", "n3"}
    assert opened == 1


async def test_a_server_that_is_away_hides_no_process_that_another_backend_has() -> None:
    away, other, one = FakeBackend(), FakeBackend(), wanted()
    members = Members(Servers(template="http://{node}"), [away, other], {})
    name = served_name(one, one.work.members[0])
    other.copies = {(name, "n1")}
    away.wrong["look", "n1"] = away.wrong["release", "n1"] = Unreachable("n1 is away")
    assert (await members.look(one, one.work.members[0])).health is Health.READY
    other.wrong["release", "n1"] = Unanswered("its processes do not end")
    with pytest.raises(Unanswered, match="do not end"):
        await members.unload(Held(one))
    del other.wrong["release", "n1"]
    with pytest.raises(Unreachable):
        await members.unload(Held(one))
    assert not other.copies
    with pytest.raises(Unreachable):
        await members.look(one, one.work.members[0])
