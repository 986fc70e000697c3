"""Each exporter's page as devices: units, sentinels, sensors that are not there."""

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from berth.errors import InvalidInput
from telemetry_ingest.domain.counters import Counters
from telemetry_ingest.domain.formats import FORMATS, detect, normalise
from telemetry_ingest.domain.model import DeviceReading, NodeReading, Observation, ObservedDevice
from tests.unit.telemetry_ingest import pages

MIB = 1 << 20


def seen(text: str, *, format: str = "auto", now: float = 10.0, counters: Counters | None = None) -> Observation:
    return normalise(text, format=format, node="n", now=now, counters=counters or Counters())


def reading(text: str, **more: object) -> DeviceReading:
    (device,) = seen(text, **more).devices  # type: ignore[arg-type]
    return device.reading


def gpu(metric: str, value: str, extra: str = "") -> str:
    return f'DCGM_FI_DEV_{metric}{{gpu="0",UUID="GPU-a"{extra}}} {value}\n'


def test_dcgm() -> None:
    observation = seen(pages.DCGM)
    assert observation == Observation(
        "dcgm",
        (
            ObservedDevice(
                "GPU-a",
                0,
                "NVIDIA H100 80GB HBM3",
                "GPU",
                "CUDA",
                DeviceReading(
                    memory_used_bytes=1559 * MIB,
                    memory_total_bytes=81559 * MIB,
                    temperature_celsius=61.0,
                    memory_temperature_celsius=70.0,
                    slowdown_celsius=90.0,
                    memory_max_celsius=95.0,
                    margin_celsius=26.0,
                    power_watts=402.5,
                    power_limit_watts=650.0,
                    utilisation=0.97,
                    error_code=79,
                ),
                memory_bytes=81559 * MIB,
                power_limit_watts=650.0,
            ),
            ObservedDevice("GPU-b", 1, "NVIDIA H100 80GB HBM3", "GPU", "CUDA", DeviceReading(temperature_celsius=55.0)),
        ),
        hostname="n1",
    )


def test_dcgm_power_is_the_difference_of_energy_where_the_counter_moves() -> None:
    counters = Counters()
    first = gpu("POWER_USAGE", "400") + gpu("TOTAL_ENERGY_CONSUMPTION", "1000000")
    assert reading(first, now=10.0, counters=counters).power_watts == 400
    moved = gpu("POWER_USAGE", "400") + gpu("TOTAL_ENERGY_CONSUMPTION", "2500000")
    assert reading(moved, now=15.0, counters=counters).power_watts == 300.0
    # A cached page: the counter stands still, the device does not draw 0 W.
    assert reading(moved, now=20.0, counters=counters).power_watts == 400
    # After a standstill the moment of the step is not known.
    later = gpu("POWER_USAGE", "410") + gpu("TOTAL_ENERGY_CONSUMPTION", "4500000")
    assert reading(later, now=25.0, counters=counters).power_watts == 410
    # The driver was loaded anew.
    reset = gpu("POWER_USAGE", "50") + gpu("TOTAL_ENERGY_CONSUMPTION", "1000")
    assert reading(reset, now=30.0, counters=counters).power_watts == 50
    # A monotonic clock cannot run backwards, and if it did nothing would be negative.
    assert reading(later, now=29.0, counters=counters).power_watts == 410


@pytest.mark.parametrize(
    "blank", ["9223372036854775794", "9223372036854775792", "2147483632", "140737488355328", "NaN"]
)
def test_dcgm_sentinels_are_unknown(blank: str) -> None:
    names = [
        "FB_USED",
        "FB_FREE",
        "GPU_TEMP",
        "MEMORY_TEMP",
        "POWER_USAGE",
        "TOTAL_ENERGY_CONSUMPTION",
        "GPU_UTIL",
        "XID_ERRORS",
        "GPU_TEMP_LIMIT",
        "SLOWDOWN_TEMP",
        "ENFORCED_POWER_LIMIT",
        "CLOCKS_EVENT_REASONS",
    ]
    counters = Counters()
    page = "".join(gpu(name, blank) for name in names)
    assert reading(page, counters=counters) == DeviceReading()
    assert reading(page, counters=counters, now=20.0) == DeviceReading()


