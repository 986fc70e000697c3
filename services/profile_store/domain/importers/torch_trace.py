"""PyTorch's profiler (`export_chrome_trace`): traceEvents with ph, cat, name, ts and dur in µs.

Busy time is the union of kernels and copies on each device, so that streams side by side do not count twice. Where
the loop called `profiler.step()`, its ProfilerStep events give steps a second and busy time is that of one step.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from berth.errors import InvalidInput
from profile_store.domain.importers.document import NO_HINTS, Hints, Imported, json_of, needed, number_at
from profile_store.domain.profile import Profile, ProfileKey, Provenance

__all__ = ["read_torch_trace"]

ON_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
STEP = "ProfilerStep#"


def read_torch_trace(content: bytes, source: str, hints: Hints = NO_HINTS) -> Imported:
    document = json_of(content)
    events = document.get("traceEvents") if isinstance(document, dict) else None
    if not isinstance(events, list) or not events:
        raise InvalidInput.of("traceEvents", "absent", "not a trace of torch.profiler")
    spans: dict[object, list[tuple[float, float]]] = defaultdict(list)
    steps: dict[str, float] = {}
    kernels: dict[str, float] = defaultdict(float)
    for number, event in enumerate(events):
        if not isinstance(event, dict) or event.get("ph") != "X":
            continue
        path, name = f"traceEvents[{number}]", str(event.get("name", ""))
        if event.get("cat") in ON_DEVICE:
            start, length = number_at(f"{path}.ts", event.get("ts")), number_at(f"{path}.dur", event.get("dur"))
            spans[_device(event)].append((start, start + length))
            kernels[name] += length
        elif name.startswith(STEP) and event.get("cat") != "gpu_user_annotation":
            steps[name] = number_at(f"{path}.dur", event.get("dur")) / 1e6
    busy = sum(_union(found) for found in spans.values()) / 1e6
    if not busy and not steps:
        raise InvalidInput.of("traceEvents", f"{len(events)} events", "neither kernels nor profiler steps among them")
    devices = document.get("deviceProperties")
    reported = str(devices[0].get("name", "")) if isinstance(devices, list) and devices else ""
    profile = Profile(
        key=ProfileKey(
            needed(hints.workload, "workload", "a trace does not name the workload"),
            hints.accelerator or needed(reported, "accelerator", "the trace names no device"),
            hints.devices or max(1, len(spans)),
        ),
        provenance=Provenance.MEASURED,
        source=source,
        precision=hints.precision,
        batch_size=hints.batch_size or None,
        software_stack="torch",
        settings="profiler=torch",
        throughput=1 / statistics.median(steps.values()) if steps and min(steps.values()) > 0 else None,
        throughput_unit="steps/s" if steps and min(steps.values()) > 0 else "",
        busy_seconds=busy / max(1, len(steps)) or None,
        samples=max(1, len(steps)),
    )
    top = f"; most time in {max(kernels, key=lambda one: kernels[one])[:60]}" if kernels else ""
    return Imported((profile,), (), (f"{len(steps)} steps, {len(kernels)} kernels on {len(spans)} devices{top}",))


def _device(event: dict[str, Any]) -> object:
    arguments = event.get("args")
    return str(arguments.get("device")) if isinstance(arguments, dict) and "device" in arguments else "0"


def _union(spans: Iterable[tuple[float, float]]) -> float:
    """Length covered by the spans."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered
