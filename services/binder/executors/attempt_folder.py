"""An attempt's folder: what its runners wrote, and what that means. See `runner` for the files."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from binder.domain.attempt import Observation, Seen
from binder.executors.runner import boot_id, claim, read, start_time

__all__ = ["AttemptFolder", "Exit", "Judgement", "Look", "MemberLook", "Stage", "judge"]

GO = "go"
STOP = "stop "
RELEASED = "released"
BOOT_ID = boot_id() if os.path.exists("/proc/sys/kernel/random/boot_id") else ""


class Stage(Enum):
    ABSENT = 0
    """No runner has made itself known; one may be about to."""
    STARTING = 1
    READY = 2
    """Waits for the verdict, or runs the command."""
    ENDED = 3
    DEAD = 4
    """The runner is gone and left no word."""


@dataclass(frozen=True, slots=True)
class Exit:
    """`code` None: the command never ran. `stopped`: it was asked to end."""

    code: int | None
    message: str
    stopped: bool
    at: float


@dataclass(frozen=True, slots=True)
class MemberLook:
    member: int
    stage: Stage
    runner: int = 0
    exit: Exit | None = None

    @property
    def live(self) -> bool:
        return self.stage in (Stage.STARTING, Stage.READY)


@dataclass(frozen=True, slots=True)
class Look:
    """`verdict` None: not there yet; `decided_at`: when it was made; `stop`: the file's text."""

    members: tuple[MemberLook, ...]
    verdict: str | None
    decided_at: float
    stop: str | None


@dataclass(frozen=True, slots=True)
class Judgement:
    """`failing`: why the other members have to end now; "" where they need not."""

    observation: Observation
    failing: str = ""


def judge(look: Look, now: float) -> Judgement:
    """What an attempt's files mean. Pure."""
    live = any(member.live for member in look.members)
    if look.verdict is None:
        for member in look.members:
            if member.stage in (Stage.ENDED, Stage.DEAD):
                return Judgement(Observation(Seen.PARTIAL, now), _cause(member)[1])
        return Judgement(Observation(Seen.PARTIAL, now, "not all members are ready"))
    if look.verdict != GO:
        reason = look.verdict.removeprefix(STOP)
        if live:
            return Judgement(Observation(Seen.UNCLEAR, now, f"is ending: {reason}"))
        seen = Seen.RELEASED if reason == RELEASED else Seen.REFUSED
        return Judgement(Observation(seen, now, reason))
    return _judge_started(look, live, now)


def _judge_started(look: Look, live: bool, now: float) -> Judgement:
    begun = look.decided_at
    own = [member for member in look.members if _failed(member) and not (member.exit and member.exit.stopped)]
    own.sort(key=lambda member: (member.exit.at if member.exit else now, member.member))
    if live:
        failing = _cause(own[0])[1] if own and look.stop is None else ""
        return Judgement(Observation(Seen.STARTED, begun, started_at=begun), failing)
    ended_at = max((member.exit.at for member in look.members if member.exit), default=now)
    stopped = any(member.exit is not None and member.exit.stopped for member in look.members)
    if look.stop == RELEASED and (stopped or own):
        return Judgement(Observation(Seen.RELEASED, ended_at, RELEASED, started_at=begun))
    if own:
        code, cause = _cause(own[0])
        return Judgement(Observation(Seen.FAILED, ended_at, cause, code, started_at=begun))
    if stopped:
        cause = "ended by a signal to its runner"
        return Judgement(Observation(Seen.FAILED, ended_at, cause, started_at=begun))
    return Judgement(Observation(Seen.SUCCEEDED, ended_at, exit_code=0, started_at=begun))


def _failed(member: MemberLook) -> bool:
    return not member.live and (member.exit is None or member.exit.code != 0)


def _cause(member: MemberLook) -> tuple[int | None, str]:
    if member.exit is None:
        return None, f"member {member.member}: runner died"
    code, text = member.exit.code, member.exit.message
    if code in (126, 127):
        text = f"{text} (exit {code})"
    return code, f"member {member.member}: {text}"


