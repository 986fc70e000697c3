"""Extended resources of device plugins, as what Berth asks for and what it has.

A pod asks for devices by the name of a resource (`nvidia.com/gpu: 2`), and a node says how many of it there are, while
labels say of which model. Both ends are read here, so that they never disagree.

Names of the operator's own (Groq, Cerebras, SambaNova and every chip that has no public device plugin) come from a YAML
file, `BERTH_KUBERNETES_RESOURCES`, that maps a resource to a model of the catalogue:

    groq.example.com/lpu: Groq-LPU-v1
    example.com/wafer: Cerebras-WSE-3
    example.com/rdu: SN40L
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import yaml

from berth import catalogue
from berth.errors import FieldError, InvalidInput
from berth.kubernetes import names
from berth.kubernetes.instance_types import model_of_instance
from berth.kubernetes.quantities import units_at_least, units_at_most

__all__ = ["AdvertisedDevices", "DeviceResources", "ResourceClaimOf", "claim_of", "devices_of"]

log = structlog.get_logger(__name__)

MIG_PREFIX = "nvidia.com/mig-"
RESOURCE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")

# Other names of what the catalogue's stacks name: resource, the catalogue's name for it.
SYNONYMS = {
    "gpu.intel.com/i915": "gpu.intel.com/xe",
    "aws.amazon.com/neurondevice": "aws.amazon.com/neuron",
}
# Two names that one plugin gives to the very same devices: only one of them is counted.
SAME_DEVICES = {"aws.amazon.com/neurondevice": "aws.amazon.com/neuron"}
# Parts of devices that another resource of the node counts: resource, that other one, and what to do instead.
PARTS = {
    "aws.amazon.com/neuroncore": (
        "aws.amazon.com/neuron",
        "ask for whole devices with aws.amazon.com/neuron: which cores of a device are free only its plugin knows",
    ),
    "nvidia.com/gpu.shared": (
        "nvidia.com/gpu",
        "ask for nvidia.com/gpu, or let Berth share the device: a time-sliced GPU has no share of its own",
    ),
}
# Labels that name the model, the most exact first. A name that ends in a dot: the rest of the label's key names it.
MODEL_LABELS = {
    "CUDA": ("nvidia.com/gpu.product", "cloud.google.com/gke-accelerator"),
    "ROCm": ("amd.com/gpu.product-name", "beta.amd.com/gpu.product-name", "beta.amd.com/gpu.product-name."),
    "oneAPI": ("gpu.intel.com/product",),
    # Gaudi's feature discovery documents no label for the model; some installations have this one.
    "SynapseAI": ("habana.ai/product.name",),
    "XLA": ("cloud.google.com/gke-tpu-accelerator",),
}
INSTANCE_TYPE = "node.kubernetes.io/instance-type"
# Feature discovery's additions to a product's name: time slices, and MIG under one resource name.
SHARED_SUFFIX = re.compile(r"-SHARED$")
MIG_SUFFIX = re.compile(r"-MIG-([0-9]+g\.[0-9]+gb[A-Za-z0-9.+]*)$")
MOST_DEVICES = 1024


@dataclass(frozen=True, slots=True)
class ResourceClaimOf:
    """What a unit of a resource is to Berth: a whole device, or a `partition` of one.

    `models` empty: any model of the stack. `refusal`: why Berth cannot give it, and what to ask for instead; "": it
    can.
    """

    resource: str
    device_class: str
    stack: str
    models: tuple[str, ...] = ()
    partition: str = ""
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class AdvertisedDevices:
    """Equal devices that a node advertises under one resource.

    `model` is the catalogue's name, "" where nothing known names it; `reported_model` what a label says. `partition`:
    each of them is such a cut of a `model`, made by the operator. `memory_bytes` is each device's, 0 for unknown.
    """

    resource: str
    count: int
    device_class: str
    stack: str
    model: str = ""
    reported_model: str = ""
    partition: str = ""
    memory_bytes: int = 0


class DeviceResources:
    """The resources that are known: those of the catalogue's stacks, and the operator's `own` (resource to model)."""

    def __init__(self, own: Mapping[str, str] | None = None) -> None:
        self._own = dict(own or {})
        self._said: set[str] = set()
        self._kinds = {
            entry.kubernetes_resource: (entry.device_class, entry.stack)
            for entry in reversed(catalogue.load())
            if entry.kubernetes_resource
        }
        self._kinds.update({name: self._kinds[of] for name, of in SYNONYMS.items()})

    @classmethod
    def read(cls, path: Path | None) -> "DeviceResources":
        """With the operator's names from a YAML file; None: without. Raises InvalidInput that names each error."""
        if path is None:
            return cls()
        field = "BERTH_KUBERNETES_RESOURCES"
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InvalidInput.of(field, path, f"cannot be read as YAML: {str(error).splitlines()[0]}") from error
        if not isinstance(document, Mapping):
            raise InvalidInput.of(field, path, "write a mapping of resource names to models of the catalogue")
        errors, own = [], {}
        for resource, model in document.items():
            entry = catalogue.by_name(str(model)) or catalogue.resolve(str(model))
            if not RESOURCE_NAME.fullmatch(str(resource)):
                errors.append(FieldError(f"{field}: {resource}", str(model), "name a resource as domain/name"))
            elif entry is None:
                near = ", ".join(catalogue.nearest(str(model))) or "`berth get accelerators` lists them"
                errors.append(
                    FieldError(f"{field}: {resource}", str(model), f"is not in the catalogue; nearest: {near}")
                )
            else:
                own[str(resource)] = entry.name
        if errors:
            raise InvalidInput(errors)
        return cls(own)

    def claim_of(self, resource: str) -> ResourceClaimOf | None:
        """What a pod asks for by that name. None: it is no device (cpu, memory, hugepages, an unknown name)."""
        if resource in self._own:
            entry = catalogue.by_name(self._own[resource])
            assert entry is not None
            return ResourceClaimOf(resource, entry.device_class, entry.stack, models=(entry.name,))
        if resource in PARTS:
            whole, refusal = PARTS[resource]
            return ResourceClaimOf(resource, *self._kinds[whole], refusal=refusal)
        if resource.startswith(MIG_PREFIX):
            # A resource's name takes no "+": "1g.10gb.me" is the profile 1g.10gb+me.
            partition = re.sub(r"\.(me(?:\.all)?)$", r"+\1", resource.removeprefix(MIG_PREFIX))
            return ResourceClaimOf(resource, *self._kinds["nvidia.com/gpu"], partition=partition)
        kind = self._kinds.get(resource)
        return None if kind is None else ResourceClaimOf(resource, *kind)

    def devices_of(self, node: Mapping[str, Any]) -> tuple[AdvertisedDevices, ...]:
        """What a Node (the API's JSON) advertises, sorted by resource. A count that cannot be read is left out."""
        allocatable = node.get("status", {}).get("allocatable") or {}
        labels = node.get("metadata", {}).get("labels") or {}
        where = str(node.get("metadata", {}).get("name", ""))
        found = []
        for resource in sorted(allocatable):
            claim = self.claim_of(resource)
            if claim is None or resource in PARTS or SAME_DEVICES.get(resource) in allocatable:
                continue
            count = self._count(where, f"status.allocatable.{resource}", allocatable[resource])
            if resource == "nvidia.com/gpu" and (slices := labels.get("nvidia.com/gpu.replicas", "")).isdigit():
                # Time slices stand for the same device: each is whole only once.
                count //= max(1, int(slices)) if SHARED_SUFFIX.search(labels.get("nvidia.com/gpu.product", "")) else 1
            if count > 0:
                found.append(self._advertised(claim, count, labels, where))
        return tuple(found)

    def devices_taken(
        self, resource: str, amount: Any, allocatable: Mapping[str, Any], *, field: str = ""
    ) -> tuple[str, int]:
        """The advertised resource and how many of its devices a request of `amount` takes; ("", 0): none.

        `allocatable` is the node's: what is a part of a device is rounded up to whole ones. Raises InvalidInput.
        """
        claim = self.claim_of(resource)
        if claim is None:
            return "", 0
        units = units_at_least(field or resource, amount)
        if resource in PARTS:
            whole = PARTS[resource][0]
            parts, devices = (units_at_most(name, allocatable.get(name, 0)) for name in (resource, whole))
            each = max(1, parts // devices) if devices > 0 else 1
            return whole, -(-units // each)
        same = SAME_DEVICES.get(resource, "")
        return (same if same in allocatable else resource), units

    def _advertised(
        self, claim: ResourceClaimOf, count: int, labels: Mapping[str, str], where: str
    ) -> AdvertisedDevices:
        reported = self._reported(claim.stack, labels)
        partition = claim.partition
        if claim.stack == "CUDA":
            reported = SHARED_SUFFIX.sub("", reported)
            if (cut := MIG_SUFFIX.search(reported)) is not None:
                reported, partition = reported[: cut.start()], partition or cut[1].replace(".me", "+me")
        entry = self._model(claim, reported, labels)
        if entry is None:
            self._say_unknown(where, claim.resource, reported)
        memory = entry.memory_bytes or 0 if entry else 0
        if claim.stack == "CUDA" and not partition and (mebibytes := labels.get("nvidia.com/gpu.memory", "")).isdigit():
            memory = int(mebibytes) << 20
        if partition:
            cuts = {one.name: one for one in entry.partitions} if entry else {}
            memory = (cuts[partition].memory_bytes or 0) if partition in cuts else 0
        return AdvertisedDevices(
            resource=claim.resource,
            count=count,
            device_class=entry.device_class if entry else claim.device_class,
            stack=claim.stack,
            model=entry.name if entry else "",
            reported_model=reported,
            partition=partition,
            memory_bytes=memory,
        )

    def _model(self, claim: ResourceClaimOf, reported: str, labels: Mapping[str, str]) -> catalogue.Accelerator | None:
        """The operator's label first, then the operator's file, then what discovery or the cloud says."""
        if said := labels.get(names.ACCELERATOR, ""):
            entry = catalogue.by_name(said) or catalogue.resolve(said)
            if entry is not None and entry.stack == claim.stack:
                return entry
        if claim.models:
            return catalogue.by_name(claim.models[0])
        if reported and (entry := catalogue.resolve(reported)) is not None and entry.stack == claim.stack:
            return entry
        instance = model_of_instance(labels.get(INSTANCE_TYPE, ""))
        entry = catalogue.by_name(instance) if instance and not reported else None
        return entry if entry is not None and entry.stack == claim.stack else None

    @staticmethod
    def _reported(stack: str, labels: Mapping[str, str]) -> str:
        for label in MODEL_LABELS.get(stack, ()):
            if label.endswith("."):
                rests = sorted(key.removeprefix(label) for key in labels if key.startswith(label))
                if len(rests) == 1:
                    return rests[0]
            elif labels.get(label):
                return labels[label]
        return labels.get(names.ACCELERATOR, "")

    def _count(self, where: str, field: str, value: Any) -> int:
        try:
            count = units_at_most(field, value)
        except InvalidInput as error:
            self._say_once(f"{where} {field}", "devices left out", node=where, error=str(error))
            return 0
        if count > MOST_DEVICES:
            self._say_once(f"{where} {field}", "more devices than a node has: only some count", node=where, count=count)
        return min(count, MOST_DEVICES)

    def _say_unknown(self, where: str, resource: str, reported: str) -> None:
        near = ", ".join(catalogue.nearest(reported)) if reported else ""
        self._say_once(
            f"{resource} {reported}",
            "model not in the catalogue: placed by class and stack only",
            resource=resource,
            reported=reported,
            nearest=near,
            remedy=f"label its nodes {names.ACCELERATOR}=<model of the catalogue>",
            node=where,
        )

    def _say_once(self, key: str, message: str, **fields: Any) -> None:
        if key not in self._said:
            self._said.add(key)
            log.warning(message, **fields)


_PUBLIC = DeviceResources()


def claim_of(resource: str) -> ResourceClaimOf | None:
    """`DeviceResources.claim_of` without names of the operator's own."""
    return _PUBLIC.claim_of(resource)


def devices_of(node: Mapping[str, Any]) -> tuple[AdvertisedDevices, ...]:
    """`DeviceResources.devices_of` without names of the operator's own."""
    return _PUBLIC.devices_of(node)
