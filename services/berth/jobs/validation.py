"""What a JobSpec must be, from wherever it comes."""

import hashlib
import math
import re
from collections.abc import Callable
from typing import Any

from berth.errors import FieldError, InvalidInput
from berth.jobs.nodes import check_nodes
from berth.v1 import jobs_pb2 as pb

__all__ = ["DEVICE_LEVELS", "LEVELS", "spec_digest", "validate"]

DEVICE_LEVELS = ("numa", "link")
"""Within a node: the devices of one member share a domain."""
LEVELS = (*DEVICE_LEVELS, "node", "scale-up", "rack", "block", "zone", "region")
"""The tightest first."""
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
PRECISIONS = ("fp16", "fp8", "int8")
MAX_REPLICAS = 65536
MAX_DEVICES = 4096
MAX_GROUPS = 64
MAX_BATCH_SIZE = 65536
MAX_INSTANCES = 64
MAX_PARAMETERS = 64
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")
_MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
_PARTITION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,31}")
_NAME_REMEDY = "write 1 to 63 of a-z, 0-9, '-' and '.', starting and ending with a letter or digit"

Check = Callable[[bool, str, Any, str], None]


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
        check(bool(_NAME.fullmatch(getattr(made, field))), field, getattr(made, field), _NAME_REMEDY)
    if made.member_groups:
        _check_groups(check, made)
    else:
        _check_shape(check, "", made.replicas, made.min_replicas, made.resources)
    check(abs(made.priority) <= 1_000_000, "priority", made.priority, "write -1000000 to 1000000")
    for where, selector in (("", made.accelerators), *((f"{_at(i)}", g.accelerators) for i, g in _groups(made))):
        for field, values, known in (("classes", selector.classes, CLASSES), ("stacks", selector.stacks, STACKS)):
            for value in values:
                check(value in known, f"{where}accelerators.{field}", value, f"write one of: {', '.join(known)}")
    for where, constraints in (("", made.nodes), *((_at(i), g.nodes) for i, g in _groups(made))):
        check_nodes(check, where, constraints)
    if made.HasField("topology"):
        _check_topology(check, made)
    if made.HasField("character"):
        _check_character(check, made.character)
    check(made.executor in ("", *EXECUTORS), "executor", made.executor, f"write one of: {', '.join(EXECUTORS)}")
    if made.executor == "process":
        check(bool(made.command.argv), "command", "", "the process executor needs a command")
    if made.executor == "triton" or made.HasField("model"):
        _check_model(check, made)
    if made.executor == "kubernetes" or made.HasField("kubernetes"):
        _check_kubernetes(check, made)
    for field in ("latency_target", "expected_duration", "checkpoint_interval"):
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


def _check_kubernetes(check: Check, made: pb.JobSpec) -> None:
    pods, manifest = made.kubernetes.pods, made.kubernetes.manifest
    check(
        made.HasField("kubernetes") and bool(pods) != bool(manifest.strip()), "kubernetes",
        f"{len(pods)} pods and {'a' if manifest.strip() else 'no'} manifest",
        "give `pods` that exist, one a member, or `manifest`, a Pod of which every member gets a copy",
    )  # fmt: skip
    check(
        len(pods) in (0, made.replicas), "kubernetes.pods", f"{len(pods)} pods",
        f"name one pod for each of the {made.replicas} replicas, in the members' order",
    )  # fmt: skip
    seen: set[str] = set()
    for position, pod in enumerate(pods):
        where = f"kubernetes.pods[{position}]"
        for field in ("namespace", "name", "uid"):
            check(bool(getattr(pod, field)), f"{where}.{field}", "", f"write the pod's metadata.{field}")
        check(pod.uid not in seen, f"{where}.uid", pod.uid, "name each pod once")
        seen.add(pod.uid)


