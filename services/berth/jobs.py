"""A job as a person writes it: YAML file, JSON on Kafka. `parse_document` turns it into a `JobSpec`.

    name: finetune-7b             # DNS label; unique in the tenant
    tenant: research              # default "default"
    queue: research               # default "default"
    priority: 10
    kind: training                # training | inference | batch
    replicas: 8                   # members of the gang, default 1
    devices: 4                    # whole devices a member
    device_fraction: 0.5          # or a share of one device
    device_memory: 40Gi           # on each device
    cpu: 8                        # cores a member; "500m" is half a core
    memory: 64Gi                  # host memory a member
    accelerators: {models: [H100-SXM], classes: [GPU], stacks: [CUDA]}
    workload: llama-8b-finetune   # name in the profile store
    objective: cost               # cost | time | latency | energy
    deadline: 2026-12-01T18:00:00Z
    latency_target: 200ms
    topology: {level: rack, required: true}
    preemptible: true
    expected_duration: 2h
    executor: simulated           # process | simulated | kubernetes | triton
    command: [python, train.py]   # or `kubernetes: {manifest: ...}`, or `model: {uri: ..., name: ...}`
    environment: {SEED: "1"}      # of the command
    working_directory: /srv/job   # of the command
    labels: {team: vision}
    pool: default
    idempotency_key: run-42       # default: the name

`validate` checks a JobSpec from wherever and fills in the defaults.
"""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import yaml

from berth.errors import FieldError, InvalidInput
from berth.v1 import jobs_pb2 as pb

__all__ = ["parse_document", "parse_duration", "parse_quantity", "parse_text", "spec_digest", "validate"]

LEVELS = ("node", "rack", "block", "zone", "region")
EXECUTORS = ("process", "simulated", "kubernetes", "triton")
CLASSES = ("GPU", "ASIC", "LPU", "WAFER", "RDU", "CPU")
STACKS = (
    "CUDA",
    "ROCm",
    "oneAPI",
    "SynapseAI",
    "XLA",
    "Neuron",
    "GroqWare",
    "Cerebras",
    "SambaFlow",
    "oneDNN",
)
FIELDS = [
    "name",
    "tenant",
    "queue",
    "priority",
    "kind",
    "replicas",
    "devices",
    "device_fraction",
    "device_memory",
    "cpu",
    "memory",
    "accelerators",
    "workload",
    "objective",
    "deadline",
    "latency_target",
    "topology",
    "preemptible",
    "expected_duration",
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

MAX_REPLICAS = 65536
MAX_DEVICES = 4096
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_SCALE = {
    None: 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40,
}  # fmt: skip
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_quantity(field: str, value: Any) -> float:
    """A number with an SI or binary suffix: 0.5, "500m", "40Gi". Raises InvalidInput."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
    else:
        match = _QUANTITY.fullmatch(str(value).strip())
        if match is None:
            raise InvalidInput.of(field, value, "write a number with an optional suffix, such as 500m, 4, 40Gi")
        number = float(match[1]) * _SCALE[match[2]]
    if not math.isfinite(number) or number < 0 or number >= 2.0**62:
        raise InvalidInput.of(field, value, "write a number from 0 to 4Ei")
    return number


def parse_duration(field: str, value: Any) -> float:
    """Seconds, from a number or "90s", "1h30m", "200ms". Raises InvalidInput."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        text = str(value).strip()
        if not text or _DURATION_PART.sub("", text):
            raise InvalidInput.of(field, value, "write a duration such as 200ms, 90s, 1h30m")
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))
    if not math.isfinite(seconds) or seconds <= 0 or seconds > 10 * 365 * 86400:
        raise InvalidInput.of(field, value, "write a duration above 0 and up to ten years")
    return seconds


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
    for name, default in (("priority", 0), ("replicas", 1)):
        setattr(spec, name, reader.integer(name, default))
    spec.kind = reader.choice("kind", "JOB_KIND_", pb.JobKind, pb.JOB_KIND_BATCH)
    spec.objective = reader.choice("objective", "OBJECTIVE_", pb.Objective, pb.OBJECTIVE_UNSPECIFIED)
    resources = spec.resources
    resources.devices = reader.integer("devices", 0)
    resources.device_milli = round(reader.quantity("device_fraction") * 1000)
    if resources.device_milli == 1000:
        resources.devices, resources.device_milli = resources.devices or 1, 0
    resources.device_memory_bytes = round(reader.quantity("device_memory"))
    resources.cpu_milli = round(reader.quantity("cpu") * 1000)
    resources.memory_bytes = round(reader.quantity("memory"))
    selector = reader.mapping("accelerators", ("models", "classes", "stacks"))
    for name in ("models", "classes", "stacks"):
        getattr(spec.accelerators, name).extend(reader.strings(f"accelerators.{name}", selector.get(name)))
    topology = reader.mapping("topology", ("level", "required"))
    if topology:
        spec.topology.level = str(topology.get("level", ""))
        spec.topology.required = reader.flag("topology.required", topology.get("required", False))
    spec.preemptible = reader.flag("preemptible", document.get("preemptible", False))
    for name in ("latency_target", "expected_duration"):
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
        spec.kubernetes.manifest = str(reader.mapping("kubernetes", ("manifest",)).get("manifest", ""))
    if "model" in given:
        model = reader.mapping("model", ("uri", "name"))
        spec.model.uri, spec.model.name = str(model.get("uri", "")), str(model.get("name", ""))


