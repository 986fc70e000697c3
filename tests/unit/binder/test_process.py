"""The process executor with real processes."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from binder.domain.attempt import AttemptId, Observation, Seen
from binder.domain.work import Assignment
from binder.executors.attempt_folder import AttemptFolder
from binder.executors.process import ENDINGS, ProcessExecutor
from binder.executors.terminate import terminate_all
from tests.unit.binder.builders import make_command


class Watched:
    """An executor under test with what it reported by itself."""

    def __init__(self, executor: ProcessExecutor, root: Path) -> None:
        self.executor = executor
        self.root = root
        self.told: dict[AttemptId, list[Observation]] = {}

    def sink(self, observations: dict[AttemptId, Observation]) -> None:
        for each, observation in observations.items():
            self.told.setdefault(each, []).append(observation)

    async def bind(self, assignments: list[Assignment]) -> dict[AttemptId, Observation]:
        """What is over that soon is in the answer, and is not reported once more."""
        answers = dict(await self.executor.bind(assignments))
        self.sink({each: seen for each, seen in answers.items() if seen.seen in ENDINGS})
        return answers

    async def end_of(self, assignment: Assignment) -> Observation:
        async with asyncio.timeout(20):
            while assignment.id not in self.told:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return self.told[assignment.id][0]

    async def output(self, assignment: Assignment, stream: str = "stdout", tail_lines: int = 0) -> dict[int, str]:
        text: dict[int, str] = {}
        async for piece in self.executor.logs(assignment, -1, follow=True, tail_lines=tail_lines):
            if piece.stream == stream:
                text[piece.member] = text.get(piece.member, "") + piece.data.decode()
        return text


@asynccontextmanager
async def executor_on(state_dir: Path, **options: float | frozenset[str]) -> AsyncIterator[Watched]:
    settings: dict[str, object] = {"grace_seconds": 0.3, "barrier_seconds": 10.0, "bind_seconds": 10.0} | options
    executor = ProcessExecutor(state_dir / "attempts", stack_of=lambda _: "", **settings)  # type: ignore[arg-type]
    watched = Watched(executor, state_dir / "attempts")
    await executor.start(watched.sink)  # type: ignore[arg-type]
    try:
        yield watched
    finally:
        await executor.stop()
        await asyncio.to_thread(terminate_all, state_dir, 0.2)


def only(observations: object) -> Observation:
    assert isinstance(observations, dict)
    [observation] = observations.values()
    assert isinstance(observation, Observation)
    return observation


@contextmanager
def stranger() -> Iterator[int]:
    """A process that is no runner."""
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        try:
            yield process.pid
        finally:
            process.kill()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def command_pid(watched: Watched, assignment: Assignment, member: int = 0) -> int:
    return int(json.loads((watched.root / str(assignment.id) / str(member) / "running").read_text())["pid"])


def runner_pid(watched: Watched, assignment: Assignment, member: int = 0) -> int:
    return int(json.loads((watched.root / str(assignment.id) / str(member) / "started").read_text())["pid"])


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def members_of(group: int) -> list[int]:
    """Processes of a group; an orphan that nobody has reaped yet is none."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if entry.name.isdigit() and int(fields[2]) == group and fields[0] not in "ZX":
            found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def test_a_command_runs_with_its_environment_and_its_output_is_kept(tmp_path: Path) -> None:
    job = make_command(
        "hello", "sh", "-c", 'echo "$GREETING $BERTH_MEMBER/$BERTH_GANG_SIZE"; echo oops >&2', members=2,
        environment={"GREETING": "hi"},
    )  # fmt: skip
    async with executor_on(tmp_path) as watched:
        bound = only(await watched.bind([job]))
        end = await watched.end_of(job)
        assert await watched.output(job) == {0: "hi 0/2\n", 1: "hi 1/2\n"}
        assert await watched.output(job, "stderr") == {0: "oops\n", 1: "oops\n"}
    assert (end.seen, end.exit_code, end.started_at) == (Seen.SUCCEEDED, 0, bound.started_at)
    assert bound.started_at is not None
    assert abs(bound.started_at - time.time()) < 60


async def test_logs_tail_and_follow(tmp_path: Path) -> None:
    job = make_command("logs", "sh", "-c", "for i in 1 2 3 4; do echo $i; done; sleep 0.5; echo 5")
    async with executor_on(tmp_path) as watched:
        await watched.bind([job])
        out = tmp_path / "attempts/logs.1/0/stdout"
        await until(lambda: out.exists() and out.read_text().endswith("4\n"))
        assert await watched.output(job, tail_lines=2) == {0: "3\n4\n5\n"}


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (("sh", "-c", "exit 3"), 3, "member 0: exit code 3"),
        (("no-such-command-anywhere",), 127, "member 0: command not found: 'no-such-command-anywhere' (exit 127)"),
        (("sh", "-c", "kill -SEGV $$"), 139, "member 0: killed by SIGSEGV"),
    ],
)
async def test_failures_say_what_failed(tmp_path: Path, argv: tuple[str, ...], code: int, message: str) -> None:
    job = make_command("bad", *argv)
    async with executor_on(tmp_path) as watched:
        await watched.bind([job])
        end = await watched.end_of(job)
    assert (end.seen, end.exit_code, end.message) == (Seen.FAILED, code, message)