def _check_model(check: Check, made: pb.JobSpec) -> None:
    model = made.model
    check(made.HasField("model"), "model", "", "the triton executor serves a model: give `model: {uri: ...}`")
    if not made.HasField("model"):
        return
    uri = model.uri
    check(
        0 < len(uri) <= 4096 and uri.isprintable(), "model.uri", uri,
        "write the path of a model package, an artefact, an ONNX file or a Triton model folder",
    )  # fmt: skip
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", uri)
    check(
        scheme is None or scheme[1].lower() == "file", "model.uri", uri,
        "write a path, or file:///path: nothing else is fetched",
    )  # fmt: skip
    check(
        not model.name or bool(_MODEL_NAME.fullmatch(model.name)), "model.name", model.name,
        "write up to 128 letters, digits, '_', '-' and '.', or leave it out for the job's name",
    )  # fmt: skip
    check(
        not model.digest or bool(_DIGEST.fullmatch(model.digest)), "model.digest", model.digest,
        "write SHA-256 in hex, 64 characters, or leave it out",
    )  # fmt: skip
    for field, most in (("max_batch_size", MAX_BATCH_SIZE), ("instances", MAX_INSTANCES)):
        value = getattr(model, field)
        check(0 <= value <= most, f"model.{field}", value, f"write 0 to {most}")
    check(
        len(model.parameters) <= MAX_PARAMETERS, "model.parameters", len(model.parameters),
        f"write at most {MAX_PARAMETERS}",
    )  # fmt: skip
    for name, value in model.parameters.items():
        check(
            bool(_PARAMETER.fullmatch(name)) and len(value) <= 4096, f"model.parameters.{name}", value,
            "write letters, digits, '_', '-' and '.' as its name, and at most 4096 characters",
        )  # fmt: skip


def _groups(made: pb.JobSpec) -> list[tuple[int, pb.MemberGroup]]:
    return list(enumerate(made.member_groups))


def _at(position: int) -> str:
    return f"members[{position}]."


def _check_groups(check: Check, made: pb.JobSpec) -> None:
    total = sum(group.replicas for group in made.member_groups)
    check(made.replicas in (0, total), "replicas", made.replicas, f"leave it out: the groups have {total} members")
    check(made.min_replicas == 0, "min_replicas", made.min_replicas, "say it of each entry of `members`")
    check(not made.resources.ByteSize(), "resources", "given", "say what a member asks for in each entry of `members`")
    check(len(made.member_groups) <= MAX_GROUPS, "members", len(made.member_groups), f"write at most {MAX_GROUPS}")
    check(total <= MAX_REPLICAS, "members", total, f"write at most {MAX_REPLICAS} members in all")
    made.replicas = total
    names: set[str] = set()
    for position, group in _groups(made):
        check(bool(_NAME.fullmatch(group.name)), f"{_at(position)}name", group.name, _NAME_REMEDY)
        check(group.name not in names, f"{_at(position)}name", group.name, "give each group another name")
        names.add(group.name)
        # The choice of a count weighs members of one shape only: an answer for several would be a guess.
        check(
            group.resources.max_devices == 0, f"{_at(position)}max_devices", group.resources.max_devices,
            "leave it out: a gang of several shapes says its `devices` exactly",
        )  # fmt: skip
        _check_shape(check, _at(position), group.replicas, group.min_replicas, group.resources)


