"""The executor `triton` over a FakeBackend: who may say what, and when, about a copy of a model."""

import asyncio

from berth.backends.base import Refused
from binder.domain.attempt import Seen
from binder.executors.triton_copies import served_name
from tests.unit.binder.fake_backend import FakeBackend, bound, executor, wanted


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