async def test_the_first_member_that_fails_ends_the_gang(tmp_path: Path) -> None:
    script = 'if [ "$BERTH_MEMBER" = 1 ]; then sleep 0.2; exit 9; fi; exec sleep 600'
    job = make_command("gang", "sh", "-c", script, members=3)
    async with executor_on(tmp_path) as watched:
        await watched.bind([job])
        end = await watched.end_of(job)
        pids = [command_pid(watched, job, member) for member in range(3)]
    assert (end.seen, end.exit_code, end.message) == (Seen.FAILED, 9, "member 1: exit code 9")
    assert not any(alive(pid) for pid in pids)


async def test_no_member_starts_before_all_are_ready(tmp_path: Path) -> None:
    job = make_command("barrier", "sh", "-c", f"echo $BERTH_MEMBER >> {tmp_path}/ran", members=3)
    with stranger() as pid:
        async with executor_on(tmp_path) as watched:
            # The place of member 2 is taken by somebody who never becomes ready.
            folder = tmp_path / "attempts/barrier.1/2"
            folder.mkdir(parents=True)
            started = f'{{"pid": {pid}, "start": {start_time(pid)}, "boot": "{boot_id()}"}}'
            (folder / "started").write_text(started)
            binding = asyncio.create_task(watched.bind([job]))
            others = [tmp_path / f"attempts/barrier.1/{member}/ready" for member in (0, 1)]
            await until(lambda: all(path.exists() for path in others))
            await asyncio.sleep(0.2)
            assert not (tmp_path / "ran").exists()
            assert not binding.done()
            (folder / "started").unlink()
            await watched.bind([job])
            await binding
            await watched.end_of(job)
    assert sorted((tmp_path / "ran").read_text().split()) == ["0", "1", "2"]


async def test_a_member_that_cannot_get_ready_means_that_none_starts(tmp_path: Path) -> None:
    job = make_command("half", "sh", "-c", f"echo ran >> {tmp_path}/ran", members=3)
    async with executor_on(tmp_path) as watched:
        # Member 1 has no folder to write into.
        (tmp_path / "attempts/half.1/1").mkdir(parents=True)
        (tmp_path / "attempts/half.1/1/work").write_text("in the way")
        refused = only(await watched.bind([job]))
    assert refused.seen is Seen.REFUSED
    assert refused.message.startswith("member 1: cannot prepare:")
    assert not (tmp_path / "ran").exists()


async def test_binding_again_starts_nothing_again(tmp_path: Path) -> None:
    job = make_command("twice", "sh", "-c", f"echo ran >> {tmp_path}/ran; sleep 1.5", members=2)
    async with executor_on(tmp_path) as watched:
        await asyncio.gather(watched.bind([job]), watched.bind([job]))
        assert only(await watched.bind([job])).seen is Seen.STARTED
        await watched.end_of(job)
        assert only(await watched.bind([job])).seen is Seen.SUCCEEDED
    assert (tmp_path / "ran").read_text() == "ran\nran\n"


async def test_many_runners_for_one_member_run_the_command_once(tmp_path: Path) -> None:
    job = make_command("race", "sh", "-c", f"echo ran >> {tmp_path}/ran")
    async with executor_on(tmp_path) as watched:
        folder = watched.executor._folder(job)
        watched.executor._spawn_missing(job, folder)
        for _ in range(5):
            watched.executor._spawn(folder.member(0))
        await watched.bind([job])
        assert (await watched.end_of(job)).seen is Seen.SUCCEEDED
        await asyncio.sleep(0.2)
    assert (tmp_path / "ran").read_text() == "ran\n"


async def test_a_release_ends_the_whole_group_even_what_ignores_sigterm(tmp_path: Path) -> None:
    job = make_command("stubborn", "sh", "-c", "trap '' TERM; sleep 600 & while :; do sleep 0.05; done")
    async with executor_on(tmp_path) as watched:
        await watched.bind([job])
        await until(lambda: (watched.root / "stubborn.1/0/running").exists())
        group = command_pid(watched, job)
        assert only(await watched.executor.release([job])).seen is Seen.UNCLEAR
        end = await watched.end_of(job)
    assert end.seen is Seen.RELEASED
    await until(lambda: members_of(group) == [])


async def test_what_a_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    job = make_command("litter", "sh", "-c", "sleep 600 & exit 0")
    async with executor_on(tmp_path) as watched:
        await watched.bind([job])
        assert (await watched.end_of(job)).seen is Seen.SUCCEEDED
        group = command_pid(watched, job)
        await until(lambda: members_of(group) == [])


