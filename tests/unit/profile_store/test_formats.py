"""Readers of other people's formats: each on a document of that format, compared whole; what is broken is refused."""

import asyncio
import gzip
import json
import random
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth import catalogue
from berth.errors import FieldError, InvalidInput
from profile_store.domain.importers import FORMATS, Hints, Imported, detect, read, unpacked
from profile_store.domain.importers.document import joined
from profile_store.domain.importers.numbers import Numbers
from profile_store.domain.importers.outcome import summary, without_unknown
from profile_store.domain.profile import Profile, ProfileKey, Provenance, configuration_of
from profile_store.domain.validation import validate
from profile_store.handlers import ProfileStore
from tests.unit.profile_store.builders import NOW, ProfilesInMemory, a_profile

HINTS = Hints(workload="llama", accelerator="H100-SXM")


def a_result(**changes: Any) -> dict[str, Any]:
    plain = {
        "Submitter": "Somebody", "Category": "closed", "Model": "llama2-70b-99", "Scenario": "Offline", "Nodes": 1,
        "Accelerator": "NVIDIA H100-SXM-80GB", "a#": 8, "Software": "TensorRT  10", "version": "v5.1", "errors": 0,
        "weight_data_types": "fp8", "Performance_Result": 30000.0, "Performance_Units": "Tokens/s",
    }  # fmt: skip
    return {**plain, **changes}


