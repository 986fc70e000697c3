import pytest

from binder.domain.environment import member_environment
from binder.domain.work import Command, DeviceClaim, Member, Work
from tests.unit.binder.builders import make_attempt

STACKS = {"H100-SXM": "CUDA", "MI300X": "ROCm", "Gaudi3": "SynapseAI", "Max-1550": "oneAPI", "TPU-v5e": "XLA"}
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "HABANA_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "TPU_VISIBLE_CHIPS",
)


def environment(
    devices: tuple[DeviceClaim, ...] = (), cpu_milli: int = 0, own: dict[str, str] | None = None
) -> dict[str, str]:
    member = Member(1, "n1", devices, cpu_milli)
    work = Work((Member(0, "n0"), member), Command(("true",), own or {}))
    return member_environment(
        make_attempt("j", 3, traceparent="00-t"),
        work,
        member,
        surroundings={
            "PATH": "/bin",
            "LC_ALL": "C",
            "BERTH_AUTH_KEY": "secret",
            "HIP_VISIBLE_DEVICES": "7",
            "PGPASSWORD": "x",
        },
        stack_of=lambda model: STACKS.get(model, ""),
    )


def claim(model: str, *indices: int, name: str = "d") -> tuple[DeviceClaim, ...]:
    return tuple(DeviceClaim(f"{name}{index}", index, 1000, model) for index in indices)


def test_a_member_knows_who_it_is_and_no_secret_of_the_binder() -> None:
    assert environment() == {
        "PATH": "/bin",
        "LC_ALL": "C",
        "CUDA_VISIBLE_DEVICES": "",
        "BERTH_JOB_ID": "j",
        "BERTH_ATTEMPT": "3",
        "BERTH_MEMBER": "1",
        "BERTH_GANG_SIZE": "2",
        "BERTH_NODE": "n1",
        "BERTH_DEVICES": "",
        "TRACEPARENT": "00-t",
    }


@pytest.mark.parametrize(
    ("devices", "visible"),
    [
        (claim("H100-SXM", 2, 5), {"CUDA_VISIBLE_DEVICES": "2,5", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}),
        # HIP counts within what ROCR left.
        (claim("MI300X", 2, 5), {"ROCR_VISIBLE_DEVICES": "2,5", "HIP_VISIBLE_DEVICES": "0,1"}),
        (claim("Gaudi3", 0), {"HABANA_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": ""}),
        (claim("Max-1550", 1), {"ZE_AFFINITY_MASK": "1", "CUDA_VISIBLE_DEVICES": ""}),
        (claim("TPU-v5e", 0, 1), {"TPU_VISIBLE_CHIPS": "0,1", "CUDA_VISIBLE_DEVICES": ""}),
        (claim("unheard-of", 4), {"CUDA_VISIBLE_DEVICES": ""}),
        (claim("unheard-of", 4, name="GPU-"), {"CUDA_VISIBLE_DEVICES": "4", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}),
    ],
)
def test_only_claimed_devices_are_visible(devices: tuple[DeviceClaim, ...], visible: dict[str, str]) -> None:
    found = environment(devices, own={name: "all" for name in VARIABLES if name != "CUDA_DEVICE_ORDER"})
    assert {name: value for name, value in found.items() if name in VARIABLES} == visible
    assert found["BERTH_DEVICES"] == ",".join(each.device_id for each in devices)


def test_threads_follow_the_cpu_unless_the_job_says_otherwise() -> None:
    assert environment(cpu_milli=2500)["OMP_NUM_THREADS"] == "2"
    assert environment(cpu_milli=200)["OMP_NUM_THREADS"] == "1"
    assert environment(cpu_milli=2500, own={"OMP_NUM_THREADS": "8"})["OMP_NUM_THREADS"] == "8"
    assert environment(own={"BERTH_MEMBER": "0"})["BERTH_MEMBER"] == "1"