class _Reader:
    """Reads a document field by field and keeps every error."""

    def __init__(self, document: Mapping[Any, Any]) -> None:
        self.document = document
        self.errors: list[FieldError] = []
        for key in document:
            if key not in FIELDS:
                self._unknown(str(key), str(key), FIELDS)

    def _unknown(self, field: str, value: str, known: Any) -> None:
        near = difflib.get_close_matches(value, list(known), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        self.errors.append(FieldError(field, value, f"unknown field: {hint}known: {', '.join(known)}"))

    def _fail(self, field: str, value: Any, remedy: str) -> None:
        self.errors.append(FieldError(field, str(value), remedy))

    def text(self, field: str) -> str | None:
        value = self.document.get(field)
        if value is None:
            return None
        if isinstance(value, (Mapping, list)):
            self._fail(field, value, "write one text")
            return None
        return str(value)

    def integer(self, field: str, default: int) -> int:
        value = self.document.get(field, default)
        if isinstance(value, bool) or not isinstance(value, int) or not -(2**31) <= value < 2**31:
            self._fail(field, value, "write a whole number")
            return default
        return value

    def quantity(self, field: str) -> float:
        try:
            return parse_quantity(field, self.document.get(field, 0))
        except InvalidInput as error:
            self.errors.extend(error.errors)
            return 0.0

    def duration(self, field: str) -> float | None:
        value = self.document.get(field)
        if value is None:
            return None
        try:
            return parse_duration(field, value)
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
            self._fail(field, value, "write an RFC 3339 time such as 2026-12-01T18:00:00Z")
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)

    def flag(self, field: str, value: Any) -> bool:
        if not isinstance(value, bool):
            self._fail(field, value, "write true or false")
            return False
        return value

    def strings(self, field: str, value: Any) -> list[str]:
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(one, (str, int, float)) for one in value):
            self._fail(field, value, "write a list of texts")
            return []
        return [str(one) for one in value]

    def mapping(self, field: str, known: tuple[str, ...] = ()) -> Mapping[Any, Any]:
        value = self.document.get(field)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self._fail(field, value, "write a mapping")
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
            self._fail(field, value, f"write one of: {', '.join(names)}")
            return default
        return enum.Value(prefix + str(value).upper())