class AttemptFolder:
    def __init__(self, path: Path, members: int) -> None:
        self.path = path
        self.members = members

    def exists(self) -> bool:
        return self.path.is_dir()

    def member(self, member: int) -> Path:
        return self.path / str(member)

    def look(self) -> Look:
        members = tuple(self._look_at(member) for member in range(self.members))
        # Read after the members: what they wrote because of a verdict must not be seen without it.
        verdict = read(str(self.path / "verdict"))
        decided_at = (self.path / "verdict").stat().st_mtime if verdict is not None else 0.0
        return Look(members, verdict, decided_at, read(str(self.path / "stop")))

    def decide(self, verdict: str) -> str:
        """Makes the verdict unless there is one; gives the one that holds."""
        claim(str(self.path / "verdict"), verdict)
        return read(str(self.path / "verdict")) or verdict

    def end(self, reason: str, look: Look) -> None:
        """No member starts any more, and those that did are asked to end."""
        if self.decide(STOP + reason) == GO:
            claim(str(self.path / "stop"), reason)
            for member in look.members:
                if member.live:
                    _signal(member.runner, signal.SIGTERM)

    def kill(self, look: Look) -> None:
        """Ends runners, and all that is left of dead ones, at once."""
        for member in look.members:
            if member.live or member.stage is Stage.DEAD:
                for pid in session_of(member.runner, self.path.name):
                    _signal(pid, signal.SIGKILL)

    def _look_at(self, member: int) -> MemberLook:
        folder = str(self.member(member))
        started = _parsed(f"{folder}/started")
        if started is None:
            return MemberLook(member, Stage.ABSENT)
        pid = int(started.get("pid", 0))
        alive = started.get("boot") == BOOT_ID and pid > 0 and start_time(pid) == started.get("start")
        # Looked for after the runner: it writes this last.
        ended = _parsed(f"{folder}/exit")
        if ended is not None and "at" in ended:
            how = Exit(ended["code"], ended["message"], ended["stopped"], ended["at"])
            return MemberLook(member, Stage.ENDED, pid, how)
        if not alive:
            return MemberLook(member, Stage.DEAD, pid)
        ready = os.path.exists(f"{folder}/ready")
        return MemberLook(member, Stage.READY if ready else Stage.STARTING, pid)


def _parsed(path: str) -> dict[str, Any] | None:
    """A JSON file; {} where it is there and broken, as after a power cut."""
    text = read(path)
    if text is None:
        return None
    try:
        parsed = json.loads(text)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def session_of(leader: int, attempt: str) -> Iterator[int]:
    """Processes of the session that runner `leader` opened, it included, as far as they are this attempt's.

    A session's number is not given out anew while a process is in it; the environment, or for the runner itself
    its arguments, is checked all the same.
    """
    job_id, _, number = attempt.rpartition(".")
    marks = {f"BERTH_JOB_ID={job_id}".encode(), f"BERTH_ATTEMPT={number}".encode()}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            with open(f"/proc/{entry.name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            if int(fields[3]) != leader:
                continue
            with open(f"/proc/{entry.name}/environ", "rb") as file:
                environment = set(file.read().split(b"\0"))
            with open(f"/proc/{entry.name}/cmdline", "rb") as file:
                arguments = file.read()
        except OSError:
            continue
        if marks <= environment or (int(entry.name) == leader and f"/{attempt}/".encode() in arguments):
            yield int(entry.name)


def all_folders(root: Path) -> Iterator[AttemptFolder]:
    """Every attempt's folder under `root`."""
    if not root.is_dir():
        return
    for path in sorted(root.iterdir()):
        members = [int(entry.name) for entry in path.iterdir() if entry.name.isdigit()] if path.is_dir() else []
        if members:
            yield AttemptFolder(path, max(members) + 1)


def end_all(folders: Sequence[AttemptFolder], grace_seconds: float) -> int:
    """Asks all to end, kills what has not after `grace_seconds`. Gives how many were running."""
    running = []
    for folder in folders:
        look = folder.look()
        if any(member.stage is Stage.DEAD for member in look.members):
            folder.kill(look)
        if look.verdict is None or any(member.live for member in look.members):
            running.append(folder)
            folder.end(RELEASED, look)
    until = time.monotonic() + grace_seconds
    waiting = running
    while waiting:
        over = time.monotonic() >= until
        remaining = []
        for folder in waiting:
            look = folder.look()
            live = any(member.live for member in look.members)
            if over or not live:
                folder.kill(look)
            if live:
                remaining.append(folder)
        waiting = remaining
        if waiting:
            time.sleep(0.02)
    return len(running)
