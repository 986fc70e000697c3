"""A job that serves a model: what its document may say, and what the model says where it does not."""

from dataclasses import replace
from typing import Any

import pytest

from berth.errors import InvalidInput
from berth.jobs import parse_document
from berth.jobs.serving import fill
from berth.models.artefact import Analysis, Artefact
from berth.v1 import jobs_pb2 as pb

DIGEST = "ab" * 32
ANALYSIS = Analysis(1e9, 2e7, {"bf16": 9e8, "fp32": 1e8}, 100 * 2**20, 2**10, 2**10, 2**20)
CHAT = Artefact("chat", "jax-export", DIGEST, 1, platforms=("cpu", "cuda", "rocm", "tpu"), analysis=ANALYSIS)
BARE = {"name": "serve-chat", "model": {"uri": "/models/chat"}}


def test_a_whole_model_is_read() -> None:
    given = {
        "uri": "file:///models/chat", "name": "chat_v2", "digest": DIGEST.upper(), "max_batch_size": 8,
        "instances": 2, "parameters": {"level": 3, "warm": True},
    }  # fmt: skip
    spec = parse_document({"name": "a", "devices": 1, "model": given})
    assert spec.model == pb.ModelPayload(
        uri="file:///models/chat", name="chat_v2", digest=DIGEST, max_batch_size=8, instances=2,
        parameters={"level": "3", "warm": "true"},
    )  # fmt: skip
    assert spec.executor == "triton"


@pytest.mark.parametrize(
    ("change", "field", "remedy"),
    [
        ({"uri": ""}, "model.uri", "the path of a model package"),
        ({"uri": "s3://bucket/chat"}, "model.uri", "file:///path"),
        ({"uri": "a\nb"}, "model.uri", "the path"),
        ({"name": "a/b"}, "model.name", "letters"),
        ({"digest": "abc"}, "model.digest", "SHA-256"),
        ({"max_batch_size": -1}, "model.max_batch_size", "0 to 65536"),
        ({"max_batch_size": 2.5}, "model.max_batch_size", "whole number"),
        ({"instances": 10**6}, "model.instances", "0 to 64"),
        ({"parameters": {"a": [1]}}, "model.parameters.a", "one text"),
        ({"parameters": {"a b": "1"}}, "model.parameters.a b", "letters"),
        ({"batch": 3}, "model.batch", "unknown field"),
    ],
)
def test_each_error_names_its_field(change: dict[str, Any], field: str, remedy: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_document({"name": "a", "devices": 1, "model": {"uri": "/m", **change}})
    assert [one.field for one in caught.value.errors] == [field]
    assert remedy in caught.value.errors[0].remedy


def test_the_triton_executor_needs_a_model() -> None:
    with pytest.raises(InvalidInput, match="serves a model"):
        parse_document({"name": "a", "devices": 1, "executor": "triton", "command": ["x"]})


def test_the_model_fills_in_what_the_document_leaves_open() -> None:
    filled = fill(BARE, CHAT)
    assert filled.document == {
        "name": "serve-chat",
        "model": {"uri": "/models/chat", "digest": DIGEST},
        "kind": "inference",
        "devices": 1,
        "workload": "chat",
        "device_memory": 122 * 2**20,
        "character": {"operations": 1e9, "bytes_moved": 2e7, "precision": "fp16", "calls": 1},
        "expected_duration": "30d",
        "accelerators": {"stacks": ["CUDA", "ROCm", "XLA", "oneDNN"]},
    }
    assert [line.partition(":")[0] for line in filled.lines] == [
        "model.digest", "kind", "devices", "workload", "device_memory", "character", "expected_duration",
        "accelerators.stacks",
    ]  # fmt: skip
    spec = parse_document(filled.document)
    assert (spec.kind, spec.resources.device_memory_bytes) == (pb.JOB_KIND_INFERENCE, 122 * 2**20)
    assert spec.expected_duration.seconds == 30 * 86400


def test_what_the_document_says_stands() -> None:
    said = {
        **BARE, "kind": "batch", "device_fraction": 0.5, "device_memory": "1Gi", "workload": "w",
        "expected_duration": "1h", "character": {"operations": 1}, "accelerators": {"stacks": ["CUDA"]},
    }  # fmt: skip
    filled = fill(said, CHAT)
    assert filled.document == {**said, "model": {"uri": "/models/chat", "digest": DIGEST}}
    assert len(filled.lines) == 1


def test_copies_take_their_memory_each() -> None:
    one, two = (fill({**BARE, "model": {"uri": "/m", "instances": n}}, CHAT).document for n in (1, 2))
    assert two["device_memory"] == pytest.approx(2 * one["device_memory"], rel=0.02)


def test_another_digest_and_accelerators_that_cannot_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"model\.digest"):
        fill({**BARE, "model": {"uri": "/m", "digest": "cd" * 32}}, CHAT)
    with pytest.raises(InvalidInput, match="operator's command backend for SynapseAI"):
        fill({**BARE, "accelerators": {"models": ["Gaudi3"]}}, CHAT)
    with pytest.raises(InvalidInput, match="lowered for cpu"):
        fill({**BARE, "accelerators": {"stacks": ["CUDA"]}}, replace(CHAT, platforms=("cpu",)))
    vast = replace(CHAT, analysis=Analysis(1e9, 2e7, {"bf16": 1e9}, 10**15, 1, 1, 1))
    with pytest.raises(InvalidInput, match="with headroom"):
        fill({**BARE, "accelerators": {"models": ["H100-SXM", "MI300X"]}}, vast)


def test_where_the_cost_is_unknown_nothing_is_guessed() -> None:
    filled = fill(BARE, replace(CHAT, analysis=None, format="triton", platforms=()))
    assert filled.document.keys() == {"name", "model", "kind", "devices", "workload", "accelerators"}


@pytest.mark.parametrize(
    ("shares", "precision"),
    [
        ({"fp32": 1e9}, None),
        ({"fp64": 1e9}, None),
        ({"int32": 6e8, "fp16": 4e8}, None),
        ({}, None),
        ({"fp32": 4e8, "bf16": 6e8}, "fp16"),
        ({"fp4": 1e9}, "fp8"),
        ({"int4": 1e9}, "int8"),
    ],
)
def test_no_character_is_written_of_a_precision_that_placement_does_not_know(
    shares: dict[str, float], precision: str | None
) -> None:
    filled = fill(BARE, replace(CHAT, analysis=replace(ANALYSIS, by_precision=shares))).document
    assert filled.get("character", {}).get("precision") == precision
    assert filled["expected_duration"] == "30d"
