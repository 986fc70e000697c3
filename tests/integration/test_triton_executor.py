"""The executor `triton` on real Triton servers: all members or none, read back after a crash, gone after a release."""

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from berth.backends import onnx, triton_python, xla
from berth.backends.triton_client import TritonClient
from berth.embedded.triton import TritonServer
from berth.models.artefact_file import digest_of, open_artefact
from binder.domain.attempt import Observation, Seen
from binder.domain.work import Assignment, DeviceClaim, Member, Model, Work
from binder.executors.model_rules import ModelRules
from binder.executors.triton import Times, TritonExecutor
from binder.executors.triton_copies import Servers, served_name
from tests.serving import ask, exported, model_folder, triton_server
from tests.unit.binder.builders import make_attempt


@pytest.fixture(scope="module")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[TritonServer, TritonServer]]:
    async with (
        triton_server(tmp_path_factory.mktemp("one")) as one,
        triton_server(tmp_path_factory.mktemp("two")) as two,
    ):
        yield one, two


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "doubler")


class Told:
    """What an executor tells by itself."""

    def __init__(self) -> None:
        self.seen: list[Observation] = []

    def __call__(self, observations: Any) -> None:
        self.seen.extend(observations.values())

    async def until(self, *wanted: Seen) -> Observation:
        async with asyncio.timeout(30):
            while True:
                for one in self.seen:
                    if one.seen in wanted:
                        return one
                await asyncio.sleep(0.02)


@asynccontextmanager
async def executor(
    servers: tuple[TritonServer, TritonServer], **times: float
) -> AsyncIterator[tuple[TritonExecutor, Told]]:
    made = TritonExecutor(
        Servers(by_node={"n1": servers[0].address, "n2": servers[1].address}),
        (xla.backend(), onnx.backend(), triton_python.backend()),
        rules=ModelRules(open_artefact),
        clock=time.time,
        times=Times(**{"bind": 20.0, "watch": 0.2, "grace": 60.0, **times}),
    )
    told = Told()
    await made.start(told)
    try:
        yield made, told
    finally:
        await made.stop()


def wanted(job_id: str, uri: object, *nodes: str, attempt: int = 1, **fields: Any) -> Assignment:
    members = tuple(Member(number, node, cpu_milli=1000) for number, node in enumerate(nodes or ("n1",)))
    model = Model(str(uri), "doubler", **fields)
    return Assignment(
        make_attempt(job_id, attempt, executor="triton", members=len(members), tries=1), Work(members, model=model)
    )


async def bind(made: TritonExecutor, assignment: Assignment) -> Observation:
    return (await made.bind([assignment]))[assignment.id]


async def loaded(server: TritonServer) -> set[str]:
    async with TritonClient(server.address) as client:
        return set(await client.loaded())


async def test_an_artefact_is_bound_read_back_after_a_crash_and_released(
    servers: tuple[TritonServer, TritonServer], tmp_path: Path
) -> None:
    import jax

    from tests.serving import double

    path = exported(tmp_path / "double.jax_export")
    assignment = wanted("artefact", path.as_uri(), digest=digest_of(path))
    async with executor(servers) as (made, _):
        bound = await bind(made, assignment)
        assert bound.seen is Seen.STARTED
        rows = [[0.5, 1.0, 1.5], [2.0, 2.5, 3.0]]
        assert await ask(bound.endpoints[0], rows) == jax.jit(double)(jax.numpy.array(rows)).ravel().tolist()
        pieces = [piece async for piece in made.logs(assignment, -1, follow=False, tail_lines=0)]
        assert b"ready" in pieces[0].data
        assert b"1 answers in 1 runs" in pieces[0].data
    # Another binder, after this one was killed: it knows nothing but the store's attempt.
    async with executor(servers) as (made, _):
        again = (await made.read_back([assignment]))[assignment.id]
        assert (again.seen, again.endpoints) == (Seen.STARTED, bound.endpoints)
        assert (await bind(made, assignment)).seen is Seen.STARTED
        assert await loaded(servers[0]) == {served_name(assignment, assignment.work.members[0])}
        assert (await made.release([assignment]))[assignment.id].seen is Seen.RELEASED
        assert await loaded(servers[0]) == set()
        assert (await bind(made, assignment)).seen is Seen.RELEASED
        assert await loaded(servers[0]) == set()


async def test_a_gang_is_loaded_whole_or_not_at_all(servers: tuple[TritonServer, TritonServer], folder: Path) -> None:
    async with executor(servers) as (made, _):
        gang = wanted("gang", folder, "n1", "n2")
        bound = await bind(made, gang)
        assert bound.endpoints == tuple(
            f"{server.address}/v2/models/{served_name(gang, member)}"
            for server, member in zip(servers, gang.work.members, strict=True)
        )
        assert await ask(bound.endpoints[1], [1.0, 2.0, 3.0]) == [3.0, 6.0, 9.0]
        elsewhere = wanted("half", folder, "n1", "n3")
        refused = await bind(made, elsewhere)
        assert (refused.seen, refused.retryable) == (Seen.REFUSED, True)
        assert "node n3: address: '': no Triton server is known: name it in BERTH_TRITON_SERVERS" in refused.message
        # Of the half gang nothing is left, and the whole one is as it was.
        assert await loaded(servers[0]) == {served_name(gang, gang.work.members[0])}
        assert (await made.release([gang]))[gang.id].seen is Seen.RELEASED
        assert await loaded(servers[0]) | await loaded(servers[1]) == set()