def test_dcgm_memory_temperature_of_0_is_no_sensor() -> None:
    page = gpu("GPU_TEMP", "40") + gpu("MEMORY_TEMP", "0")
    assert reading(page) == DeviceReading(temperature_celsius=40.0)


@pytest.mark.parametrize("name", ["CLOCKS_EVENT_REASONS", "CLOCK_THROTTLE_REASONS", "CLOCKS_EVENT_REASONS_total"])
def test_dcgm_throttle_bits_under_old_and_new_names(name: str) -> None:
    assert reading(gpu(name, "68")).throttle_bits == 0x44


def test_dcgm_virtual_gpu_says_nothing_of_heat_and_power() -> None:
    assert reading(gpu("FB_USED", "100") + gpu("FB_FREE", "900")) == DeviceReading(
        memory_used_bytes=100 * MIB, memory_total_bytes=1000 * MIB
    )


def test_dcgm_errors_of_programs_do_not_condemn_the_device() -> None:
    # A program's own errors too: the engine knows which codes speak of the device.
    assert reading(gpu("XID_ERRORS", "31")).error_code == 31
    assert reading(gpu("XID_ERRORS", "48") + gpu("XID_ERRORS", "0", ',err_code="0"')).error_code == 48
    assert reading(gpu("ROW_REMAP_FAILURE", "1")).healthy is False


def test_dcgm_mig_instances_are_devices_and_do_not_multiply_power() -> None:
    cut = ',GPU_I_PROFILE="1g.10gb",GPU_I_ID="%d"'
    page = gpu("POWER_USAGE", "300") + gpu("GPU_TEMP", "50")
    page += gpu("FB_USED", "10", cut % 7) + gpu("FB_FREE", "90", cut % 7) + gpu("POWER_USAGE", "300", cut % 7)
    page += gpu("FB_USED", "20", cut % 8) + gpu("FB_FREE", "80", cut % 8)
    assert {device.device_id: device.reading for device in seen(page).devices} == {
        f"GPU-a/{instance}": DeviceReading(
            memory_used_bytes=used * MIB, memory_total_bytes=100 * MIB, temperature_celsius=50.0
        )
        for instance, used in ((7, 10), (8, 20))
    }


def test_amd() -> None:
    observation = seen(pages.AMD)
    card, partition = observation.devices
    assert (observation.hostname, card.device_id, partition.device_id) == ("n2", "AMD-S1", "AMD-S1/1")
    assert card.reading == DeviceReading(
        memory_used_bytes=283 * MIB,
        memory_total_bytes=196592 * MIB,
        temperature_celsius=66.0,
        memory_temperature_celsius=55.0,
        power_watts=512.0,
        utilisation=0.4,
        throttle_bits=0x4,
        healthy=True,
    )
    assert partition.reading == DeviceReading()
    assert (card.stack, card.reported_model) == ("ROCm", "AMD Instinct MI300X OAM")
    # The same page without the prefix, and in the first releases' upper case.
    assert seen(pages.AMD.replace("amd_", "")) == observation
    upper = pages.AMD.replace("amd_", "")
    for name in {line.partition("{")[0] for line in upper.splitlines()}:
        upper = upper.replace(name + "{", name.upper() + "{")
    assert seen(upper) == observation


def test_amd_energy_and_accumulated_violations() -> None:
    def page(microjoules: int, hot: int) -> str:
        return (
            f'gpu_average_package_power{{gpu_id="0"}} 90\ngpu_energy_consumed{{gpu_id="0"}} {microjoules}\n'
            f'gpu_violation_processor_hot_residency_accumulated{{gpu_id="0"}} {hot}\n'
        )

    counters = Counters()
    assert reading(page(10**6, 5), counters=counters, now=10.0) == DeviceReading(power_watts=90.0)
    again = reading(page(501 * 10**6, 6), counters=counters, now=15.0)
    assert again == DeviceReading(power_watts=100.0, throttle_bits=0x40)
    assert seen(page(1, 1)).devices[0].device_id == "n/0"


