"""Extended resources of device plugins: what a unit of each is to Berth."""

from dataclasses import dataclass

__all__ = ["ResourceClaimOf", "claim_of"]

MIG_PREFIX = "nvidia.com/mig-"
KINDS = {
    "nvidia.com/gpu": ("GPU", "CUDA"),
    "amd.com/gpu": ("GPU", "ROCm"),
    "gpu.intel.com/xe": ("GPU", "oneAPI"),
    "habana.ai/gaudi": ("ASIC", "SynapseAI"),
    "google.com/tpu": ("ASIC", "XLA"),
    "aws.amazon.com/neuron": ("ASIC", "Neuron"),
}


@dataclass(frozen=True, slots=True)
class ResourceClaimOf:
    """A whole device of `stack`, or a `partition` of one. `refusal`: why Berth cannot give it; "": it can."""

    resource: str
    device_class: str
    stack: str
    models: tuple[str, ...] = ()
    partition: str = ""
    refusal: str = ""


def claim_of(resource: str) -> ResourceClaimOf | None:
    """What a pod asks for by that name. None: it is no device that is known."""
    if resource.startswith(MIG_PREFIX):
        return ResourceClaimOf(resource, "GPU", "CUDA", partition=resource.removeprefix(MIG_PREFIX))
    kind = KINDS.get(resource)
    return None if kind is None else ResourceClaimOf(resource, *kind)
