"""From a document to a JobSpec, field by field; every error is kept. The package's docstring shows a whole document."""

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import yaml

from berth.errors import FieldError, InvalidInput
from berth.jobs.nodes import read_nodes
from berth.jobs.quantities import parse_duration, parse_quantity
from berth.jobs.validation import validate
from berth.v1 import jobs_pb2 as pb

__all__ = ["FIELDS", "parse_document", "parse_text"]

SHAPE_FIELDS = [
    "devices",
    "max_devices",
    "device_fraction",
    "device_memory_share",
    "partition",
    "device_memory",
    "cpu",
    "memory",
]
FIELDS = [
    "name",
    "tenant",
    "queue",
    "priority",
    "kind",
    "replicas",
    "min_replicas",
    *SHAPE_FIELDS,
    "members",
    "accelerators",
    "workload",
    "character",
    "objective",
    "deadline",
    "latency_target",
    "topology",
    "nodes",
    "preemptible",
    "expected_duration",
    "checkpoint_interval",
    "executor",
    "command",
    "environment",
    "working_directory",
    "kubernetes",
    "model",
    "labels",
    "pool",
    "idempotency_key",
]
GROUP_FIELDS = ["name", "replicas", "min_replicas", *SHAPE_FIELDS, "accelerators", "nodes"]


def parse_text(text: str | bytes, *, format: str = "yaml") -> pb.JobSpec:
    """One job from YAML or JSON text. Raises InvalidInput."""
    try:
        document = json.loads(text) if format == "json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InvalidInput.of("job", str(error).splitlines()[0], f"write a job as valid {format.upper()}") from error
    return parse_document(document)


def parse_document(document: Any) -> pb.JobSpec:
    """A job document (see the module) as a validated JobSpec. Raises InvalidInput with every error found."""
    if not isinstance(document, Mapping):
        raise InvalidInput.of("job", type(document).__name__, "write a mapping with at least `name`")
    reader = _Reader(document)
    spec = pb.JobSpec()
    for name in ("name", "tenant", "queue", "workload", "executor", "pool", "idempotency_key"):
        if (text := reader.text(name)) is not None:
            setattr(spec, name, text)
    spec.priority = reader.integer("priority", 0)
    spec.kind = reader.choice("kind", "JOB_KIND_", pb.JobKind, pb.JOB_KIND_BATCH)
    spec.objective = reader.choice("objective", "OBJECTIVE_", pb.Objective, pb.OBJECTIVE_UNSPECIFIED)
    if document.get("members") is None:
        spec.replicas, spec.min_replicas = reader.integer("replicas", 1), reader.integer("min_replicas", 0)
        _resources(reader, spec.resources)
    else:
        _members(reader, spec)
    _accelerators(reader, spec.accelerators)
    _topology(reader, spec)
    if document.get("nodes") is not None:
        read_nodes(document["nodes"], spec.nodes, reader.fail)
    _character(reader, spec)
    spec.preemptible = reader.flag("preemptible", document.get("preemptible", False))
    for name in ("latency_target", "expected_duration", "checkpoint_interval"):
        if (seconds := reader.duration(name)) is not None:
            getattr(spec, name).FromNanoseconds(round(seconds * 1e9))
    if (moment := reader.moment("deadline")) is not None:
        spec.deadline.FromDatetime(moment)
    _payload(reader, spec)
    for key, text in reader.mapping("labels").items():
        spec.labels[str(key)] = str(text)
    if reader.errors:
        raise InvalidInput(reader.errors)
    return validate(spec)


def _resources(reader: "_Reader", resources: pb.Resources) -> None:
    resources.devices, resources.max_devices = reader.integer("devices", 0), reader.integer("max_devices", 0)
    resources.device_milli = round(reader.quantity("device_fraction") * 1000)
    if resources.device_milli == 1000:
        resources.devices, resources.device_milli = resources.devices or 1, 0
    resources.device_share_bytes = round(reader.quantity("device_memory_share"))
    resources.partition = reader.text("partition") or ""
    resources.device_memory_bytes = round(reader.quantity("device_memory"))
    resources.cpu_milli = round(reader.quantity("cpu") * 1000)
    resources.memory_bytes = round(reader.quantity("memory"))


