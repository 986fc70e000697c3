"""The catalogue: exact figures, null where nobody says, names that exporters report."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth import catalogue
from berth.catalogue import Peak

MINIMAL = """
sources: {page: a vendor's page}
stacks: {CUDA: nvidia.com/gpu, oneDNN: null}
accelerators:
  - {name: X1, vendor: V, class: GPU, stack: CUDA, memory_gb: 3.35, confidence: S, sources: [page],
     aliases: [Vendor X1]}
  - {name: X2, vendor: V, class: CPU, stack: oneDNN, confidence: U, sources: []}
"""


def known(name: str) -> catalogue.Accelerator:
    found = catalogue.by_name(name)
    assert found is not None, name
    return found


@pytest.mark.parametrize(
    ("name", "memory", "bandwidth", "tdp", "link", "scale_up"),
    [
        ("H100-SXM", 80_000_000_000, 3.35e12, 700, 900e9, 8),
        ("H200", 141_000_000_000, 4.8e12, 700, 900e9, 8),
        ("GB200", 186_000_000_000, 8e12, 1200, 1800e9, 72),
        ("A100-40-SXM", 40_000_000_000, 1.555e12, 400, 600e9, 8),
        ("L4", 24_000_000_000, 0.3e12, 72, None, None),
        ("MI300X", 192_000_000_000, 5.3e12, 750, 896e9, 8),
        ("Gaudi3", 128_000_000_000, 3.67e12, 900, 1200e9, None),
        ("TPU-v6e", 32_000_000_000, None, None, None, 256),
        ("Groq-LPU-v1", 230_000_000, 80e12, 300, None, 72),
        ("Cerebras-WSE-3", 44_000_000_000, 21e15, 23000, None, 1),
        ("G2", None, None, 150, None, None),
        ("EPYC", None, None, None, None, None),
    ],
)
def test_figures_are_those_of_the_sources(
    name: str,
    memory: int | None,
    bandwidth: float | None,
    tdp: float | None,
    link: float | None,
    scale_up: int | None,
) -> None:
    entry = known(name)
    assert (
        entry.memory_bytes,
        entry.memory_bandwidth,
        entry.tdp_watts,
        entry.link_bandwidth,
        entry.scale_up_size,
    ) == (memory, bandwidth, tdp, link, scale_up)


def test_peaks_are_dense_unless_flagged() -> None:
    assert known("H100-SXM").peaks == (
        Peak("fp16", 989, False),
        Peak("fp8", 1979, False),
        Peak("int8", 1979, False),
    )
    assert [entry.name for entry in catalogue.load() if any(peak.sparse for peak in entry.peaks)] == ["Cerebras-WSE-3"]
    # A sparse peak is no answer to the question for a dense one.
    assert known("Cerebras-WSE-3").peak("fp16") is None
    assert known("H100-SXM").peak("BF16") == 989
    assert known("A100-80-SXM").peak("fp8") is None


def test_unknown_is_none_and_never_zero() -> None:
    for entry in catalogue.load():
        for figure in (
            entry.memory_bytes,
            entry.memory_bandwidth,
            entry.tdp_watts,
            entry.link_bandwidth,
            entry.price_per_hour,
        ):
            assert figure is None or figure > 0, entry.name


def test_every_figure_has_a_source_or_is_marked_unverified() -> None:
    for entry in catalogue.load():
        assert entry.sources or entry.confidence == "U", entry.name


def test_the_lowest_price_is_told_with_its_provider() -> None:
    assert (known("B200").price_per_hour, known("B200").price_source) == (5.50, "Nebius")
    assert (known("MI300X").price_per_hour, known("MI300X").price_source) == (None, "")


def test_partitions_are_nvidias_and_absent_where_there_are_none() -> None:
    h200 = known("H200")
    assert [(one.name, one.compute_slices, one.memory_slices, one.starts) for one in h200.partitions] == [
        ("1g.18gb", 1, 1, (0, 1, 2, 3, 4, 5, 6)),
        ("1g.35gb", 1, 2, (0, 2, 4, 6)),
        ("2g.35gb", 2, 2, (0, 2, 4)),
        ("3g.71gb", 3, 4, (0, 4)),
        ("4g.71gb", 4, 4, (0,)),
        ("7g.141gb", 7, 8, (0,)),
    ]
    assert [one.memory_bytes for one in known("A100-40-SXM").partitions] == [n * 10**9 for n in (5, 10, 10, 20, 20, 40)]
    for entry in catalogue.load():
        assert bool(entry.partitions) == (entry.name in CUT), entry.name


CUT = {"H100-SXM", "H100-PCIe", "H200", "B200", "A100-40-SXM", "A100-80-SXM"}


@pytest.mark.parametrize(
    ("layout", "named", "message"),
    [
        ("{1g: {compute: 1, memory: 1, starts: [0]}}", "2g", "X1: partitions.part: '2g': one of 1g"),
        ("{1g: {compute: 8, memory: 1, starts: [0]}}", "1g", "does not lie within 7 and 8 slices"),
        ("{1g: {compute: 1, memory: 4, starts: [0, 5]}}", "1g", "does not lie within 7 and 8 slices"),
        ("{1g: {compute: 1, memory: 1, starts: []}}", "1g", "does not lie within 7 and 8 slices"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(layout: str, named: str, message: str) -> None:
    text = MINIMAL.replace("accelerators:", f"layouts: {layout}\naccelerators:", 1)
    text = text.replace("sources: [page],", f"sources: [page], partitions: {{part: {named}}},", 1)
    with pytest.raises(ValueError, match=message):
        catalogue.parse(text)


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100-SXM"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100-80-SXM"),
        ("Tesla T4", "T4"),
        ("NVIDIA L40S", "L40S"),
        ("AMD Instinct MI300X", "MI300X"),
        ("AMD_Instinct_MI300X_OAM", "MI300X"),
        ("Intel(R) Data Center GPU Max 1550", "Max-1550"),
        ("HL-325L", "Gaudi3"),
        ("tpu-v5-lite-podslice", "TPU-v5e"),
        ("V100M16", "V100-16"),
        ("V100M32", "V100-32"),
        ("k80", "K80"),
        ("p100", "P100"),
        ("v100", "V100-16"),
        ("x86_64", "CPU"),
    ],
)
def test_reported_names_resolve(reported: str, name: str) -> None:
    assert catalogue.resolve(reported) is known(name)


@pytest.mark.parametrize("reported", ["", "NVIDIA", "Tesla", "H100", "NVIDIA RTX A6000", "<html>"])
def test_what_is_not_one_model_is_unknown(reported: str) -> None:
    assert catalogue.resolve(reported) is None


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("H100", "H100-SXM"),
        ("h100-sxn", "H100-SXM"),
        ("L40", "L40S"),
        ("Gaudi", "Gaudi2"),
        ("MI300", "MI300X"),
    ],
)
def test_nearest_names(typed: str, meant: str) -> None:
    assert meant in catalogue.nearest(typed)


def test_the_nearest_begins_as_what_was_typed() -> None:
    assert catalogue.nearest("H1000")[0].startswith("H100")


@given(st.text(max_size=40))
def test_any_text_is_looked_up_without_an_error(text: str) -> None:
    assert all(catalogue.by_name(name) is not None for name in catalogue.nearest(text))
    found = catalogue.resolve(text)
    assert found is None or found in catalogue.load()


@given(st.sampled_from(catalogue.load()))
def test_each_name_and_alias_resolves_to_its_own_entry(entry: catalogue.Accelerator) -> None:
    assert {catalogue.resolve(alias) for alias in (entry.name, *entry.aliases)} == {entry}


def test_a_minimal_file() -> None:
    first, second = catalogue.parse(MINIMAL)
    assert (first.memory_bytes, first.kubernetes_resource, first.sources) == (
        3_350_000_000,
        "nvidia.com/gpu",
        ("a vendor's page",),
    )
    assert (second.memory_bytes, second.kubernetes_resource, second.peaks) == (None, "", ())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("memory_gb: 3.35", "memory_gb: 0", "X1: memory_gb: 0"),
        ("memory_gb: 3.35", "memory_gb: many", "X1: memory_gb: 'many'"),
        ("memory_gb: 3.35", "memory: 3", "X1: unknown keys"),
        ("class: GPU", "class: TOASTER", "X1: class: 'TOASTER'"),
        ("stack: CUDA,", "stack: None,", "X1: stack"),
        ("sources: [page]", "sources: [hearsay]", "X1: sources"),
        ("aliases: [Vendor X1]", "aliases: [x-2]", "means X1 already"),
        ("aliases: [Vendor X1]", "aliases: [x-1]", "X1: aliases: one repeats"),
        ("memory_gb: 3.35", "peaks: {fp16: 0}", r"X1: peaks\.fp16: 0"),
    ],
)
def test_a_broken_entry_is_named(old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        catalogue.parse(MINIMAL.replace(old, new))
