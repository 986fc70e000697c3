"""The context file: how a `berth` command in another terminal finds the system that runs here.

It is JSON: the addresses of the services by name, the broker, the folders, and the process that keeps it all
up. A file written by hand, without `pid`, points at a system elsewhere.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["Context", "NoContext", "context_path"]

START = "start one with `berth dev`, or name a context file with --context"


class NoContext(Exception):
    """There is no system to talk to; the message says what to do."""


def context_path(explicit: Path | None = None, environment: Mapping[str, str] = os.environ) -> Path:
    """`explicit`, else BERTH_CONTEXT, else berth/context.json in the user's state folder (XDG_STATE_HOME)."""
    if explicit is not None:
        return explicit
    if environment.get("BERTH_CONTEXT"):
        return Path(environment["BERTH_CONTEXT"])
    home = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "berth" / "context.json"


@dataclass(frozen=True, slots=True)
class Context:
    """`services` maps a service's name to its gRPC address, `http` to its HTTP address."""

    services: Mapping[str, str]
    http: Mapping[str, str] = field(default_factory=dict)
    kafka: str = ""
    state_dir: str = ""
    span_dir: str = ""
    token: str = ""
    pid: int = 0
    """Process that keeps the system up; 0: not ours to check."""
    pid_started: float = 0.0
    service_pids: Mapping[str, int] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes it whole or not at all, readable by the user alone."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        fresh.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Context":
        """Raises NoContext where there is none, where it is broken, or where its process is gone."""
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            context = cls(**stored)
            context.services["placement_engine"]
        except FileNotFoundError:
            raise NoContext(f"no Berth is running here: {START}") from None
        except (ValueError, TypeError, KeyError) as error:
            raise NoContext(f"{path}: not a context file ({error}): {START}") from error
        if context.pid and not _same_process(context.pid, context.pid_started):
            raise NoContext(f"no Berth is running here (the one of {path} has ended): {START}")
        return context

    def remove(self, path: Path) -> None:
        """Removes the file, unless another system has taken it over."""
        try:
            if json.loads(path.read_text(encoding="utf-8")).get("pid") == self.pid:
                path.unlink()
        except (OSError, ValueError):
            pass


def process_started(pid: int) -> float:
    """When the process started, in seconds since the epoch; 0 where there is none."""
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def _same_process(pid: int, started: float) -> bool:
    now = process_started(pid)
    return now > 0 and abs(now - started) < 2.0