def validate(spec: pb.JobSpec) -> pb.JobSpec:
    """A copy of `spec` with the defaults filled in. Raises InvalidInput with every error found.

    What needs the system's state (queues, the pool's size, the present time) is checked where jobs are accepted.
    """
    made = pb.JobSpec()
    made.CopyFrom(spec)
    made.tenant = made.tenant or "default"
    made.queue = made.queue or "default"
    made.pool = made.pool or "default"
    made.idempotency_key = made.idempotency_key or made.name
    made.kind = made.kind or pb.JOB_KIND_BATCH
    made.objective = made.objective or pb.OBJECTIVE_COST
    made.executor = made.executor or {
        "command": "process",
        "kubernetes": "kubernetes",
        "model": "triton",
    }.get(made.WhichOneof("payload") or "", "")
    errors: list[FieldError] = []

    def check(sound: bool, field: str, value: Any, remedy: str) -> None:
        if not sound:
            errors.append(FieldError(field, str(value), remedy))

    for field in ("name", "tenant", "queue", "pool"):
        value = getattr(made, field)
        check(
            bool(_NAME.fullmatch(value)), field, value,
            "write 1 to 63 of a-z, 0-9, '-' and '.', starting and ending with a letter or digit",
        )  # fmt: skip
    resources = made.resources
    check(1 <= made.replicas <= MAX_REPLICAS, "replicas", made.replicas, f"write 1 to {MAX_REPLICAS}")
    check(0 <= resources.devices <= MAX_DEVICES, "devices", resources.devices, f"write 0 to {MAX_DEVICES}")
    check(
        0 <= resources.device_milli < 1000, "device_fraction", resources.device_milli / 1000,
        "write a share above 0 and up to 1; for more use `devices`",
    )  # fmt: skip
    check(
        not (resources.devices and resources.device_milli), "device_fraction", resources.device_milli / 1000,
        "give either `devices` or `device_fraction`: a fraction never crosses devices",
    )  # fmt: skip
    for field in ("device_memory_bytes", "cpu_milli", "memory_bytes"):
        check(getattr(resources, field) >= 0, field, getattr(resources, field), "write 0 or more")
    check(
        bool(resources.devices or resources.device_milli or resources.cpu_milli or resources.memory_bytes),
        "devices", 0, "ask for something: devices, device_fraction, cpu or memory",
    )  # fmt: skip
    check(
        not resources.device_memory_bytes or bool(resources.devices or resources.device_milli),
        "device_memory", resources.device_memory_bytes, "ask for devices or device_fraction too",
    )  # fmt: skip
    check(abs(made.priority) <= 1_000_000, "priority", made.priority, "write -1000000 to 1000000")
    for field, values, known in (
        ("accelerators.classes", made.accelerators.classes, CLASSES),
        ("accelerators.stacks", made.accelerators.stacks, STACKS),
    ):
        for value in values:
            check(value in known, field, value, f"write one of: {', '.join(known)}")
    if made.HasField("topology"):
        level = made.topology.level
        check(level in LEVELS, "topology.level", level, f"write one of: {', '.join(LEVELS)}")
    check(made.executor in ("", *EXECUTORS), "executor", made.executor, f"write one of: {', '.join(EXECUTORS)}")
    if made.executor == "process":
        check(bool(made.command.argv), "command", "", "the process executor needs a command")
    for field in ("latency_target", "expected_duration"):
        if any(given.name == field for given, _ in made.ListFields()):
            seconds = getattr(made, field).ToNanoseconds() / 1e9
            check(0 < seconds <= 10 * 365 * 86400, field, f"{seconds}s", "write a duration above 0")
    check(
        len(made.idempotency_key) <= 255,
        "idempotency_key",
        made.idempotency_key,
        "write at most 255 characters",
    )
    check(made.ByteSize() <= 524288, "job", f"{made.ByteSize()} bytes", "keep a job under 512 KiB")
    if errors:
        raise InvalidInput(errors)
    return made


def spec_digest(spec: pb.JobSpec) -> bytes:
    """Tells two payloads apart under one idempotency key: SHA-256 of the deterministic encoding."""
    return hashlib.sha256(spec.SerializeToString(deterministic=True)).digest()
