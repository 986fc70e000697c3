"""What annotations (or labels) of a pod or group wish, written into a JobSpec. Errors name the annotation."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from berth.errors import FieldError, InvalidInput
from berth.jobs import parse_duration, parse_quantity
from berth.jobs.validation import CLASSES, LEVELS, STACKS
from berth.kubernetes import names
from berth.v1 import jobs_pb2 as pb

__all__ = ["Wishes", "level_of", "wishes_of"]

Wishes = Mapping[str, str]
"""By annotation name."""

TEXTS = {names.TENANT: "tenant", names.QUEUE: "queue", names.POOL: "pool", names.WORKLOAD: "workload"}
DURATIONS = {
    names.EXPECTED_DURATION: "expected_duration",
    names.LATENCY_TARGET: "latency_target",
    names.CHECKPOINT_INTERVAL: "checkpoint_interval",
}
PRIORITY_BOUND = 1_000_000
# Labels of nodes that Kubernetes itself defines, and the level each is.
LEVEL_OF_LABEL = {
    "kubernetes.io/hostname": "node",
    "topology.kubernetes.io/zone": "zone",
    "topology.kubernetes.io/region": "region",
    "failure-domain.beta.kubernetes.io/zone": "zone",
    "failure-domain.beta.kubernetes.io/region": "region",
}


def wishes_of(*things: Mapping[str, Any]) -> Wishes:
    """Annotations and labels of Berth's (and Kueue's queue name); the first thing that says something counts, and its
    annotations before its labels."""
    found: dict[str, str] = {}
    for thing in things:
        metadata = thing.get("metadata") or {}
        for given in (metadata.get("annotations") or {}, metadata.get("labels") or {}):
            for name, text in given.items():
                if name.startswith(f"{names.DOMAIN}/") or name == names.KUEUE_QUEUE:
                    found.setdefault(name, str(text))
    return found


def write_wishes(spec: pb.JobSpec, wishes: Wishes) -> list[FieldError]:
    """Fills `spec` in; what cannot be understood is an error and left out."""
    reader = _Reader(wishes)
    for name, field in TEXTS.items():
        if text := wishes.get(name, ""):
            setattr(spec, field, text)
    spec.queue = spec.queue or wishes.get(names.KUEUE_QUEUE, "")
    if (objective := reader.choice(names.OBJECTIVE, "OBJECTIVE_", pb.Objective)) is not None:
        spec.objective = objective
    if (kind := reader.choice(names.KIND, "JOB_KIND_", pb.JobKind)) is not None:
        spec.kind = kind
    for name, field in DURATIONS.items():
        if (seconds := reader.parsed(name, parse_duration)) is not None:
            getattr(spec, field).FromNanoseconds(round(seconds * 1e9))
    if (moment := reader.moment(names.DEADLINE)) is not None:
        spec.deadline.FromDatetime(moment)
    # Kubernetes lets any pod give way to one of higher priority, so this is what its users expect.
    spec.preemptible = reader.flag(names.PREEMPTIBLE, default=True)
    _write_topology(spec, reader)
    return reader.errors


def write_accelerators(selector: pb.AcceleratorSelector, wishes: Wishes) -> None:
    """Catalogue names, classes and stacks in one list; which is which is told by the name."""
    for written in wishes.get(names.ACCELERATORS, "").split(","):
        if name := written.strip():
            known = {one.casefold(): one for one in (*CLASSES, *STACKS)}.get(name.casefold(), "")
            if known in CLASSES:
                selector.classes.append(known)
            elif known in STACKS:
                selector.stacks.append(known)
            else:
                selector.models.append(name)


def device_memory(wishes: Wishes) -> tuple[int, list[FieldError]]:
    """Bytes on each device that the pod wants; 0: not said."""
    reader = _Reader(wishes)
    return round(reader.parsed(names.DEVICE_MEMORY, parse_quantity) or 0), reader.errors


def level_of(label: str) -> str:
    """The topology level that a node label stands for; "": none."""
    level = LEVEL_OF_LABEL.get(label, "")
    if not level and label.startswith(names.TOPOLOGY_PREFIX):
        level = label.removeprefix(names.TOPOLOGY_PREFIX)
    last = label.rpartition("/")[2]
    return level or (last if last in LEVELS else "")


def _write_topology(spec: pb.JobSpec, reader: "_Reader") -> None:
    required = reader.one_of(names.REQUIRED_TOPOLOGY, LEVELS)
    preferred = reader.one_of(names.TOPOLOGY, LEVELS)
    if required:
        spec.topology.level, spec.topology.required = required, True
        if preferred and LEVELS.index(preferred) < LEVELS.index(required):
            spec.topology.preferred_level = preferred
    elif preferred:
        spec.topology.level = preferred


def _field(name: str) -> str:
    return f"metadata.annotations[{name}]"


class _Reader:
    """Reads wishes one by one and keeps every error."""

    def __init__(self, wishes: Wishes) -> None:
        self._wishes = wishes
        self.errors: list[FieldError] = []

    def _fail(self, name: str, remedy: str) -> None:
        self.errors.append(FieldError(_field(name), self._wishes[name], remedy))

    def parsed(self, name: str, parse: Callable[[str, Any], float]) -> float | None:
        if not self._wishes.get(name):
            return None
        try:
            return parse(_field(name), self._wishes[name])
        except InvalidInput as error:
            self.errors.extend(error.errors)
            return None

    def choice(self, name: str, prefix: str, enum: Any) -> Any:
        written = self._wishes.get(name, "")
        if not written:
            return None
        known = [one.removeprefix(prefix).lower() for one in enum.keys() if not one.endswith("UNSPECIFIED")]  # noqa: SIM118
        if written.lower() not in known:
            self._fail(name, f"write one of: {', '.join(known)}")
            return None
        return enum.Value(prefix + written.upper())

    def one_of(self, name: str, known: tuple[str, ...]) -> str:
        written = self._wishes.get(name, "")
        if written and written not in known:
            self._fail(name, f"write one of: {', '.join(known)}")
            return ""
        return written

    def flag(self, name: str, *, default: bool) -> bool:
        written = self._wishes.get(name, "").lower()
        if written not in ("", "true", "false"):
            self._fail(name, "write true or false")
        return default if written not in ("true", "false") else written == "true"

    def moment(self, name: str) -> datetime | None:
        written = self._wishes.get(name, "")
        if not written:
            return None
        try:
            moment = datetime.fromisoformat(written)
        except ValueError:
            self._fail(name, "write an RFC 3339 time such as 2026-12-01T18:00:00Z")
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