def test_xpum() -> None:
    (device,) = seen(pages.XPUM).devices
    assert device == ObservedDevice(
        "U1",
        0,
        "Intel(R) Data Center GPU Max 1550",
        "GPU",
        "oneAPI",
        DeviceReading(
            memory_used_bytes=3_000_000_000,
            temperature_celsius=52.0,
            memory_temperature_celsius=44.0,
            power_watts=330.5,
            utilisation=0.75,
        ),
    )


def test_intel_hw() -> None:
    (device,) = seen(pages.HW).devices
    assert device.device_id == "n/0000:4d:00.0"
    assert device.reading == DeviceReading(
        memory_used_bytes=64_000_000_000,
        memory_total_bytes=128_000_000_000,
        temperature_celsius=41.0,
        memory_temperature_celsius=39.0,
        power_watts=220.0,
        utilisation=0.25,
        healthy=False,
    )


def test_gaudi() -> None:
    (device,) = seen(pages.GAUDI).devices
    assert device == ObservedDevice(
        "01P0-x",
        3,
        "HL-325L",
        "ASIC",
        "SynapseAI",
        DeviceReading(
            memory_used_bytes=1 << 30,
            memory_total_bytes=128 << 30,
            temperature_celsius=52.0,
            slowdown_celsius=99.0,
            power_watts=431.5,
            power_limit_watts=900.0,
            utilisation=0.35,
        ),
        memory_bytes=128 << 30,
        power_limit_watts=900.0,
    )


def test_sambanova_and_its_chassis() -> None:
    counters = Counters()
    first = seen(pages.SAMBANOVA, counters=counters)
    assert [(device.device_id, device.index, device.reading) for device in first.devices] == [
        ("n/xrdu0/rdu0", 0, DeviceReading(utilisation=pytest.approx(0.3))),
        ("n/xrdu0/rdu1", 1, DeviceReading(utilisation=1.0)),
    ]
    errors = pages.SAMBANOVA.replace("error_count 3", "error_count 4")
    assert {device.reading.healthy for device in seen(errors, counters=counters, now=20.0).devices} == {False}
    assert seen(pages.XRDU) == Observation(
        "xrdu", node=NodeReading(inlet_celsius=23.5), shared=DeviceReading(temperature_celsius=61.0)
    )


def test_host() -> None:
    counters = Counters()
    first = seen(pages.HOST, counters=counters, now=10.0)
    node = NodeReading(memory_used_bytes=40_000_000_000, memory_total_bytes=100_000_000_000, boot_time=1.7e9)
    assert first == Observation("node_exporter", node=node)
    later = (
        pages.HOST.replace('mode="user"} 50', 'mode="user"} 57')
        .replace('cpu="0",mode="idle"} 100', 'cpu="0",mode="idle"} 103')
        .replace('cpu="1",mode="idle"} 100', 'cpu="1",mode="idle"} 110')
        .replace('path="p0"} 1000', 'path="p0"} 1500')
        .replace('path="p1"} 2000', 'path="p1"} 2250')
    )
    second = seen(later, counters=counters, now=20.0)
    assert second == Observation("node_exporter", node=replace(node, cpu_watts=75.0, cpu_utilisation=0.35))


def test_host_as_a_device() -> None:
    (device,) = seen(pages.HOST, format="node_exporter_cpu").devices
    assert device == ObservedDevice(
        "n/cpu",
        0,
        "",
        "CPU",
        "oneDNN",
        DeviceReading(
            memory_used_bytes=40_000_000_000,
            memory_total_bytes=100_000_000_000,
            # The disk's 71 degrees are not the CPU's.
            temperature_celsius=47.0,
            slowdown_celsius=100.0,
        ),
        memory_bytes=100_000_000_000,
    )


def test_kepler() -> None:
    page = (
        'kepler_node_cpu_watts{zone="package"} 80\nkepler_node_cpu_watts{zone="core"} 60\nkepler_platform_watts 300\n'
    )
    assert seen(page) == Observation("kepler", node=NodeReading(power_watts=300.0, cpu_watts=80.0))