async def test_a_bind_after_a_release_starts_nothing(tmp_path: Path) -> None:
    job = make_command("late", "sh", "-c", f"echo ran >> {tmp_path}/ran")
    async with executor_on(tmp_path) as watched:
        assert only(await watched.executor.release([job])).seen is Seen.RELEASED
        assert only(await watched.bind([job])).seen is Seen.RELEASED
        await asyncio.sleep(0.2)
    assert not (tmp_path / "ran").exists()


async def test_a_runner_that_is_killed_is_a_failure_and_leaves_nothing_running(tmp_path: Path) -> None:
    job = make_command("killed", "sleep", "600")
    async with executor_on(tmp_path) as watched:
        await watched.bind([job])
        await until(lambda: (watched.root / "killed.1/0/running").exists())
        command = command_pid(watched, job)
        os.kill(runner_pid(watched, job), signal.SIGKILL)
        end = await watched.end_of(job)
        await until(lambda: not alive(command))
    assert (end.seen, end.message) == (Seen.FAILED, "member 0: runner died")


async def test_a_pid_that_belongs_to_somebody_else_now_is_a_dead_runner(tmp_path: Path) -> None:
    job = make_command("reused", "sleep", "600")
    with stranger() as pid:
        async with executor_on(tmp_path) as watched:
            folder = AttemptFolder(watched.root / "reused.1", 1)
            (folder.path / "0").mkdir(parents=True)
            (folder.path / "0/started").write_text(f'{{"pid": {pid}, "start": 1, "boot": "{boot_id()}"}}')
            folder.decide("go")
            end = only(await watched.executor.read_back([job]))
        assert alive(pid)
    assert (end.seen, end.message) == (Seen.FAILED, "member 0: runner died")


async def test_another_executor_on_the_same_folder_takes_over(tmp_path: Path) -> None:
    job = make_command("handed", "sh", "-c", f"sleep 0.5; echo ran >> {tmp_path}/ran")
    async with executor_on(tmp_path) as second:
        first = ProcessExecutor(tmp_path / "attempts", stack_of=lambda _: "")
        await first.start(lambda _: None)
        await first.bind([job])
        await first.stop()
        assert only(await second.executor.read_back([job])).seen is Seen.STARTED
        assert (await second.end_of(job)).seen is Seen.SUCCEEDED
        assert only(await second.executor.read_back([job])).seen is Seen.SUCCEEDED
    assert (tmp_path / "ran").read_text() == "ran\n"


async def test_a_barrier_that_nobody_lifts_ends_by_itself(tmp_path: Path) -> None:
    job = make_command("alone", "sh", "-c", f"echo ran >> {tmp_path}/ran", members=2)
    async with executor_on(tmp_path, barrier_seconds=0.2) as watched:
        watched.executor._spawn_missing(job, watched.executor._folder(job))
        verdict = watched.root / "alone.1/verdict"
        await until(verdict.exists)
        folder = AttemptFolder(watched.root / "alone.1", 2)
        await until(lambda: not any(member.live for member in folder.look().members))
        refused = only(await watched.bind([job]))
    assert (refused.seen, refused.message) == (Seen.REFUSED, "not all members were ready within 0.2 s")
    assert not (tmp_path / "ran").exists()


async def test_what_this_machine_cannot_run_is_refused(tmp_path: Path) -> None:
    nothing = make_command("nothing")
    relative = make_command("relative", "true")
    assert relative.work.command is not None
    command = replace(relative.work.command, working_directory="src")
    relative = replace(relative, work=replace(relative.work, command=command))
    async with executor_on(tmp_path) as watched:
        answers = await watched.bind([nothing, relative])
        assert [(each.seen, each.retryable) for each in answers.values()] == [(Seen.REFUSED, False)] * 2
        assert "working_directory: 'src'" in answers[relative.id].message
    async with executor_on(tmp_path, only_nodes=frozenset({"n7"})) as watched:
        refused = only(await watched.bind([make_command("elsewhere", "true")]))
    assert (refused.seen, refused.retryable) == (Seen.REFUSED, True)
    assert "node: 'here'" in refused.message
    assert "n7" in refused.message
    assert list((tmp_path / "attempts").iterdir()) == []


async def test_terminate_all_ends_everything_by_process_id(tmp_path: Path) -> None:
    running = make_command("running", "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done", members=2)
    waiting = make_command("waiting", "sleep", "600")
    async with executor_on(tmp_path) as watched:
        await watched.bind([running])
        watched.executor._spawn_missing(waiting, watched.executor._folder(waiting))
        await until(lambda: (watched.root / "running.1/1/running").exists())
        await until(lambda: (watched.root / "waiting.1/0/ready").exists())
        pids = [command_pid(watched, running, member) for member in (0, 1)] + [runner_pid(watched, waiting)]
        await watched.executor.stop()
        assert await asyncio.to_thread(terminate_all, tmp_path, 0.3) == 2
        await until(lambda: not any(alive(pid) for pid in pids))
        read = await watched.executor.read_back([running, waiting])
        assert {each.job_id: seen.seen for each, seen in read.items()} == {
            "running": Seen.RELEASED,
            "waiting": Seen.RELEASED,
        }
        assert await asyncio.to_thread(terminate_all, tmp_path, 0.3) == 0