def _accelerators(reader: "_Reader", selector: pb.AcceleratorSelector) -> None:
    given = reader.mapping("accelerators", ("models", "classes", "stacks"))
    for name in ("models", "classes", "stacks"):
        getattr(selector, name).extend(reader.strings(f"accelerators.{name}", given.get(name)))


def _members(reader: "_Reader", spec: pb.JobSpec) -> None:
    for field in ("replicas", "min_replicas", *SHAPE_FIELDS):
        if reader.document.get(field) is not None:
            reader.fail(field, reader.document[field], "say it of each entry of `members`")
    given = reader.document["members"]
    if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
        reader.fail("members", given, "write a list of mappings, each with a name and what a member asks for")
        return
    for position, entry in enumerate(given):
        inner = _Reader(entry, GROUP_FIELDS, f"members[{position}].")
        group = spec.member_groups.add(
            name=inner.text("name") or "",
            replicas=inner.integer("replicas", 1),
            min_replicas=inner.integer("min_replicas", 0),
        )
        _resources(inner, group.resources)
        _accelerators(inner, group.accelerators)
        if entry.get("nodes") is not None:
            group.nodes.SetInParent()
            read_nodes(entry["nodes"], group.nodes, inner.fail)
        reader.errors.extend(inner.errors)


def _topology(reader: "_Reader", spec: pb.JobSpec) -> None:
    given = reader.mapping("topology", ("level", "required", "preferred_level", "group_size", "group_level"))
    if not given:
        return
    inner = _Reader(given, list(given), "topology.")
    for name in ("level", "preferred_level", "group_level"):
        setattr(spec.topology, name, inner.text(name) or "")
    spec.topology.required = inner.flag("required", given.get("required", False))
    spec.topology.group_size = inner.integer("group_size", 0)
    reader.errors.extend(inner.errors)


def _character(reader: "_Reader", spec: pb.JobSpec) -> None:
    given = reader.mapping("character", ("operations", "bytes_moved", "dense_fraction", "precision", "calls"))
    if not given:
        return
    inner = _Reader(given, list(given), "character.")
    spec.character.operations = inner.number("operations", 0.0)
    spec.character.bytes_moved = inner.number("bytes_moved", 0.0)
    if given.get("dense_fraction") is not None:
        spec.character.dense_fraction = inner.number("dense_fraction", 1.0)
    spec.character.precision = inner.text("precision") or ""
    if given.get("calls") is not None:
        spec.character.calls = inner.number("calls", 0.0)
    reader.errors.extend(inner.errors)


def _payload(reader: "_Reader", spec: pb.JobSpec) -> None:
    given = [name for name in ("command", "kubernetes", "model") if reader.document.get(name) is not None]
    if len(given) > 1:
        reader.errors.append(FieldError(given[1], given[0], "give one payload: command, kubernetes or model"))
    if "command" in given:
        spec.command.argv.extend(reader.strings("command", reader.document["command"]))
        for key, text in reader.mapping("environment").items():
            spec.command.environment[str(key)] = str(text)
        spec.command.working_directory = reader.text("working_directory") or ""
    if "kubernetes" in given:
        manifest = reader.mapping("kubernetes", ("manifest",)).get("manifest", "")
        # Written out as a mapping it is as good as a text of its own.
        spec.kubernetes.manifest = manifest if isinstance(manifest, str) else json.dumps(manifest, default=str)
    if "model" in given:
        _model(reader, spec.model)


