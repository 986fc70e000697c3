"""The best minute of `berth demo`: one model submitted once, from a JAX function to an answer and a measured speed."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import berth
from berth import catalogue
from berth.cli import units
from berth.cli.profile_views import quantity
from berth.cli.session import Session

if TYPE_CHECKING:
    from berth.models.artefact import Artefact
    from berth.v1 import profiles_pb2 as pb

__all__ = ["MODEL", "model_file", "show_model"]

MODEL = "demo-transformer"
EXAMPLE = "examples/models/transformer.py"
LATENCY_TARGET = "250ms"
PROMPT = "Berth decides where this runs."
SETTLE_SECONDS = 40.0
LOAD_SECONDS = 10.0
STREAMS = 4
LEARN_SECONDS = 15.0
ROOF_SECONDS = 1.5

Say = Callable[[str], None]


def model_file() -> Path | None:
    """The example in the source tree that this package is installed from; None where there is none."""
    path = Path(berth.__file__).resolve().parents[2] / EXAMPLE
    return path if path.exists() else None


async def show_model(session: Session, heading: Say, note: Say, folder: Path) -> bool:
    """Analysed, predicted, placed, compiled, served, asked, measured. False where a part of it did not work."""
    path = model_file()
    assert path is not None, "asked before"
    heading(f"One model, submitted once: {EXAMPLE}")
    package = folder / MODEL
    artefact = await asyncio.to_thread(_packaged, path, package)
    _say_analysis(artefact, note)
    _say_stacks(artefact, note)
    await _roofs(session, note)
    predicted = await _predicted(session, artefact, note)
    job = await _served(session, artefact, package, note)
    if job is None:
        return False
    endpoint = job.endpoints[0]
    right = await _asked(path, endpoint, note)
    rate = await _loaded(endpoint)
    note(f"{STREAMS} clients for {LOAD_SECONDS:.0f} s: {rate:,.0f} requests a second, all answered")
    learnt = await _learnt(session, note, predicted)
    await _ended(session, job, note)
    return right and learnt


def _packaged(path: Path, package: Path) -> "Artefact":
    from berth.models.artefact_file import read_artefact
    from berth.models.export import export
    from berth.models.package import write_package

    made = export(f"{path}:forward")
    artefact = read_artefact(made.content, MODEL, source=str(path))
    tensors = zip(artefact.inputs, made.names, strict=True)
    artefact = replace(artefact, inputs=tuple(replace(one, name=given) for one, given in tensors))
    write_package(package, artefact, made.content)
    return artefact


def _say_analysis(artefact: "Artefact", note: Say) -> None:
    analysis = artefact.analysis
    assert analysis is not None
    memory, intensity = analysis.memory_bytes, analysis.intensity
    note(
        f"analysed: {quantity(analysis.operations)} operations a call, "
        f"{units.bytes_of(analysis.bytes_moved)} moved, {units.bytes_of(memory)} held"
        + (f", {intensity:.0f} operations a byte" if intensity is not None else "")
    )


def _say_stacks(artefact: "Artefact", note: Say) -> None:
    """The one artefact, and which stacks of the catalogue take it."""
    from berth.models.support import fits, supports

    taken: Counter[str] = Counter()
    refused: dict[str, str] = {}
    for entry in catalogue.load():
        reasons = [*supports(artefact, entry), *([misfit] if (misfit := fits(artefact, entry)) else [])]
        if reasons:
            refused.setdefault(entry.stack, reasons[0])
        else:
            taken[entry.stack] += 1
    note(
        f"one artefact of {units.bytes_of(artefact.content_bytes)}, accepted for "
        + ", ".join(f"{stack} ({count} accelerators)" for stack, count in taken.items())
    )
    rest = [stack for stack in refused if stack not in taken]
    if rest:
        note(f"not for {', '.join(rest)}: their operators give a backend by commands (docs/backends.md)")


async def _roofs(session: Session, note: Say) -> None:
    """What this machine reaches, for the catalogue has no peaks of CPUs."""
    from berth.cli.commands.profiles_bench import measure
    from berth.v1 import profiles_pb2 as pb

    found = [
        (await asyncio.to_thread(measure, target, "", None, precision, None, "", 3, 0.05, ROOF_SECONDS))[0]
        for target, precision in (("matmul", "bf16"), ("matmul", "fp32"), ("copy", "fp32"))
    ]
    await session.profiles.PutProfiles(pb.PutProfilesRequest(profiles=found))
    matmul, _, copy = found
    note(
        f"this machine measured: {quantity(matmul.throughput * matmul.operations)} operations a second in bf16, "
        f"{quantity(copy.throughput * copy.bytes_moved)} bytes a second ({matmul.accelerator})"
    )


async def _predicted(session: Session, artefact: "Artefact", note: Say) -> "dict[str, pb.Prediction]":
    """Predictions over the catalogue, kept as profiles so that placement knows them: calls a second."""
    from dataclasses import asdict

    from berth.cli.analysing import analysis_from
    from berth.v1 import profiles_pb2 as pb

    analysis = artefact.analysis
    assert analysis is not None
    fields = {**asdict(analysis), "memory_bytes": analysis.memory_bytes}
    answer = await session.profiles.PredictProfile(
        pb.PredictProfileRequest(workload=MODEL, analysis=analysis_from(fields), keep=True)
    )
    found = [one for one in answer.predictions if one.profile.HasField("throughput")]
    cpus = {entry.name for entry in catalogue.load() if entry.device_class == "CPU"}
    here = [one for one in found if one.profile.accelerator in cpus]
    for one in [*found[:3], *here]:
        p99 = next((f for f in one.figures if f.name == "latency_p99_seconds"), None)
        note(
            f"  {one.profile.accelerator:<12} {one.profile.throughput:>9,.0f} calls/s"
            f" ({one.throughput_low:,.0f} to {one.throughput_high:,.0f})"
            + (f", latency up to {units.duration(p99.high)}" if p99 is not None and p99.HasField("high") else "")
            + f"; {one.basis}"
        )
    note(
        f"predicted for {len(found)} accelerators, nothing said of {len(answer.unknown)}: the program's own speed; "
        "a call through Triton's Python backend takes about a millisecond more"
    )
    return {one.profile.accelerator: one for one in found}


def _speed(one: "pb.Prediction") -> str:
    return f"{one.profile.throughput:,.0f} ({one.throughput_low:,.0f} to {one.throughput_high:,.0f})"


async def _served(session: Session, artefact: "Artefact", package: Path, note: Say) -> Any:
    """The job once it takes requests; None where that did not come to be."""
    from berth.cli.following import ENDED
    from berth.jobs import parse_document
    from berth.jobs.serving import fill
    from berth.v1 import placement_pb2 as pb

    document = {
        "name": MODEL,
        "kind": "inference",
        "accelerators": {"classes": ["GPU", "ASIC", "CPU"]},
        "devices": 1,
        "cpu": "500m",
        "memory": "1Gi",
        "latency_target": LATENCY_TARGET,
        "model": {"uri": str(package), "name": MODEL, "digest": artefact.digest},
    }
    begin = time.monotonic()
    filled = fill(document, artefact)
    for line in filled.lines:
        note(f"  filled in from the model: {line}")
    request = pb.PlaceJobRequest(spec=parse_document(filled.document), wait=True)
    answer = await session.placement.PlaceJob(request, timeout=SETTLE_SECONDS)
    job = answer.job
    note(f"submitted once, with a latency target of {LATENCY_TARGET}: {answer.explanation.summary}")
    while not job.endpoints and job.state not in ENDED and time.monotonic() - begin < SETTLE_SECONDS:
        await asyncio.sleep(0.2)
        job = (await session.placement.GetJob(pb.GetJobRequest(job=job.job_id))).job
    if not job.endpoints:
        note(f"it is not served: {job.message}")
        return None
    note(
        f"compiled and served by Triton on {job.members[0].node} {time.monotonic() - begin:.1f} s after it was "
        f"submitted: {job.endpoints[0]}"
    )
    return job


async def _asked(path: Path, endpoint: str, note: Say) -> bool:
    """One request, held against the function itself."""
    import numpy as np

    tokens = _tokens()
    served = np.asarray((await _inferred(endpoint, tokens))["outputs"][0]["data"], dtype=np.float32)
    here = await asyncio.to_thread(_computed, path, tokens)
    last = len(PROMPT) % len(tokens)
    wrong = float(np.max(np.abs(served.reshape(here.shape) - here)))
    # The server compiles by itself: bfloat16 may round otherwise in another order.
    agrees = wrong <= 0.05 * max(1.0, float(np.max(np.abs(here))))
    note(
        f"asked {PROMPT!r}: next token {int(served.reshape(here.shape)[last % len(here)].argmax())}; "
        f"{'the function itself says the same' if agrees else f'the function itself differs by {wrong:.3g}'}"
    )
    return agrees


def _tokens() -> list[list[int]]:
    """int32 [4, 64]: the prompt's bytes, each row turned by one."""
    text = list((PROMPT * 4).encode()[:64])
    return [text[turn:] + text[:turn] for turn in range(4)]


