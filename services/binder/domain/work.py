"""What an attempt asks an executor to hold."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from binder.domain.attempt import Attempt, AttemptId

__all__ = ["Assignment", "Command", "DeviceClaim", "Member", "Model", "PodReference", "Work"]


@dataclass(frozen=True, slots=True)
class DeviceClaim:
    """`index`: on the node, as the vendor counts; `model`: catalogue name; `milli`: share of the device;
    `partition`: "" for the whole device or a share of it."""

    device_id: str
    index: int
    milli: int
    model: str
    partition: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """One replica's place. `member` counts from 0."""

    member: int
    node: str
    devices: tuple[DeviceClaim, ...] = ()
    cpu_milli: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Command:
    """`working_directory` empty: a fresh folder of the member."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    working_directory: str = ""


@dataclass(frozen=True, slots=True)
class PodReference:
    """One very pod: another of the same name is not it."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Model:
    """What a server is to serve, one copy a member. `digest`: SHA-256 of the content in hex, "": any content.
    `max_batch_size` 0: requests are not joined. `instances`: copies on each device, at least 1."""

    uri: str
    name: str
    digest: str = ""
    max_batch_size: int = 0
    instances: int = 1
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Work:
    """`command`, `manifest` or `pods` (Kubernetes), or `model` (a server), as the job's payload says; else none.

    `pods` are one a member of the wished gang, in the members' order. `expected_seconds` None: not stated.
    `workload`: its name in the profile store, "" where the job names none.
    """

    members: tuple[Member, ...]
    command: Command | None = None
    manifest: str = ""
    model: Model | None = None
    expected_seconds: float | None = None
    pods: tuple[PodReference, ...] = ()
    workload: str = ""


@dataclass(frozen=True, slots=True)
class Assignment:
    """An attempt with its work."""

    attempt: Attempt
    work: Work

    @property
    def id(self) -> AttemptId:
        return self.attempt.id
