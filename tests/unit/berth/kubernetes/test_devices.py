"""Device plugins' resources: what a pod asks for and what a node has, of every vendor."""

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from berth import catalogue
from berth.errors import InvalidInput
from berth.kubernetes.devices import AdvertisedDevices, DeviceResources, ResourceClaimOf, claim_of, devices_of
from berth.kubernetes.instance_types import MODELS


def labelled(allocatable: dict[str, Any], labels: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"name": "n1", "labels": labels}, "status": {"allocatable": allocatable}}


@pytest.mark.parametrize(
    ("resource", "device_class", "stack", "partition"),
    [
        ("nvidia.com/gpu", "GPU", "CUDA", ""),
        ("nvidia.com/mig-1g.10gb", "GPU", "CUDA", "1g.10gb"),
        ("nvidia.com/mig-1g.10gb.me", "GPU", "CUDA", "1g.10gb+me"),
        ("amd.com/gpu", "GPU", "ROCm", ""),
        ("gpu.intel.com/xe", "GPU", "oneAPI", ""),
        ("gpu.intel.com/i915", "GPU", "oneAPI", ""),
        ("habana.ai/gaudi", "ASIC", "SynapseAI", ""),
        ("google.com/tpu", "ASIC", "XLA", ""),
        ("aws.amazon.com/neuron", "ASIC", "Neuron", ""),
        ("aws.amazon.com/neurondevice", "ASIC", "Neuron", ""),
    ],
)
def test_what_a_resource_asks_for(resource: str, device_class: str, stack: str, partition: str) -> None:
    assert claim_of(resource) == ResourceClaimOf(resource, device_class, stack, partition=partition)


@pytest.mark.parametrize("resource", ["cpu", "memory", "hugepages-2Mi", "ephemeral-storage", "example.com/fpga", ""])
def test_what_is_no_device(resource: str) -> None:
    assert claim_of(resource) is None


def test_parts_of_devices_are_refused_with_what_to_ask_for() -> None:
    for resource, instead in (
        ("aws.amazon.com/neuroncore", "aws.amazon.com/neuron"),
        ("nvidia.com/gpu.shared", "nvidia.com/gpu"),
    ):
        claim = claim_of(resource)
        assert claim is not None
        assert instead in claim.refusal


def test_partitions_of_the_catalogue_are_resources_of_the_plugin() -> None:
    for entry in catalogue.load():
        for partition in entry.partitions:
            claim = claim_of(f"nvidia.com/mig-{partition.name}")
            assert claim is not None
            assert claim.partition == partition.name


