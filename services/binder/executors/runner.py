"""Runs one member's command: `python -I -S runner.py MEMBER_FOLDER GRACE_SECONDS BARRIER_SECONDS`.

Detached from the binder, standard library only. Files of the member's folder, each complete as soon as it is there:
    spec     argv, environment, working directory (by the binder)
    started  pid, start time, boot id: made by hard link, which fails where it exists. Only the runner that made it
             goes on, so that a command runs at most once however often a runner is spawned
    ready    output files are open, the working directory is entered
    running  pid and start time of the command
    exit     how it ended
and of the attempt's folder:
    verdict  "go", or "stop REASON": made once, by link, by the binder or by a runner that waited too long; it
             holds for all members, so none starts unless all may
    stop     REASON: end it, after a go
"""

import json
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of `pid`; None where it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return None


def write(path: str, text: str) -> None:
    """Replaces `path` as a whole. A power cut may undo it, but then it ended the command as well."""
    draft = f"{path}.{os.getpid()}"
    with open(draft, "w") as file:
        file.write(text)
    os.rename(draft, path)


def claim(path: str, text: str) -> bool:
    """Makes `path` unless it exists; says whether it did. It survives a power cut."""
    draft = f"{path}.{os.getpid()}.claim"
    with open(draft, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(draft)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


class Runner:
    def __init__(self, folder: str, grace: float, barrier: float) -> None:
        self.folder = folder
        self.verdict = os.path.join(os.path.dirname(folder), "verdict")
        self.stop = os.path.join(os.path.dirname(folder), "stop")
        self.grace = grace
        self.barrier = barrier

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def end(self, code: int | None, message: str, stopped: bool = False) -> None:
        now = time.time()
        write(self.path("exit"), json.dumps({"code": code, "message": message, "stopped": stopped, "at": now}))

    def run(self) -> None:
        me = {"pid": os.getpid(), "start": start_time(os.getpid()), "boot": boot_id(), "at": time.time()}
        if not claim(self.path("started"), json.dumps(me)):
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD])
        try:
            with open(self.path("spec")) as file:
                spec = json.load(file)
            where = spec["working_directory"]
            if not where:
                where = self.path("work")
                os.makedirs(where, exist_ok=True)
            os.chdir(where)
            out = os.open(self.path("stdout"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            err = os.open(self.path("stderr"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            self.end(126, f"cannot prepare: {error}")
            return
        write(self.path("ready"), "")
        verdict = self.wait()
        reason = read(self.stop)
        if verdict != "go" or reason is not None:
            self.end(None, reason or verdict, stopped=True)
            return
        child = self.spawn(spec, out, err)
        if child is not None:
            self.watch(child)

    def wait(self) -> str:
        """The verdict. No member may start without it; where it never comes the attempt is over."""
        until = time.monotonic() + self.barrier
        pause = 0.002
        while True:
            verdict = read(self.verdict)
            if verdict is not None:
                return verdict
            if signal.sigtimedwait([signal.SIGTERM], pause) is not None:
                claim(self.verdict, "stop a runner was terminated before the start")
            elif time.monotonic() > until:
                claim(self.verdict, f"stop not all members were ready within {self.barrier:g} s")
            pause = min(pause * 1.5, 0.05)

    def spawn(self, spec: "dict[str, Any]", out: int, err: int) -> int | None:
        environment = spec["environment"]
        os.environ["PATH"] = environment.get("PATH", os.defpath)
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, out, 1),
            (os.POSIX_SPAWN_DUP2, err, 2),
        ]
        try:
            child = os.posix_spawnp(
                spec["argv"][0],
                spec["argv"],
                environment,
                file_actions=actions,
                setpgroup=0,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except FileNotFoundError:
            self.end(127, f"command not found: {spec['argv'][0]!r}")
            return None
        except (OSError, ValueError) as error:
            self.end(126, f"cannot run {spec['argv'][0]!r}: {error}")
            return None
        os.close(out)
        os.close(err)
        state = {"pid": child, "start": start_time(child), "at": time.time()}
        write(self.path("running"), json.dumps(state))
        return child

    def watch(self, child: int) -> None:
        stopped = False
        kill_at: float | None = None
        while True:
            # Left unreaped for now: until then its group's number cannot belong to anybody else.
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                break
            if kill_at is not None and time.monotonic() >= kill_at:
                self.kill(child, signal.SIGKILL)
                kill_at = time.monotonic() + 5
            heard = signal.sigtimedwait([signal.SIGTERM, signal.SIGCHLD], 0.2 if stopped else 1.0)
            asked = heard is not None and heard.si_signo == signal.SIGTERM
            if not stopped and (asked or os.path.exists(self.stop)):
                stopped = True
                self.kill(child, signal.SIGTERM)
                kill_at = time.monotonic() + self.grace
        # What the command left behind in its group would go on using the devices.
        self.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            self.end(128 - code, f"killed by {signal.Signals(-code).name}", stopped)
        else:
            self.end(code, "" if code == 0 else f"exit code {code}", stopped)

    @staticmethod
    def kill(group: int, number: int) -> None:
        try:
            os.killpg(group, number)
        except (ProcessLookupError, PermissionError):
            pass


if __name__ == "__main__":
    os.umask(0o077)
    os.closerange(3, 1024)
    Runner(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])).run()