@pytest.mark.parametrize(
    ("page", "name"),
    [
        (pages.DCGM, "dcgm"),
        (pages.AMD, "amd"),
        (pages.XPUM, "xpum"),
        (pages.HW, "intel_hw"),
        (pages.GAUDI, "gaudi"),
        (pages.SAMBANOVA, "sambanova"),
        (pages.XRDU, "xrdu"),
        (pages.HOST, "node_exporter"),
    ],
)
def test_formats_are_detected(page: str, name: str) -> None:
    assert detect(page).name == name
    assert name in FORMATS


@pytest.mark.parametrize(
    ("page", "format", "says"),
    [
        (pages.HTML, "dcgm", "content-type: 'HTML'"),
        ("go_goroutines 12\n", "auto", "'go_goroutines 12': no metric of a known exporter"),
        ("# HELP DCGM_FI_DEV_GPU_TEMP x\n", "auto", "no metric of a known exporter"),
        (pages.HOST, "dcgm", "'dcgm': the page holds no metric of this format"),
        (pages.DCGM, "dgcm", "format: 'dgcm': use one of: auto, dcgm"),
        (pages.DCGM[:-30], "dcgm", "line 16: .* broken or cut off"),
    ],
)
def test_a_page_of_no_use_says_why(page: str, format: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        seen(page, format=format)


def test_the_page_has_a_time_of_its_own() -> None:
    assert seen('DCGM_FI_DEV_GPU_TEMP{UUID="a"} 1 1700000000500\n').source_time == 1700000000.5


# -- real pages ------------------------------------------------------------------------------------


def test_the_real_t4_page(data_folder: Path) -> None:
    observation = seen((data_folder / "exporters/dcgm_t4.prom").read_text())
    assert observation == Observation(
        "dcgm",
        (
            ObservedDevice(
                "GPU-6d5c0ac5-74d7-3130-46f1-e93ed57f469a",
                0,
                "Tesla T4",
                "GPU",
                "CUDA",
                DeviceReading(
                    memory_used_bytes=(5120 + 447) * MIB,
                    memory_total_bytes=15358 * MIB,
                    temperature_celsius=74.0,
                    power_watts=68.244,
                    utilisation=0.91,
                ),
                memory_bytes=15358 * MIB,
            ),
        ),
        hostname="cp-bm14r7",
    )


def test_the_real_l40s_page(data_folder: Path) -> None:
    (device,) = seen((data_folder / "exporters/dcgm_l40s.prom").read_text()).devices
    assert device.device_id == "GPU-5b4e07f6-3a86-4340-039d-25f2a83cdc43"
    assert device.reported_model == "NVIDIA L40S"
    assert device.reading == DeviceReading(
        memory_used_bytes=608 * MIB,
        memory_total_bytes=46067 * MIB,
        temperature_celsius=32.0,
        power_watts=35.686,
        utilisation=0.0,
        healthy=None,
    )


def test_the_real_node_exporter_page(data_folder: Path) -> None:
    text = gzip.decompress((data_folder / "exporters/node_exporter.prom.gz").read_bytes()).decode("utf-8", "replace")
    counters = Counters()
    (device,) = seen(text, format="node_exporter_cpu", counters=counters).devices
    assert device.reported_model == "Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz"
    assert device.reading == DeviceReading(
        memory_total_bytes=3831959552, temperature_celsius=55.0, slowdown_celsius=100.0
    )
    # 300 J more in 5 s on the only package, and 1 s of work on one of 8 CPUs' 8 s.
    later = text.replace(" 240422.366267", " 240722.366267").replace(
        'cpu="0",mode="user"} 444.9', 'cpu="0",mode="user"} 445.9'
    )
    later = later.replace('cpu="1",mode="idle"} 11107.87', 'cpu="1",mode="idle"} 11110.87')
    again = seen(later, format="node_exporter_cpu", counters=counters, now=15.0)
    assert again.node.cpu_watts == pytest.approx(60.0)
    assert again.node.cpu_utilisation == pytest.approx(0.25)
    assert again.node.boot_time == 1418183276.0
    assert again.devices[0].reading.throttle_bits == 0
