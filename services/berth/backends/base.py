"""What a backend is: it says whether it can run an artefact on an accelerator, makes it ready, serves it, ends it.

A backend holds no state of its own: what it serves lives in the server that it speaks to (a Triton server, a vendor's
runtime), under the name it was given, and is read back from there. So `serve` and `release` may be called again
after a crash: serving what is already served under that name with the same `Prepared.digest` changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from berth.catalogue import Accelerator
from berth.models.artefact import Artefact

__all__ = ["Backend", "Health", "Placement", "Prepared", "Refused", "Serving", "Unanswered", "Unreachable", "Verdict"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reasons`: why not, each a sentence with name, value and, where there is one, the remedy; empty: it can."""

    reasons: tuple[str, ...] = ()

    @property
    def can(self) -> bool:
        return not self.reasons


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one copy runs. `indices`: the devices on the node as the vendor counts; empty on a CPU. `address`: of the
    node's server, as the operator wrote it; empty where a backend needs none."""

    node: str
    accelerator: str
    indices: tuple[int, ...] = ()
    address: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Ready to be served. `files`: by path in the model's folder. `configuration`: of the server, as JSON has it."""

    backend: str
    digest: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    configuration: Mapping[str, object] = field(default_factory=dict)


class Health(Enum):
    """READY answers requests; LOADING may yet; FAILED will not; ABSENT is not there."""

    READY = "ready"
    LOADING = "loading"
    FAILED = "failed"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Serving:
    """`endpoint`: where requests go, a URL. `message`: the server's own words where it failed."""

    health: Health
    endpoint: str = ""
    message: str = ""


class Refused(Exception):
    """The server took in what it was asked and will not do it; its own words. Nothing is held."""


class Unanswered(Exception):
    """Nobody knows whether it happened: ask `look`."""


class Unreachable(Unanswered):
    """Nobody is there to be asked: no connection, no answer in time, or one that is not the server's own. After a
    grace period such a server counts as gone; any other Unanswered means that what it has may still be there."""


class Backend(Protocol):
    @property
    def name(self) -> str:
        """A short word: "xla", "onnx", "triton-python", or what the operator chose."""

    @property
    def stacks(self) -> Sequence[str]:
        """Software stacks of the catalogue that it serves: "CUDA", "ROCm", "XLA", "CPU", ..."""

    def can_run(self, artefact: Artefact, accelerator: Accelerator) -> Verdict:
        """Of the program alone: whether the stack takes it, and whether it fits the device's memory."""

    async def prepare(self, artefact: Artefact, content: Path, placement: Placement) -> Prepared:
        """Makes what the server needs from the artefact's file or folder. Raises Refused."""

    async def serve(self, name: str, prepared: Prepared, placement: Placement) -> Serving:
        """Serves under `name`, and waits until it is ready. Raises Refused, Unanswered."""

    async def look(self, name: str, placement: Placement) -> Serving:
        """What is the case now. Raises Unanswered."""

    async def release(self, name: str, placement: Placement) -> None:
        """Ends it and returns once it is gone; what is not there is no error. Raises Unanswered."""