async def test_refusals_say_tritons_words_and_whether_another_node_can_help(
    servers: tuple[TritonServer, TritonServer], folder: Path, tmp_path: Path
) -> None:
    corrupt = tmp_path / "corrupt.jax_export"
    corrupt.write_bytes(b"no artefact")
    gpu = Member(0, "n1", (DeviceClaim("n1/0", 0, 1000, "H100-SXM"),))
    groq = Member(0, "n1", (DeviceClaim("n1/0", 0, 1000, "Groq LPU"),))
    on_a_gpu = wanted("gpu", folder)
    cases = [
        (wanted("words", folder, parameters={"trouble": "the moon"}), "RuntimeError: no weights of the moon", True),
        (replace(on_a_gpu, work=replace(on_a_gpu.work, members=(gpu,))), "unsupported gpu id 0", True),
        (replace(on_a_gpu, work=replace(on_a_gpu.work, members=(groq,))), "accelerator: 'Groq LPU'", True),
        (wanted("corrupt", corrupt), "file: .*broken, or none of these", False),
        (wanted("absent", tmp_path / "nothing"), "No such file or directory: name a file that can be read", False),
        (wanted("scheme", "s3://bucket/model"), "model.uri: 's3://bucket/model': write a path, or file:///path", False),
        (wanted("digest", folder, digest="0" * 64), "model.digest: '0{64}': the content is [0-9a-f]{64}", False),
    ]
    async with executor(servers) as (made, _):
        for assignment, words, retryable in cases:
            assignment = replace(assignment, attempt=make_attempt(f"r{words[:9]}", executor="triton", tries=1))
            refused = await bind(made, assignment)
            assert (refused.seen, refused.retryable) == (Seen.REFUSED, retryable), refused
            assert re.search(words, refused.message), refused.message
    assert await loaded(servers[0]) == set()


async def test_a_release_overtakes_a_load_and_leaves_nothing(
    servers: tuple[TritonServer, TritonServer], folder: Path
) -> None:
    slow = wanted("slow", folder, parameters={"slow": "1.5"})
    async with executor(servers, bind=0.3) as (made, told):
        assert (await bind(made, slow)).seen is Seen.UNCLEAR
        assert (await made.read_back([slow]))[slow.id].seen is Seen.UNCLEAR
        assert (await made.release([slow]))[slow.id].seen is Seen.UNCLEAR
        await told.until(Seen.RELEASED)
        assert await loaded(servers[0]) == set()


async def test_a_binder_killed_while_loading_is_followed_by_one_that_leaves_one_copy_or_none(
    servers: tuple[TritonServer, TritonServer], folder: Path
) -> None:
    one = wanted("killed", folder, parameters={"slow": "1"})
    other = wanted("killed-and-cancelled", folder, "n2", parameters={"slow": "1"})
    async with executor(servers, bind=0.3) as (made, _):
        assert {seen.seen for seen in (await made.bind([one, other])).values()} == {Seen.UNCLEAR}
    async with executor(servers) as (made, _):
        # Triton cannot tell a model that it is loading from none: to bind it again is right in both cases.
        assert (await made.read_back([one]))[one.id].seen is Seen.ABSENT
        assert (await made.release([other]))[other.id].seen is Seen.RELEASED
        assert (await bind(made, one)).seen is Seen.STARTED
        assert await loaded(servers[0]) == {served_name(one, one.work.members[0])}
        await asyncio.sleep(0.5)
        assert await loaded(servers[1]) == set()
        assert (await made.release([one]))[one.id].seen is Seen.RELEASED


async def test_an_older_attempt_never_meets_a_newer_one(
    servers: tuple[TritonServer, TritonServer], folder: Path
) -> None:
    old, new = wanted("again", folder), wanted("again", folder, attempt=2)
    async with executor(servers) as (made, _):
        assert (await bind(made, new)).seen is Seen.STARTED
        assert (await bind(made, old)).seen is Seen.STARTED
        assert (await made.release([old]))[old.id].seen is Seen.RELEASED
        assert await loaded(servers[0]) == {served_name(new, new.work.members[0])}
        # A load of the old one that was on its way in the network all the while.
        async with executor(servers) as (other, _):
            assert (await bind(other, old)).seen is Seen.STARTED
        late = served_name(old, old.work.members[0])
        async with asyncio.timeout(10):
            while late in await loaded(servers[0]):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert (await made.release([new]))[new.id].seen is Seen.RELEASED


async def test_what_vanishes_is_loaded_again_and_a_server_that_stays_away_fails_it(
    servers: tuple[TritonServer, TritonServer], folder: Path, tmp_path: Path
) -> None:
    async with triton_server(tmp_path / "own") as own:
        assignment = wanted("watched", folder)
        async with executor((own, servers[1]), watch=0.1, grace=6.0) as (made, told):
            bound = await bind(made, assignment)
            own.kill()
            await own.start()
            async with asyncio.timeout(20):
                while not await loaded(own):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            assert await ask(bound.endpoints[0], [1.0, 2.0, 3.0]) == [3.0, 6.0, 9.0]
            assert {one.seen for one in told.seen} == {Seen.STARTED}
            own.kill()
            failed = await told.until(Seen.FAILED)
            assert "its server was gone for more than 6 s" in failed.message
    shutil.rmtree(tmp_path / "own")
