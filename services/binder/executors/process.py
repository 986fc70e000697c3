"""Runs each member as a process of this machine, under a detached runner (see `runner`).

Runners outlive the binder: what they do is in the attempt's folder, and a binder that starts again reads it
back. Linux only: it needs /proc and pidfd.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from binder.domain.attempt import AttemptId, Observation, Seen
from binder.domain.environment import member_environment
from binder.domain.executor import Asked, LogPiece, Observations, Reading, Sink
from binder.domain.work import Assignment
from binder.executors import runner
from binder.executors.attempt_folder import GO, RELEASED, AttemptFolder, Judgement, Look, Stage, judge
from binder.executors.logs import read_logs
from binder.executors.reports import REPORT, read_reports

__all__ = ["ProcessExecutor"]

log = structlog.get_logger(__name__)

ENDINGS = frozenset({Seen.SUCCEEDED, Seen.FAILED, Seen.RELEASED, Seen.REFUSED})
BACKSTOP_SECONDS = 1.0
# Beyond these the backstop finds the end of a runner: descriptors are for more than that.
MOST_PIDFDS = 512


@dataclass(slots=True)
class _Watch:
    folder: AttemptFolder
    descriptors: dict[int, int] = field(default_factory=dict)
    """By member."""
    kill_at: float | None = None


class ProcessExecutor:
    """`root`: folder of the attempts; `only_nodes` empty: any node name means this machine.

    `bind_seconds`: how long a bind waits for its runners; `barrier_seconds`: how long a runner waits for a
    verdict when the binder is gone; `grace_seconds`: from SIGTERM to SIGKILL.
    """

    batch = 32

    def __init__(
        self,
        root: Path,
        *,
        stack_of: Callable[[str], str],
        only_nodes: AbstractSet[str] = frozenset(),
        bind_seconds: float = 12.0,
        barrier_seconds: float = 120.0,
        grace_seconds: float = 10.0,
        clock: Callable[[], float] = time.time,
        surroundings: Mapping[str, str] | None = None,
    ) -> None:
        self._root = root.absolute()
        self._stack_of = stack_of
        self._only_nodes = only_nodes
        self._bind_seconds = bind_seconds
        self._barrier_seconds = barrier_seconds
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._surroundings = os.environ if surroundings is None else surroundings
        self._watches: dict[AttemptId, _Watch] = {}
        self._sink: Sink = lambda _: None
        self._backstop: asyncio.Task[None] | None = None
        self._pidfds = 0

    async def start(self, sink: Sink) -> None:
        if not sys.platform.startswith("linux"):
            raise RuntimeError("executor 'process' needs Linux (/proc, pidfd): take it out of BERTH_EXECUTORS")
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sink = sink
        self._backstop = asyncio.create_task(self._look_again(), name="process-executor")

    async def stop(self) -> None:
        if self._backstop is not None:
            self._backstop.cancel()
            await asyncio.gather(self._backstop, return_exceptions=True)
            self._backstop = None
        for attempt_id in list(self._watches):
            self._forget(attempt_id)

    async def bind(self, assignments: Sequence[Assignment]) -> Observations:
        answers: dict[AttemptId, Observation] = {}
        waiting: dict[AttemptId, AttemptFolder] = {}
        for each in assignments:
            folder = self._folder(each)
            refusal = None if folder.exists() else self._refusal(each)
            if refusal is not None:
                answers[each.id] = refusal
                continue
            try:
                self._spawn_missing(each, folder)
            except OSError as error:
                folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
                folder.end(f"cannot start a runner: {error}", folder.look())
            waiting[each.id] = folder
            await asyncio.sleep(0)
        until = self._clock() + self._bind_seconds
        pause = 0.005
        while waiting:
            for attempt_id, folder in list(waiting.items()):
                observation = self._advance(attempt_id, folder)
                if observation.seen not in (Seen.PARTIAL, Seen.UNCLEAR):
                    answers[attempt_id] = observation
                    del waiting[attempt_id]
            if self._clock() >= until:
                break
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        message = f"runners were not ready within {self._bind_seconds:g} s"
        return answers | {each: Observation(Seen.UNCLEAR, self._clock(), message) for each in waiting}

    async def read_back(self, assignments: Sequence[Assignment]) -> Observations:
        answers = {}
        for each in assignments:
            folder = self._folder(each)
            if folder.exists():
                answers[each.id] = self._observe(each.id, folder)[0].observation
            else:
                answers[each.id] = Observation(Seen.ABSENT, self._clock(), f"its folder is gone: {folder.path.name}")
        return answers

    async def release(self, assignments: Sequence[Assignment]) -> Observations:
        answers = {}
        for each in assignments:
            folder = self._folder(each)
            # Made even where nothing is there: a bind that is still on its way then starts nothing.
            folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.end(RELEASED, folder.look())
            observation = self._observe(each.id, folder)[0].observation
            if observation.seen is Seen.STARTED:
                watch = self._watches.get(each.id)
                if watch is not None and watch.kill_at is None:
                    # The runner kills its command after the grace time; this is for a runner that cannot.
                    watch.kill_at = self._clock() + self._grace_seconds + 5.0
                observation = Observation(Seen.UNCLEAR, self._clock(), "is ending")
            answers[each.id] = observation
        return answers

    async def logs(
        self, assignment: Assignment, member: int, *, follow: bool, tail_lines: int
    ) -> AsyncIterator[LogPiece]:
        folder = self._folder(assignment)
        members = range(folder.members) if member < 0 else (member,)

        def over() -> bool:
            return folder.exists() and judge(folder.look(), self._clock()).observation.seen in ENDINGS

        pieces = read_logs(
            {each: folder.member(each) for each in members}, follow=follow, tail_lines=tail_lines, over=over
        )
        async for piece in pieces:
            yield piece

    async def reports(self, asked: Sequence[Asked]) -> Mapping[AttemptId, Reading]:
        return await asyncio.to_thread(self._reports, asked)

    def _reports(self, asked: Sequence[Asked]) -> Mapping[AttemptId, Reading]:
        found = {}
        for each in asked:
            folder = self._folder(each.assignment)
            members = {member: folder.member(member) for member in range(folder.members)}
            reading = read_reports(members, each.mark, ended=each.ended)
            if reading is not None:
                found[each.assignment.id] = reading
        return found

    def _folder(self, assignment: Assignment) -> AttemptFolder:
        return AttemptFolder(self._root / str(assignment.id), len(assignment.work.members))

    def _refusal(self, assignment: Assignment) -> Observation | None:
        work = assignment.work
        if work.command is None or not work.command.argv:
            message = "payload: none: executor 'process' runs a command; give the job one, or another executor"
            return Observation(Seen.REFUSED, self._clock(), message, retryable=False)
        where = work.command.working_directory
        if where and not os.path.isabs(where):
            message = f"working_directory: {where!r}: write an absolute path, or leave it out for a fresh folder"
            return Observation(Seen.REFUSED, self._clock(), message, retryable=False)
        for member in work.members:
            if self._only_nodes and member.node not in self._only_nodes:
                served = ", ".join(sorted(self._only_nodes))
                message = f"node: {member.node!r}: this binder starts processes on {served} only"
                return Observation(Seen.REFUSED, self._clock(), message)
        return None

    def _spawn_missing(self, assignment: Assignment, folder: AttemptFolder) -> None:
        """Spawns a runner for each member that has none. Two for one member do no harm: one of them gives up."""
        folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = assignment.work.command
        look = folder.look()
        if look.verdict is not None or command is None:
            return
        for member in assignment.work.members:
            if look.members[member.member].stage is not Stage.ABSENT:
                continue
            place = folder.member(member.member)
            place.mkdir(exist_ok=True, mode=0o700)
            environment = member_environment(
                assignment.attempt,
                assignment.work,
                member,
                surroundings=self._surroundings,
                stack_of=self._stack_of,
            )
            environment["BERTH_REPORT"] = str(place / REPORT)
            spec = {
                "argv": command.argv,
                "environment": environment,
                "working_directory": command.working_directory,
            }
            runner.write(str(place / "spec"), json.dumps(spec))
            self._spawn(place)

    def _spawn(self, place: Path) -> None:
        arguments = [sys.executable, "-I", "-S", runner.__file__, str(place)]
        arguments += [str(self._grace_seconds), str(self._barrier_seconds)]
        os.posix_spawn(
            sys.executable,
            arguments,
            {"PATH": os.defpath},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, str(place / "runner.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
        )

    def _advance(self, attempt_id: AttemptId, folder: AttemptFolder) -> Observation:
        """Gives the go once every member is ready."""
        judgement, look = self._observe(attempt_id, folder)
        if look.verdict is None and all(member.stage is Stage.READY for member in look.members):
            folder.decide(GO)
            judgement, _ = self._observe(attempt_id, folder)
        return judgement.observation

    def _observe(self, attempt_id: AttemptId, folder: AttemptFolder) -> tuple[Judgement, Look]:
        """Looks, acts on what must not wait, and keeps watching what is not over."""
        look = folder.look()
        for member in look.members:
            if member.stage is Stage.DEAD:
                folder.kill(look)
                break
        judgement = judge(look, self._clock())
        if judgement.failing:
            log.info("attempt is ending", attempt=str(attempt_id), reason=judgement.failing)
            folder.end(judgement.failing, look)
            look = folder.look()
            judgement = judge(look, self._clock())
        if judgement.observation.seen in ENDINGS:
            self._forget(attempt_id)
        else:
            self._watch(attempt_id, folder, look)
        return judgement, look

    def _watch(self, attempt_id: AttemptId, folder: AttemptFolder, look: Look) -> None:
        watch = self._watches.setdefault(attempt_id, _Watch(folder))
        for member in look.members:
            if not member.live or member.member in watch.descriptors or self._pidfds >= MOST_PIDFDS:
                continue
            try:
                descriptor = os.pidfd_open(member.runner)
            except OSError:
                continue  # gone just now, or no descriptors left: the backstop sees to it
            watch.descriptors[member.member] = descriptor
            self._pidfds += 1
            asyncio.get_running_loop().add_reader(
                descriptor, self._runner_ended, attempt_id, member.member, member.runner
            )

    def _runner_ended(self, attempt_id: AttemptId, member: int, pid: int) -> None:
        watch = self._watches.get(attempt_id)
        if watch is None:
            return
        self._close(watch, member)
        _reap(pid)
        self._check(attempt_id, watch)

    def _check(self, attempt_id: AttemptId, watch: _Watch) -> None:
        judgement, look = self._observe(attempt_id, watch.folder)
        if judgement.observation.seen in ENDINGS:
            self._sink({attempt_id: judgement.observation})
        elif watch.kill_at is not None and self._clock() >= watch.kill_at:
            watch.folder.kill(look)

    async def _look_again(self) -> None:
        """The backstop: finds what no descriptor told of, and reaps runners that gave up."""
        while True:
            await asyncio.sleep(BACKSTOP_SECONDS)
            for attempt_id, watch in list(self._watches.items()):
                try:
                    self._check(attempt_id, watch)
                except OSError as error:
                    log.warning("attempt cannot be looked at", attempt=str(attempt_id), error=repr(error))

    def _forget(self, attempt_id: AttemptId) -> None:
        watch = self._watches.pop(attempt_id, None)
        if watch is not None:
            for member in list(watch.descriptors):
                self._close(watch, member)

    def _close(self, watch: _Watch, member: int) -> None:
        descriptor = watch.descriptors.pop(member, None)
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
            self._pidfds -= 1


def _reap(pid: int) -> None:
    """Takes a runner's status where it is our child; one of an earlier binder is not."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