def _model(reader: "_Reader", model: pb.ModelPayload) -> None:
    given = reader.mapping("model", ("uri", "name", "digest", "max_batch_size", "instances", "parameters"))
    model.SetInParent()
    inner = _Reader(given, list(given), "model.")
    for name in ("uri", "name", "digest"):
        setattr(model, name, inner.text(name) or "")
    model.digest = model.digest.strip().lower()
    model.max_batch_size, model.instances = inner.integer("max_batch_size", 0), inner.integer("instances", 0)
    for key, text in inner.mapping("parameters").items():
        if isinstance(text, (Mapping, list)) or text is None:
            inner.fail(f"parameters.{key}", text, "write one text")
            continue
        # As YAML and JSON write a truth value.
        model.parameters[str(key)] = str(text).lower() if isinstance(text, bool) else str(text)
    reader.errors.extend(inner.errors)


class _Reader:
    """Reads a mapping field by field and keeps every error. `path` goes before the names of fields."""

    def __init__(self, document: Mapping[Any, Any], fields: Sequence[str] = FIELDS, path: str = "") -> None:
        self.document = document
        self.errors: list[FieldError] = []
        self._path = path
        for key in document:
            if key not in fields:
                self._unknown(str(key), str(key), fields)

    def _unknown(self, field: str, value: str, known: Sequence[str]) -> None:
        near = difflib.get_close_matches(value, list(known), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        self.fail(field, value, f"unknown field: {hint}known: {', '.join(known)}")

    def fail(self, field: str, value: Any, remedy: str) -> None:
        self.errors.append(FieldError(self._path + field, str(value), remedy))

    def text(self, field: str) -> str | None:
        value = self.document.get(field)
        if value is None:
            return None
        if isinstance(value, (Mapping, list)):
            self.fail(field, value, "write one text")
            return None
        return str(value)

    def integer(self, field: str, default: int) -> int:
        value = self.document.get(field, default)
        if isinstance(value, bool) or not isinstance(value, int) or not -(2**31) <= value < 2**31:
            self.fail(field, value, "write a whole number")
            return default
        return value

    def number(self, field: str, default: float) -> float:
        """A plain number; also a text such as 1e18, which YAML does not take for one."""
        value = self.document.get(field, default)
        try:
            return math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            self.fail(field, value, "write a number such as 0.5 or 1e18")
            return default

    def quantity(self, field: str) -> float:
        try:
            return parse_quantity(self._path + field, self.document.get(field, 0))
        except InvalidInput as error:
            self.errors.extend(error.errors)
            return 0.0

    def duration(self, field: str) -> float | None:
        value = self.document.get(field)
        if value is None:
            return None
        try:
            return parse_duration(self._path + field, value)
        except InvalidInput as error:
            self.errors.extend(error.errors)
            return None

    def moment(self, field: str) -> datetime | None:
        value = self.document.get(field)
        if value is None:
            return None
        try:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(field, value, "write an RFC 3339 time such as 2026-12-01T18:00:00Z")
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)

    def flag(self, field: str, value: Any) -> bool:
        if not isinstance(value, bool):
            self.fail(field, value, "write true or false")
            return False
        return value

    def strings(self, field: str, value: Any) -> list[str]:
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(one, (str, int, float)) for one in value):
            self.fail(field, value, "write a list of texts")
            return []
        return [str(one) for one in value]

    def mapping(self, field: str, known: tuple[str, ...] = ()) -> Mapping[Any, Any]:
        value = self.document.get(field)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.fail(field, value, "write a mapping")
            return {}
        for key in value:
            if known and key not in known:
                self._unknown(f"{field}.{key}", str(key), known)
        return value

    def choice(self, field: str, prefix: str, enum: Any, default: int) -> Any:
        value = self.document.get(field)
        if value is None:
            return default
        names = [name.removeprefix(prefix).lower() for name, _ in enum.items() if not name.endswith("UNSPECIFIED")]
        if str(value).lower() not in names:
            self.fail(field, value, f"write one of: {', '.join(names)}")
            return default
        return enum.Value(prefix + str(value).upper())