@pytest.mark.parametrize(
    ("resource", "labels", "model"),
    [
        ("nvidia.com/gpu", {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}, "H100-SXM"),
        ("nvidia.com/gpu", {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"}, "A100-40-SXM"),
        ("nvidia.com/gpu", {"nvidia.com/gpu.product": "Tesla-T4"}, "T4"),
        ("nvidia.com/gpu", {"nvidia.com/gpu.product": "Tesla-V100-SXM3-32GB"}, "V100-32"),
        ("nvidia.com/gpu", {"nvidia.com/gpu.product": "NVIDIA-GB200"}, "GB200"),
        ("nvidia.com/gpu", {"cloud.google.com/gke-accelerator": "nvidia-h100-mega-80gb"}, "H100-SXM"),
        ("nvidia.com/gpu", {"cloud.google.com/gke-accelerator": "nvidia-tesla-a100"}, "A100-40-SXM"),
        ("nvidia.com/gpu", {"node.kubernetes.io/instance-type": "p5.48xlarge"}, "H100-SXM"),
        ("nvidia.com/gpu", {"node.kubernetes.io/instance-type": "p5en.48xlarge"}, "H200"),
        ("amd.com/gpu", {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM"}, "MI300X"),
        ("amd.com/gpu", {"beta.amd.com/gpu.product-name": "AMD_Instinct_MI325X_OAM"}, "MI325X"),
        ("amd.com/gpu", {"beta.amd.com/gpu.product-name.AMD_Instinct_MI300X_OAM": "8"}, "MI300X"),
        ("amd.com/gpu", {"node.kubernetes.io/instance-type": "Standard_ND96isr_MI300X_v5"}, "MI300X"),
        ("gpu.intel.com/xe", {"gpu.intel.com/product": "Max_1550"}, "Max-1550"),
        ("habana.ai/gaudi", {"habana.ai/product.name": "HL-325L"}, "Gaudi3"),
        ("habana.ai/gaudi", {"berth.dev/accelerator": "Gaudi2"}, "Gaudi2"),
        ("google.com/tpu", {"cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice"}, "TPU-v5e"),
        ("google.com/tpu", {"cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice"}, "TPU-v6e"),
        ("google.com/tpu", {"cloud.google.com/gke-tpu-accelerator": "tpu7x"}, "TPU7x"),
        ("aws.amazon.com/neuron", {"node.kubernetes.io/instance-type": "trn2.48xlarge"}, "Trainium2"),
        ("aws.amazon.com/neuron", {"node.kubernetes.io/instance-type": "inf2.xlarge"}, "Inferentia2"),
        # The operator's word is the last, where it can be true.
        ("nvidia.com/gpu", {"nvidia.com/gpu.product": "NVIDIA-L4", "berth.dev/accelerator": "L40S"}, "L40S"),
        ("nvidia.com/gpu", {"nvidia.com/gpu.product": "NVIDIA-L4", "berth.dev/accelerator": "MI300X"}, "L4"),
    ],
)
def test_the_model_by_the_labels(resource: str, labels: dict[str, str], model: str) -> None:
    (found,) = devices_of(labelled({resource: "4", "cpu": "8", "memory": "1Gi"}, labels))
    entry = catalogue.by_name(model)
    assert entry is not None
    assert (found.model, found.count, found.device_class, found.stack) == (model, 4, entry.device_class, entry.stack)
    assert found.memory_bytes == (entry.memory_bytes or 0)


def test_an_unknown_model_is_said_once_with_the_nearest_names() -> None:
    resources = DeviceResources()
    thing = labelled({"nvidia.com/gpu": "2"}, {"nvidia.com/gpu.product": "NVIDIA-A100-PCIE-40GB"})
    with capture_logs() as said:
        for _ in range(3):
            assert resources.devices_of(thing) == (
                AdvertisedDevices("nvidia.com/gpu", 2, "GPU", "CUDA", reported_model="NVIDIA-A100-PCIE-40GB"),
            )
    assert len(said) == 1
    assert "A100-40-SXM" in said[0]["nearest"]
    assert "berth.dev/accelerator" in said[0]["remedy"]


def test_mig_by_either_strategy_is_cuts_of_the_model() -> None:
    product = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB", "nvidia.com/gpu.memory": "40960"}
    mixed = devices_of(
        labelled({"nvidia.com/gpu": "0", "nvidia.com/mig-1g.5gb": "7", "nvidia.com/mig-3g.20gb": "2"}, product)
    )
    assert [(one.partition, one.count, one.model, one.memory_bytes) for one in mixed] == [
        ("1g.5gb", 7, "A100-40-SXM", 5_000_000_000), ("3g.20gb", 2, "A100-40-SXM", 20_000_000_000),
    ]  # fmt: skip
    (single,) = devices_of(
        labelled({"nvidia.com/gpu": "14"}, {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb"})
    )
    assert (single.partition, single.count, single.model) == ("1g.5gb", 14, "A100-40-SXM")


def test_time_slices_stand_for_the_same_device() -> None:
    labels = {
        "nvidia.com/gpu.product": "NVIDIA-L4-SHARED",
        "nvidia.com/gpu.replicas": "4",
        "nvidia.com/gpu.memory": "23034",
    }
    (found,) = devices_of(labelled({"nvidia.com/gpu": "8"}, labels))
    assert (found.count, found.model, found.memory_bytes) == (2, "L4", 23034 << 20)


def test_one_device_under_two_names_counts_once_and_two_drivers_count_both() -> None:
    both = devices_of(
        labelled(
            {"aws.amazon.com/neuron": "16", "aws.amazon.com/neurondevice": "16", "aws.amazon.com/neuroncore": "32"}, {}
        )
    )
    assert [(one.resource, one.count) for one in both] == [("aws.amazon.com/neuron", 16)]
    drivers = devices_of(labelled({"gpu.intel.com/xe": "2", "gpu.intel.com/i915": "1"}, {}))
    assert [(one.resource, one.count) for one in drivers] == [("gpu.intel.com/i915", 1), ("gpu.intel.com/xe", 2)]


def test_a_count_that_cannot_be_read_loses_only_itself() -> None:
    with capture_logs() as said:
        found = DeviceResources().devices_of(labelled({"nvidia.com/gpu": "many", "amd.com/gpu": "2"}, {}))
    assert [one.resource for one in found] == ["amd.com/gpu"]
    assert any("status.allocatable.nvidia.com/gpu" in str(one) for one in said)
    assert devices_of({"metadata": {}}) == ()


def test_devices_that_requests_take() -> None:
    resources, has = (
        DeviceResources(),
        {"aws.amazon.com/neuron": "4", "aws.amazon.com/neuroncore": "8", "nvidia.com/gpu": "8"},
    )
    assert resources.devices_taken("nvidia.com/gpu", "3", has) == ("nvidia.com/gpu", 3)
    assert resources.devices_taken("aws.amazon.com/neuroncore", "3", has) == ("aws.amazon.com/neuron", 2)
    assert resources.devices_taken("aws.amazon.com/neurondevice", 1, has) == ("aws.amazon.com/neuron", 1)
    assert resources.devices_taken("cpu", "4", has) == ("", 0)


def test_names_of_the_operators_own(tmp_path: Path) -> None:
    file = tmp_path / "resources.yaml"
    file.write_text("groq.example.com/lpu: Groq-LPU-v1\nexample.com/wafer: CS-3\nexample.com/rdu: SN40L\n")
    resources = DeviceResources.read(file)
    assert resources.claim_of("groq.example.com/lpu") == ResourceClaimOf(
        "groq.example.com/lpu", "LPU", "GroqWare", models=("Groq-LPU-v1",)
    )
    found = resources.devices_of(labelled({"example.com/wafer": "1", "example.com/rdu": "16"}, {}))
    assert [(one.model, one.device_class, one.count) for one in found] == [
        ("SN40L", "RDU", 16),
        ("Cerebras-WSE-3", "WAFER", 1),
    ]
    assert DeviceResources.read(None).claim_of("example.com/wafer") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("example.com/x: WSE-9000\nwafer: WSE-3", "WSE-9000.*Cerebras.*wafer.*domain/name"),
        ("[a, b]", "write a mapping"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_a_file_that_is_wrong_says_every_error(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "resources.yaml"
    file.write_text(text)
    with pytest.raises(InvalidInput, match=said):
        DeviceResources.read(file)
    with pytest.raises(InvalidInput, match="cannot be read"):
        DeviceResources.read(tmp_path / "absent.yaml")


def test_machine_types_name_models_of_the_catalogue() -> None:
    assert all(catalogue.by_name(model) is not None for model in MODELS.values())