def _computed(path: Path, tokens: list[list[int]]) -> Any:
    import jax
    import numpy as np

    from berth.models.export import find_function

    function, _ = find_function(f"{path}:forward")
    return np.asarray(jax.jit(function)(np.asarray(tokens, dtype=np.int32)))


async def _inferred(endpoint: str, tokens: list[list[int]], client: Any = None, *, binary: bool = False) -> Any:
    """The answer's document; `binary`: its bytes, with the numbers as they lie in memory behind the document."""
    import aiohttp

    if client is None:
        async with aiohttp.ClientSession() as own:
            return await _inferred(endpoint, tokens, own, binary=binary)
    flat = [token for row in tokens for token in row]
    body: dict[str, Any] = {
        "inputs": [{"name": "tokens", "shape": [len(tokens), len(tokens[0])], "datatype": "INT32", "data": flat}]
    }
    if binary:
        body["parameters"] = {"binary_data_output": True}
    async with client.post(f"{endpoint}/infer", json=body) as answer:
        if answer.status != 200:
            raise RuntimeError(f"{endpoint} answered {answer.status}: {await answer.text()}")
        return await (answer.read() if binary else answer.json(content_type=None))


async def _loaded(endpoint: str) -> float:
    """Requests a second of some clients that each wait for their answer. They take the numbers as bytes, as
    Triton's own client libraries do: the server is longer about writing 8,192 of them as JSON than about the model."""
    import aiohttp

    tokens = _tokens()
    until = time.monotonic() + LOAD_SECONDS
    answered = 0

    async def stream(client: aiohttp.ClientSession) -> None:
        nonlocal answered
        while time.monotonic() < until:
            await _inferred(endpoint, tokens, client, binary=True)
            answered += 1

    begin = time.monotonic()
    async with aiohttp.ClientSession() as client:
        await asyncio.gather(*(stream(client) for _ in range(STREAMS)))
    return answered / (time.monotonic() - begin)