MLPERF = json.dumps(
    [
        a_result(),
        a_result(Performance_Result=32000.0, Software="TensorRT 11"),
        a_result(Scenario="SingleStream", Performance_Result=250.0, Performance_Units="Latency (ms)", **{"a#": 1}),
        a_result(Nodes=2, Power_Result=15000.0, Power_Units="Watts", weight_data_types="{'a': 'fp8', 'b': 'fp16'}"),
        a_result(Category="open"),
        a_result(Accelerator="", **{"a#": ""}),
        a_result(errors=1),
        a_result(Accelerator="AMD Instinct MI300X (x32), AMD Instinct MI325X (x16)"),
    ]
)
VLLM = {
    "date": "20260201-101500", "endpoint_type": "openai", "model_id": "meta-llama/Llama-3.1-8B", "num_prompts": 200,
    "request_rate": "inf", "max_concurrency": 32, "duration": 10.0, "completed": 200, "failed": 3,
    "total_input_tokens": 102400, "total_output_tokens": 25600, "request_throughput": 20.0,
    "output_throughput": 2560.0, "total_token_throughput": 12800.0, "mean_ttft_ms": 90.0, "median_ttft_ms": 80.0,
    "p99_ttft_ms": 200.0, "median_tpot_ms": 12.0, "p99_tpot_ms": 15.0, "median_e2el_ms": 1600.0, "p99_e2el_ms": 2000.0,
}  # fmt: skip
AIPERF = {
    "schema_version": "1.0", "aiperf_version": "0.5.0",
    "input_config": {"endpoint": {"model_names": ["Qwen/Qwen3-0.6B"]}, "loadgen": {"concurrency": 8}},
    "request_throughput": {"unit": "requests/sec", "avg": 7.5},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 1200.0},
    "request_latency": {"unit": "ms", "avg": 900.0, "p50": 880.0, "p90": 950.0, "p95": 980.0, "p99": 1100.0},
    "time_to_first_token": {"unit": "ms", "avg": 50.0, "p50": 45.0, "p99": 120.0},
    "inter_token_latency": {"unit": "us", "avg": 5300.0, "p50": 5000.0, "p99": 7000.0},
    "output_sequence_length": {"unit": "tokens", "avg": 159.6}, "request_count": {"unit": "requests", "avg": 400.0},
    "input_sequence_length": {"unit": "tokens", "avg": 550.0}, "error_request_count": {"unit": "requests", "avg": 2.0},
}  # fmt: skip
PERF_ANALYZER = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency,\
Avg GPU Power Usage,Max GPU Memory Usage
1,163.6,69,1230,33,43,4719,5,9,6133,6191,6224,6415,GPU-1:60.5;GPU-2:70.5;,GPU-1:1000;GPU-2:3000;
2,208.6,180,1306,3299,43,4720,5,28,9482,9617,10746,10832,,
"""
ZEUS = """dataset,network,batch_size,optimizer,power_limit,time_per_epoch,average_power
cifar100,shufflenetv2,1024,adam,100,8,86.5
cifar100,shufflenetv2,1024,adam,100,10,87.5
cifar100,shufflenetv2,512,adam,250,4,200
"""
SPLITWISE = """\
model,hardware,prompt_size,batch_size,token_size,peak_power,average_power,prompt_time,token_time,e2e_time,tensor_parallel
llama2-70b,a100-80gb,512,2,128,1.00,0.73,200,50,6400,4
llama2-70b,a100-80gb,512,2,128,1.00,0.73,220,54,8000,4
llama2-70b,h100-80gb-pcap,512,1,128,1.00,0.73,196,54,7168,2
"""
NCU = """\
==PROF== Connected to process 42
==PROF== Profiling "gemm" - 0: 0%....50%....100% - 8 passes
"ID","Process ID","Kernel Name","Context","Stream","Device","CC","Section Name",\
"Metric Name","Metric Unit","Metric Value"
"0","42","gemm","1","7","0","9.0","Command line profiler metrics","dram__bytes.sum","Mbyte","1,024.50"
"0","42","gemm","1","7","0","9.0","Command line profiler metrics","gpu__time_duration.sum","usecond","250.00"
"0","42","gemm","1","7","0","9.0","x","smsp__sass_thread_inst_executed_op_ffma_pred_on.sum","inst","1,000,000"
"0","42","gemm","1","7","0","9.0","x","smsp__sass_thread_inst_executed_op_fadd_pred_on.sum","inst","500"
"0","42","gemm","1","7","0","9.0","x","sm__warps_active.avg.pct_of_peak_sustained_active","%","42.7"
"""
NSYS = """\
Processing [report.sqlite] with [cuda_gpu_kern_sum.py]...
Time (%),Total Time (ns),Instances,Avg (ns),Med (ns),Min (ns),Max (ns),StdDev (ns),Name
75.0,750000000,10,75000000.0,75000000.0,7,8,0.5,"gemm<int, 4>(float *)"
25.0,250000000,40,6250000.0,6250000.0,6,7,0.5,softmax
"""
VTUNE = """\
vtune: Using result path r000hs
Function;CPU Time;CPU Time:Effective Time;Module
multiply;12,345;12,000;matrix
[Others];0,5;0,5;
"""
TORCH = {
    "schemaVersion": 1, "deviceProperties": [{"id": 0, "name": "NVIDIA A100-SXM4-80GB"}],
    "traceEvents": [
        {"ph": "M", "name": "process_name", "pid": 1},
        {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#1", "ts": 0, "dur": 100000},
        {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#2", "ts": 100000, "dur": 50000},
        {"ph": "X", "cat": "gpu_user_annotation", "name": "ProfilerStep#1", "ts": 9, "dur": 3},
        {"ph": "X", "cat": "kernel", "name": "gemm", "ts": 10, "dur": 40000, "args": {"device": 0}},
        {"ph": "X", "cat": "kernel", "name": "copy", "ts": 20010, "dur": 40000, "args": {"device": 0}},
        {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "ts": 5, "dur": 4},
    ],
}  # fmt: skip
CSV = """\
workload,accelerator,devices,precision,batch_size,throughput,unit,latency_p99_ms,memory_gib,power_watts,source,measured_at
bert-embed,L4,1,fp16,32,"1,850.5",samples/s,25,2,68,bench of March,2026-02-01
bert-embed,L40S,2,fp16,64,6000,samples/s,,,,,
"""


def measured(workload: str, accelerator: str, devices: int = 1, **figures: Any) -> Profile:
    """To be compared with: its figures are equal within rounding."""
    rounded = {name: pytest.approx(value) if isinstance(value, float) else value for name, value in figures.items()}
    plain: dict[str, Any] = {"source": "file", **rounded}
    return Profile(key=ProfileKey(workload, accelerator, devices), provenance=Provenance.MEASURED, **plain)


LLAMA70: dict[str, Any] = {
    "source": "MLPerf inference v5.1", "task": "inference", "model": "llama2-70b-99", "precision": "fp8",
    "throughput_unit": "tokens/s", "samples": 1, "software_stack": "TensorRT 10",
}  # fmt: skip
EXPECTED: dict[str, tuple[str, Hints, Imported]] = {
    "mlperf": (
        MLPERF,
        Hints(),
        Imported(
            (
                measured(
                    "llama2-70b-99-offline", "NVIDIA H100-SXM-80GB", 8,
                    **{**LLAMA70, "software_stack": "", "samples": 2, "throughput": 31000.0,
                       "relative_uncertainty": 1414.2136 / 31000},
                ),
                measured(
                    "llama2-70b-99-singlestream", "NVIDIA H100-SXM-80GB", 1,
                    **{**LLAMA70, "throughput_unit": "", "latency_p90_seconds": 0.25},
                ),
                measured(
                    "llama2-70b-99-offline", "NVIDIA H100-SXM-80GB", 16,
                    **{**LLAMA70, "throughput": 30000.0, "precision": "mixed", "energy_joules_per_unit": 0.5},
                ),
            ),
            (
                "1 result: marked with errors by the checker",
                "1 result: no accelerator: the processor alone, which the catalogue does not tell apart",
                "1 result: open division: the model was altered, so its speed compares with nothing",
                "1 result: several kinds of accelerator in one system",
            ),
            ("4 results are 3 configurations; 1 of these are medians of several",),
            public=True,
        ),
    ),
    "vllm": (
        json.dumps(VLLM),
        Hints(accelerator="H100-SXM", precision="bf16"),
        Imported(
            (
                measured(
                    "meta-llama/Llama-3.1-8B", "H100-SXM", task="inference", model="meta-llama/Llama-3.1-8B",
                    precision="bf16", software_stack="openai", throughput=2560.0, throughput_unit="tokens/s",
                    latency_p50_seconds=1.6, latency_p99_seconds=2.0, first_token_p50_seconds=0.08,
                    first_token_p99_seconds=0.2, token_p50_seconds=0.012, token_p99_seconds=0.015, concurrency=32,
                    input_tokens=512, output_tokens=128, samples=200,
                    measured_at=datetime(2026, 2, 1, 10, 15, tzinfo=UTC),
                ),
            ),
            (),
            ("3 requests failed beside 200 that count",),
        ),
    ),
    "aiperf": (
        json.dumps(AIPERF),
        Hints(accelerator="L4"),
        Imported(
            (
                measured(
                    "Qwen/Qwen3-0.6B", "L4", task="inference", model="Qwen/Qwen3-0.6B", throughput=1200.0,
                    throughput_unit="tokens/s", concurrency=8, latency_mean_seconds=0.9, latency_p50_seconds=0.88,
                    latency_p90_seconds=0.95, latency_p95_seconds=0.98, latency_p99_seconds=1.1,
                    first_token_p50_seconds=0.045, first_token_p99_seconds=0.12, token_p50_seconds=0.005,
                    token_p99_seconds=0.007, input_tokens=550, output_tokens=160, samples=400,
                ),
            ),
            (),
            ("2 requests failed",),
        ),
    ),
    "genai-perf": (
        json.dumps(
            {
                "request_throughput": {"unit": "requests/sec", "avg": 4.0},
                "request_latency": {"unit": "ms", "p99": 300.0},
                "input_config": {"model": ["gpt2"], "perf_analyzer": {"stimulus": {"concurrency": 4}}},
            }
        ),
        Hints(accelerator="L4", devices=2),
        Imported(
            (
                measured(
                    "gpt2", "L4", 2, task="inference", model="gpt2", throughput=4.0, throughput_unit="queries/s",
                    concurrency=4, latency_p99_seconds=0.3,
                ),
            )
        ),
    ),
    "perf-analyzer": (
        PERF_ANALYZER,
        Hints(workload="resnet50", accelerator="T4", batch_size=4, precision="fp32"),
        Imported(
            (
                measured(
                    "resnet50", "T4", task="inference", model="resnet50", precision="fp32", software_stack="triton",
                    throughput=163.6, throughput_unit="samples/s", batch_size=4, concurrency=1, power_watts=65.5,
                    memory_bytes=2000, latency_p50_seconds=0.006133, latency_p90_seconds=0.006191,
                    latency_p95_seconds=0.006224, latency_p99_seconds=0.006415,
                ),
                measured(
                    "resnet50", "T4", task="inference", model="resnet50", precision="fp32", software_stack="triton",
                    throughput=208.6, throughput_unit="samples/s", batch_size=4, concurrency=2,
                    latency_p50_seconds=0.009482, latency_p90_seconds=0.009617, latency_p95_seconds=0.010746,
                    latency_p99_seconds=0.010832,
                ),
            )
        ),
    ),
    "zeus": (
        ZEUS,
        Hints(accelerator="V100-32"),
        Imported(
            (
                measured(
                    "cifar100-shufflenetv2", "V100-32", task="training", model="shufflenetv2", throughput=0.1125,
                    throughput_unit="epochs/s", power_watts=87.0, energy_joules_per_unit=783.5, batch_size=1024,
                    power_limit_watts=100.0, settings="optimizer=adam", samples=2,
                    relative_uncertainty=0.15713484,
                ),
                measured(
                    "cifar100-shufflenetv2", "V100-32", task="training", model="shufflenetv2", throughput=0.25,
                    throughput_unit="epochs/s", power_watts=200.0, energy_joules_per_unit=800.0, batch_size=512,
                    power_limit_watts=250.0, settings="optimizer=adam", samples=1,
                ),
            ),
            (),
            ("3 runs are 2 configurations",),
        ),
    ),
    "splitwise": (
        SPLITWISE,
        Hints(),
        Imported(
            (
                measured(
                    "llama2-70b", "A100-80-SXM", 4, task="inference", model="llama2-70b", throughput=36.0,
                    throughput_unit="tokens/s", latency_p50_seconds=7.2, first_token_p50_seconds=0.21,
                    token_p50_seconds=0.052, batch_size=2, tensor_parallel=4, input_tokens=512, output_tokens=128,
                    samples=2, relative_uncertainty=0.15713484,
                ),
            ),
            ("1 row: h100-80gb-pcap: the file does not say which power cap",),
            ("2 runs are 1 configurations; power is a part of an unnamed whole, not taken",),
            public=True,
        ),
    ),
    "nsight-compute": (
        NCU,
        HINTS,
        Imported(
            (
                measured(
                    "llama", "H100-SXM", settings="profiler=Nsight Compute", busy_seconds=250e-6,
                    operations=2000500.0, bytes_moved=1024.5e6, samples=1,
                ),
            ),
            (
                "1 row: metric sm__warps_active.avg.pct_of_peak_sustained_active: tells neither time, bytes nor "
                "floating point operations",
            ),
            ("1 kernels; operations without those of tensor cores",),
        ),
    ),
    "nsight-systems": (
        NSYS,
        HINTS,
        Imported(
            (
                measured(
                    "llama", "H100-SXM", settings="profiler=Nsight Systems", busy_seconds=1.0, samples=1
                ),
            ),
            (),
            ("50 launches of 2 kernels; most time in gemm<int, 4>(float *)",),
        ),
    ),
    "vtune": (
        VTUNE,
        Hints(workload="matrix", devices=2),
        Imported(
            (measured("matrix", "CPU", 2, settings="profiler=VTune", busy_seconds=12.845, samples=1),),
            (),
            ("2 functions; most time in multiply",),
        ),
    ),
    "torch": (
        json.dumps(TORCH),
        Hints(workload="resnet"),
        Imported(
            (
                measured(
                    "resnet", "NVIDIA A100-SXM4-80GB", software_stack="torch", settings="profiler=torch",
                    throughput=1 / 0.075, throughput_unit="steps/s",
                    busy_seconds=0.03, samples=2,
                ),
            ),
            (),
            ("2 steps, 2 kernels on 1 devices; most time in gemm",),
        ),
    ),
    "csv": (
        CSV,
        Hints(),
        Imported(
            (
                measured(
                    "bert-embed", "L4", precision="fp16", batch_size=32, throughput=1850.5,
                    throughput_unit="samples/s", latency_p99_seconds=0.025, memory_bytes=2 * 2**30, power_watts=68.0,
                    source="bench of March", measured_at=datetime(2026, 2, 1, tzinfo=UTC),
                ),
                measured(
                    "bert-embed", "L40S", 2, precision="fp16", batch_size=64, throughput=6000.0,
                    throughput_unit="samples/s",
                ),
            ),
            places=("line 2", "line 3"),
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_a_document_is_recognised_and_read_whole(name: str) -> None:
    text, hints, expected = EXPECTED[name]
    assert detect(text.encode()) == name
    found = read(name, text.encode(), "file", hints)
    assert found == expected
    validate(found.profiles, catalogue, now=NOW)


def test_every_format_has_its_document() -> None:
    assert {*EXPECTED, "gavel", "yaml"} == set(FORMATS)


def without(document: dict[str, Any], key: str) -> str:
    return json.dumps({name: value for name, value in document.items() if name != key})


BROKEN = {
    "not a list": ("mlperf", "{}", "content"),
    "no unit": ("mlperf", json.dumps([a_result(Performance_Units="Furlongs")]), "[0].Performance_Units"),
    "wrong unit for the scenario": ("mlperf", json.dumps([a_result(Performance_Units="Latency (ms)")]), "[0].Perf"),
    "text for a number": ("mlperf", json.dumps([a_result(Performance_Result="fast")]), "[0].Performance_Result"),
    "half a result": ("mlperf", '[{"Model": "x"}]', "[0].Scenario"),
    "cut off JSON": ("mlperf", MLPERF[:-300], "content"),
    "only open": ("mlperf", json.dumps([a_result(Category="open")]), "content"),
    "NaN": ("vllm", json.dumps({**VLLM, "output_throughput": float("nan")}), "content"),
    "no duration": ("vllm", without(VLLM, "duration"), "duration"),
    "nothing completed": ("vllm", json.dumps({**VLLM, "completed": 0}), "completed"),
    "tokens a minute": ("vllm", json.dumps({**VLLM, "output_throughput": 2560.0 * 60}), "output_throughput"),
    "broken date": ("vllm", json.dumps({**VLLM, "date": "yesterday"}), "date"),
    "a unit nobody knows": (
        "aiperf",
        json.dumps({**AIPERF, "request_latency": {"unit": "fortnights", "p99": 1.0}}),
        "request_latency.unit",
    ),
    "broken off": ("aiperf", json.dumps({**AIPERF, "was_cancelled": True}), "was_cancelled"),
    "no rate": ("genai-perf", json.dumps({"request_throughput": {"unit": "requests/sec"}}), "request_throughput.avg"),
    "cut off CSV": ("perf-analyzer", PERF_ANALYZER[:-20], "line 3"),
    "an empty table": ("perf-analyzer", PERF_ANALYZER.splitlines()[0], "content"),
    "a word": ("perf-analyzer", PERF_ANALYZER.replace("163.6", "n/a"), "line 2.Inferences/Second"),
    "two locales": ("zeus", ZEUS.replace("87.5", '"1.087,5"'), "content"),
    "no number": ("splitwise", SPLITWISE.replace("6400", "nan"), "line 2.e2e_time"),
    "an unknown unit": ("nsight-compute", NCU.replace("Mbyte", "Mfoo"), "line 4.Metric Unit"),
    "nothing of use": ("nsight-compute", "\n".join(NCU.splitlines()[:3] + NCU.splitlines()[-1:]), "content"),
    "thousands or decimals": (
        "nsight-compute",
        "\n".join([*NCU.splitlines()[:3], NCU.splitlines()[3].replace("1,024.50", "1,024")]),
        "line 4.Metric Value",
    ),
    "no unit in the title": ("nsight-systems", NSYS.replace("Total Time (ns)", "Total Time"), "Total Time"),
    "like columns": ("nsight-systems", NSYS.replace("Instances", "xInstances"), "content"),
    "a name like a column's": ("nsight-systems", NSYS.replace(",Name", ",xName"), "content"),
    "a time like the total": ("nsight-systems", NSYS.replace("Total Time (ns)", "xTotal Time (ns)"), "content"),
    "an open quote": ("nsight-systems", NSYS.replace('*)"', "*)"), "line"),
    "other columns": ("vtune", "Function;Clockticks CPU Time\nf;1\n", "content"),
    "no events": ("torch", '{"traceEvents": []}', "traceEvents"),
    "only metadata": ("torch", '{"traceEvents": [{"ph": "M"}]}', "traceEvents"),
    "an unknown column": ("csv", CSV.replace("batch_size", "bach_size"), "line 2.bach_size"),
    "an unknown source of figures": ("csv", CSV.replace("precision", "provenance"), "line 2.provenance"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_refused_with_its_place(case: str) -> None:
    name, text, field = BROKEN[case]
    with pytest.raises(InvalidInput) as caught:
        read(name, text.encode(), "file", HINTS)
    (error,) = caught.value.errors
    assert error.field.startswith(field)
    assert error.remedy


IMPOSSIBLE = {
    "negative": ("zeus", ZEUS.replace(",8,", ",-8,"), "throughput"),
    "zero": ("zeus", ZEUS.replace(",4,200", ",0,200"), "throughput"),
    "absurd power": ("zeus", ZEUS.replace("200", "20000"), "power_watts"),
    "p50 above p99": ("perf-analyzer", PERF_ANALYZER.replace("6133", "61330"), "latency_p90_seconds"),
    "absurd latency": ("vllm", json.dumps({**VLLM, "p99_e2el_ms": 1e12}), "latency_p99_seconds"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_cannot_be_true_is_refused(case: str) -> None:
    name, text, field = IMPOSSIBLE[case]
    with pytest.raises(InvalidInput) as caught:
        validate(read(name, text.encode(), "file", replace(HINTS, accelerator="V100-32")).profiles, catalogue, now=NOW)
    assert any(one.field.endswith(field) for one in caught.value.errors)


@pytest.mark.parametrize("name", ["vllm", "aiperf", "perf-analyzer", "zeus", "nsight-compute", "nsight-systems"])
def test_an_accelerator_that_the_file_lacks_is_asked_for(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"accelerator: .*: name it with --accelerator"):
        read(name, EXPECTED[name][0].encode(), "file", Hints(workload="w"))


def test_an_unknown_accelerator_of_a_public_table_is_left_out_with_the_nearest_names() -> None:
    rows = json.dumps([a_result(), a_result(Accelerator="NVIDIA H200-NVL-141GB"), a_result(Accelerator="Zzyzx")])
    imported = without_unknown(read("mlperf", rows.encode(), "x"), catalogue)
    assert [one.key.accelerator for one in imported.profiles] == ["NVIDIA H100-SXM-80GB"]
    assert imported.skipped == (
        "1 configuration: NVIDIA H200-NVL-141GB is not in the accelerator catalogue; nearest: H200, H100-SXM, B200",
        "1 configuration: Zzyzx is not in the accelerator catalogue",
    )
    with pytest.raises(InvalidInput, match="Abacus"):
        without_unknown(read("mlperf", json.dumps([a_result(Accelerator="Abacus")]).encode(), "x"), catalogue)


def test_what_was_taken_in_two_sentences() -> None:
    assert summary([a_profile("a", "L4"), a_profile("a", "T4"), a_profile("b", "L4")], catalogue) == (
        "2 workloads: a (2), b (1)",
        "2 accelerators: L4 (2), T4 (1)",
    )
    assert summary([a_profile(f"w{n}") for n in range(9)], catalogue)[0].endswith("w5 (1) and 3 more")


@pytest.mark.parametrize("text", ["", "hello", "<html></html>", "{}", "[]", "a,b\n1,2\n", "\x00\x01"])
def test_what_no_format_knows_as_its_own_is_not_guessed(text: str) -> None:
    with pytest.raises(InvalidInput, match="not recognised: name one of mlperf"):
        detect(text.encode())


def test_a_text_that_speaks_of_a_format_is_not_of_it() -> None:
    prose = "# Zeus\n\nSweeps: batch, power_limit, time_per_epoch, average_power of Function, CPU Time, Instances.\n"
    with pytest.raises(InvalidInput, match="not recognised"):
        detect(prose.encode())


async def test_an_unknown_accelerator_is_told_once_with_the_nearest_names() -> None:
    store = ProfileStore(profiles=ProfilesInMemory(), catalogue=catalogue, now=lambda: NOW)
    with pytest.raises(InvalidInput) as caught:
        await store.import_document("", ZEUS.encode(), "x", Hints(accelerator="A40"))
    assert [(one.field, one.value, one.remedy) for one in caught.value.errors] == [
        ("accelerator", "A40", "not in the accelerator catalogue; did you mean A100-40-SXM, A10, L40S?")
    ]


def test_a_document_in_gzip_is_unpacked() -> None:
    packed = gzip.compress(ZEUS.encode())
    assert unpacked(packed) == ZEUS.encode() == unpacked(ZEUS.encode())
    for broken, words in ((packed[:-20], "cut off"), (packed[:12] + b"\xff" * 20, "broken gzip")):
        with pytest.raises(InvalidInput, match=words):
            unpacked(broken)


# Numbers


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["1,234.5", "1,234"], [1234.5, 1234.0]),
        (["1.234,5", "1.234"], [1234.5, 1234.0]),
        (["1 234,5", "1\u202f234"], [1234.5, 1234.0]),
        (["1'234.5"], [1234.5]),
        (["1.234.567", "0,5"], [1234567.0, 0.5]),
        (["0,125"], [0.125]),
        (["1234,567"], [1234.567]),
        (["1.234"], [1.234]),
        (["1.5e3", "-2", "+.5", "2E-3"], [1500.0, -2.0, 0.5, 0.002]),
    ],
)
def test_decimals_and_thousands_are_told_from_all_numbers_of_a_file(texts: list[str], values: list[float]) -> None:
    numbers = Numbers(texts)
    assert [numbers.read("x", text) for text in texts] == values


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["1,5", "1.5"], "two locales"),
        (["1,234"], "thousands or decimals"),
        (["nan"], "a number such as"),
        (["inf"], "a number such as"),
        (["-"], "a number such as"),
        (["1,23,4.5"], "decimals stand behind"),
        (["1.2.3"], "decimals stand behind"),
        (["1e999"], "too large"),
        (["５"], "a number such as"),
    ],
)
def test_numbers_that_leave_a_doubt_are_refused(texts: list[str], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        [Numbers(texts).read("x", text) for text in texts]


def test_the_decimal_sign_can_be_said() -> None:
    assert Numbers(["1,234"], ",").read("x", "1,234") == 1.234
    assert Numbers(["1,234"], ".").read("x", "1,234") == 1234.0
    with pytest.raises(InvalidInput, match="the file says otherwise"):
        Numbers(["1.234,5"], ".")


@given(
    st.lists(st.decimals(min_value=-(10**9), max_value=10**9, places=2), min_size=1, max_size=8),
    st.sampled_from([(".", ","), (",", "."), (",", " "), (".", "'"), (",", "\u202f"), (".", "")]),
)
def test_any_number_comes_back_from_any_locale(values: list[Any], signs: tuple[str, str]) -> None:
    decimal, group = signs
    texts = [f"{value:,.2f}".translate({ord(","): group, ord("."): decimal}) for value in values]
    numbers = Numbers(texts)
    assert [numbers.read("x", text) for text in texts] == [float(value) for value in values]


@given(st.text(max_size=12))
def test_any_text_is_a_finite_number_or_refused(text: str) -> None:
    try:
        value = Numbers([text]).read("x", text)
    except InvalidInput:
        return
    assert abs(value) < float("inf")


# Any document


@given(st.sampled_from(sorted(EXPECTED)), st.data())
def test_a_mangled_document_is_read_or_refused(name: str, data: st.DataObject) -> None:
    text, hints, _ = EXPECTED[name]
    at = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 20))
    mangled = (text[:at] + data.draw(st.text(max_size=4)) + text[at + length :]).encode("utf-8", "surrogatepass")
    errors: tuple[FieldError, ...] = ()
    try:
        validate(read(name, mangled, "x", hints).profiles, catalogue, now=NOW)
    except InvalidInput as error:
        errors = error.errors
    assert all(one.field and one.remedy and one.value.encode() is not None for one in errors)


@given(st.permutations(range(6)))
def test_joining_does_not_ask_for_an_order(order: list[int]) -> None:
    runs = [
        a_profile("w", throughput=float(10 + n % 3), batch_size=n % 2 + 1, throughput_unit="tokens/s") for n in range(6)
    ]
    found = {configuration_of(one): one for one in joined(runs[n] for n in order)}
    assert {name: (one.throughput, one.samples) for name, one in found.items()} == {
        "batch=1": (11.0, 3),
        "batch=2": (11.0, 3),
    }


@given(st.permutations(sorted(EXPECTED)), st.booleans())
def test_importing_again_changes_nothing_in_any_order(order: list[str], packed: bool) -> None:
    memory = ProfilesInMemory()
    store = ProfileStore(profiles=memory, catalogue=catalogue, now=lambda: NOW)

    async def everything() -> list[int]:
        return [
            (await store.import_document("", gzip.compress(text) if packed else text, name, hints)).changed
            for name, text, hints in ((name, EXPECTED[name][0].encode(), EXPECTED[name][1]) for name in order)
        ]

    assert sum(asyncio.run(everything())) == len(memory.rows)
    before = dict(memory.rows)
    assert asyncio.run(everything()) == [0] * len(order)
    assert memory.rows == before


REAL = {
    "mlperf": ("mlperf/inference_v5.1_summary.json", Hints(), 123, 13),
    "splitwise": ("splitwise/perf_model.csv", Hints(), 152, 1),
    "zeus": ("zeus/summary_power_v100.csv", Hints(accelerator="V100-32"), 476, 0),
    "gavel": ("gavel/physical_cluster_throughputs.json", Hints(), 2126, 7),
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_file(data_folder: Path, name: str) -> None:
    path, hints, count, skipped = REAL[name]
    content = (data_folder / path).read_bytes()
    assert detect(content) == name
    imported = read(name, content, path, hints)
    if imported.public:
        imported = without_unknown(imported, catalogue)
    stored = validate(imported.profiles, catalogue, now=NOW)
    assert (len(stored), len(imported.skipped)) == (count, skipped)


def test_the_real_figures_of_mlperf_and_splitwise(data_folder: Path) -> None:
    """Some lines of the files, found by hand."""
    rows = json.loads((data_folder / "mlperf/inference_v5.1_summary.json").read_text())
    speeds = sorted(
        row["Performance_Result"]
        for row in rows
        if (row["Model"], row["Scenario"], row["Category"]) == ("llama2-70b-99", "Offline", "closed")
        and (row["Accelerator"], row["a#"], row["Nodes"]) == ("NVIDIA H200-SXM-141GB", 8, 1)
        and row["weight_data_types"] == "fp8"
    )
    imported = read("mlperf", json.dumps(random.Random(1).sample(rows, len(rows))).encode(), "x")
    (found,) = (
        one
        for one in imported.profiles
        if one.key == ProfileKey("llama2-70b-99-offline", "NVIDIA H200-SXM-141GB", 8) and one.precision == "fp8"
    )
    middle = len(speeds) // 2
    median = speeds[middle] if len(speeds) % 2 else (speeds[middle - 1] + speeds[middle]) / 2
    assert (found.throughput, found.samples) == (pytest.approx(median), len(speeds))
