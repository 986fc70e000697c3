"""The environment of one member's process. Pure.

Precedence, lowest first: the few variables a program needs of its surroundings, the job's own, Berth's. A job
cannot widen what it may see; it may choose its own OMP_NUM_THREADS.
"""

from collections.abc import Callable, Mapping
from typing import Final

from binder.domain.attempt import Attempt
from binder.domain.work import DeviceClaim, Member, Work

__all__ = ["VISIBILITY", "member_environment"]

# By software stack. ROCm is special: HIP counts within what ROCR left visible
# (rocm.docs.amd.com, "GPU isolation techniques").
VISIBILITY: Final[Mapping[str, str]] = {
    "CUDA": "CUDA_VISIBLE_DEVICES",
    "ROCm": "ROCR_VISIBLE_DEVICES",
    "SynapseAI": "HABANA_VISIBLE_DEVICES",
    "oneAPI": "ZE_AFFINITY_MASK",
    "XLA": "TPU_VISIBLE_CHIPS",
}

# Never the binder's whole environment: it holds its keys.
INHERITED: Final = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH"}
    | {"CUDA_HOME", "ROCM_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "VIRTUAL_ENV", "TERM"}
)


def member_environment(
    attempt: Attempt,
    work: Work,
    member: Member,
    *,
    surroundings: Mapping[str, str],
    stack_of: Callable[[str], str],
) -> dict[str, str]:
    """`surroundings`: the binder's environment; `stack_of`: software stack of a catalogue name, "" if unknown."""
    environment = {name: value for name, value in surroundings.items() if name in INHERITED or name.startswith("LC_")}
    if member.cpu_milli > 0:
        environment["OMP_NUM_THREADS"] = str(max(1, member.cpu_milli // 1000))
    if work.command is not None:
        environment.update(work.command.environment)
    for name in ("HIP_VISIBLE_DEVICES", *VISIBILITY.values()):
        environment.pop(name, None)
    environment.update(_visible(member.devices, stack_of))
    environment.update(
        BERTH_JOB_ID=attempt.id.job_id,
        BERTH_ATTEMPT=str(attempt.id.attempt),
        BERTH_MEMBER=str(member.member),
        BERTH_GANG_SIZE=str(len(work.members)),
        BERTH_NODE=member.node,
        BERTH_DEVICES=",".join(claim.device_id for claim in member.devices),
    )
    if attempt.traceparent:
        environment["TRACEPARENT"] = attempt.traceparent
    return environment


def _visible(devices: tuple[DeviceClaim, ...], stack_of: Callable[[str], str]) -> dict[str, str]:
    by_stack: dict[str, list[str]] = {}
    for claim in devices:
        stack = stack_of(claim.model)
        if not stack and claim.device_id.startswith(("GPU-", "MIG-")):
            stack = "CUDA"  # NVIDIA's form of a UUID, on a model that the catalogue does not have
        by_stack.setdefault(stack, []).append(str(claim.index))
    visible = {variable: ",".join(by_stack[stack]) for stack, variable in VISIBILITY.items() if stack in by_stack}
    if "CUDA" in by_stack:
        # Indices are NVML's, which counts by bus; CUDA's own default counts the fastest first.
        visible["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    elif "ROCm" in by_stack:
        visible["HIP_VISIBLE_DEVICES"] = ",".join(map(str, range(len(by_stack["ROCm"]))))
    else:
        visible["CUDA_VISIBLE_DEVICES"] = ""
    return visible