async def _learnt(session: Session, note: Say, predicted: "dict[str, pb.Prediction]") -> bool:
    """The speed that came back from the running server, as a profile."""
    from berth.v1 import profiles_pb2 as pb

    until = time.monotonic() + LEARN_SECONDS
    while time.monotonic() < until:
        answer = await session.profiles.ListProfiles(pb.ListProfilesRequest(workload=MODEL))
        for profile in answer.profiles:
            if profile.provenance == pb.PROVENANCE_OBSERVED:
                before = predicted.get(profile.accelerator)
                note(
                    f"its own running is a profile now: {profile.throughput:,.0f} {profile.throughput_unit} of compute "
                    f"on {profile.accelerator} ({profile.configuration}), from {profile.samples} spans; predicted was "
                    + (_speed(before) if before is not None else "nothing, for the catalogue has no peak of it")
                )
                return True
        await asyncio.sleep(0.5)
    note("no speed came back yet")
    return False


async def _ended(session: Session, job: Any, note: Say) -> None:
    from berth.cli.following import ENDED
    from berth.v1 import placement_pb2 as pb

    await session.placement.CancelJob(pb.CancelJobRequest(job=job.job_id))
    with suppress(TimeoutError):
        async with asyncio.timeout(10):
            while job.state not in ENDED:
                await asyncio.sleep(0.2)
                job = (await session.placement.GetJob(pb.GetJobRequest(job=job.job_id))).job
    note("cancelled: the model is unloaded")