def _check_shape(check: Check, where: str, replicas: int, fewest: int, resources: pb.Resources) -> None:
    """Of members of one shape; `where` goes before the names of fields."""
    check(1 <= replicas <= MAX_REPLICAS, f"{where}replicas", replicas, f"write 1 to {MAX_REPLICAS}")
    check(0 <= fewest <= max(replicas, 0), f"{where}min_replicas", fewest, f"write 1 to {replicas}, or leave it out")
    check(0 <= resources.devices <= MAX_DEVICES, f"{where}devices", resources.devices, f"write 0 to {MAX_DEVICES}")
    check(
        resources.max_devices == 0 or 0 < resources.devices <= resources.max_devices <= MAX_DEVICES,
        f"{where}max_devices", resources.max_devices,
        f"write at least `devices` (1 or more) and at most {MAX_DEVICES}, or leave it out",
    )  # fmt: skip
    check(
        0 <= resources.device_milli < 1000, f"{where}device_fraction", resources.device_milli / 1000,
        "write a share above 0 and up to 1; for more use `devices`",
    )  # fmt: skip
    for field in ("device_share_bytes", "device_memory_bytes", "cpu_milli", "memory_bytes"):
        name = _WRITTEN.get(field, field)
        check(getattr(resources, field) >= 0, f"{where}{name}", getattr(resources, field), "write 0 or more")
    check(
        not resources.partition or bool(_PARTITION.fullmatch(resources.partition)),
        f"{where}partition", resources.partition, "write the vendor's name of a partition, such as 1g.10gb",
    )  # fmt: skip
    asked = [name for name, given in (
        ("devices", resources.devices), ("device_fraction", resources.device_milli),
        ("device_memory_share", resources.device_share_bytes), ("partition", resources.partition),
    ) if given]  # fmt: skip
    check(
        len(asked) <= 1, f"{where}{asked[-1] if asked else ''}", " and ".join(asked),
        "give either of `devices`, `device_fraction`, `device_memory_share` and `partition`: "
        "a share never crosses devices",
    )  # fmt: skip
    check(
        bool(asked or resources.cpu_milli or resources.memory_bytes),
        f"{where}devices", 0, "ask for something: devices, device_fraction, cpu or memory",
    )  # fmt: skip
    check(
        not resources.device_memory_bytes or bool(asked),
        f"{where}device_memory", resources.device_memory_bytes, "ask for devices or a share of one too",
    )  # fmt: skip


_WRITTEN = {"device_share_bytes": "device_memory_share", "device_memory_bytes": "device_memory"}


def _check_topology(check: Check, made: pb.JobSpec) -> None:
    wish = made.topology
    known = f"write one of: {', '.join(LEVELS)}"
    check(
        wish.level in LEVELS or not (wish.level or wish.required or not (wish.preferred_level or wish.group_size)),
        "topology.level", wish.level, known,
    )  # fmt: skip
    check(wish.preferred_level in ("", *LEVELS), "topology.preferred_level", wish.preferred_level, known)
    if wish.level in LEVELS and wish.preferred_level in LEVELS:
        check(
            LEVELS.index(wish.preferred_level) < LEVELS.index(wish.level),
            "topology.preferred_level", wish.preferred_level, f"write a level tighter than {wish.level!r}",
        )  # fmt: skip
    check(
        wish.group_size >= 0 and (wish.group_size == 0 or made.replicas % wish.group_size == 0),
        "topology.group_size", wish.group_size, f"write a number that divides {made.replicas} members",
    )  # fmt: skip
    check(
        wish.group_level in LEVELS if wish.group_size else not wish.group_level,
        "topology.group_level", wish.group_level, f"give group_size and group_level together; {known}",
    )  # fmt: skip


def _check_character(check: Check, character: pb.WorkloadCharacter) -> None:
    for field in ("operations", "bytes_moved"):
        value = getattr(character, field)
        check(math.isfinite(value) and value >= 0, f"character.{field}", value, "write a finite number, 0 or more")
    check(
        character.operations > 0 or character.bytes_moved > 0,
        "character.operations", character.operations, "give operations, bytes_moved or both",
    )  # fmt: skip
    if character.HasField("dense_fraction"):
        share = character.dense_fraction
        check(0 <= share <= 1, "character.dense_fraction", share, "write a share from 0 to 1")
    if character.HasField("calls"):
        calls = character.calls
        check(
            math.isfinite(calls) and calls > 0, "character.calls", calls,
            "write how many requests the operations are of, above 0; leave it out where they are none",
        )  # fmt: skip
    check(
        character.precision in ("", *PRECISIONS), "character.precision", character.precision,
        f"write one of: {', '.join(PRECISIONS)}",
    )  # fmt: skip


def spec_digest(spec: pb.JobSpec) -> bytes:
    """Tells two payloads apart under one idempotency key: SHA-256 of the deterministic encoding."""
    return hashlib.sha256(spec.SerializeToString(deterministic=True)).digest()
