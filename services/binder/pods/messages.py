"""What a waiting pod says, for somebody who has never heard of Berth. Pure."""

import re

from berth.kubernetes import names
from berth.v1 import placement_pb2

__all__ = ["EVENT_BYTES", "of_explanation", "same_but_for_numbers", "shortened"]

NUMBER = re.compile(r"\d+(\.\d+)?")

REASONS_SHOWN = 4
REMEDIES_SHOWN = 3
ROOM = (
    "running work that ends or is removed, or more such nodes; when it ends is not known "
    f"(the annotation {names.EXPECTED_DURATION} on what runs would tell)"
)
# Where the engine has found no change that would do, what there is to do about what said no.
REMEDIES = {
    "DEVICES_BUSY": ROOM,
    "PARTITION_NO_ROOM": ROOM,
    "HOST_RESOURCES_SHORT": "smaller requests of cpu and memory, or larger nodes",
    "NODE_CORDONED": "nodes that take work again (kubectl uncordon)",
    "NODE_SELECTOR_MISMATCH": "nodes with the labels that the pod selects, or a wider selection",
    "TAINT_NOT_TOLERATED": "a toleration of those taints, or nodes without them",
    "EXECUTOR_MISSING": "nodes of this cluster in Berth's fleet",
    "ACCELERATOR_MISMATCH": "nodes with such devices, or a wider choice of accelerators",
    "DEVICE_HELD_ELSEWHERE": "pods of other schedulers that end or are removed",
    "TELEMETRY_STALE": "telemetry of those nodes",
    "DEVICE_TELEMETRY_STALE": "telemetry of those devices",
    "QUEUE_DEVICE_LIMIT": "work of its queue that ends, or a higher limit",
    "QUEUE_QUOTA_EXCEEDED": "work of its queue that ends, or a larger quota",
}
EVENT_BYTES = 1024
"""What the API takes of an event's note."""


def of_explanation(
    explanation: placement_pb2.Explanation, *, job: str, pods: int = 1, notes: tuple[str, ...] = ()
) -> str:
    """Why the job waits, the main reasons with their share of the nodes, what would admit it and when it may start."""
    summary = explanation.summary or "waits: not looked at yet"
    parts = [_sentence(summary)]
    if pods > 1:
        parts.append(f"It starts together with its gang of {pods} pods.")
    total = explanation.nodes_considered
    others = [one for one in explanation.reasons if one.message and one.message not in summary]
    if others:
        shown = [
            f"{one.message} ({one.nodes} of {total} nodes)" if one.nodes else one.message
            for one in others[:REASONS_SHOWN]
        ]
        parts.append(_sentence("Also: " + "; ".join(shown)))
    # What has to end first is told with the expected start.
    changes = [one.message for one in explanation.changes if one.kind != "after_job_ends"]
    remedies = list(dict.fromkeys((*explanation.remedies, *changes)))
    if not remedies and not explanation.HasField("expected_start"):
        known = (REMEDIES.get(one.code, "") for one in explanation.reasons)
        remedies = list(dict.fromkeys(one for one in known if one))
    if remedies:
        parts.append(_sentence("What would admit it: " + "; ".join(remedies[:REMEDIES_SHOWN])))
    if explanation.HasField("expected_start"):
        when = explanation.expected_start.ToDatetime().strftime("%Y-%m-%dT%H:%MZ")
        at_least = "not before" if explanation.expected_start_at_least else "about"
        after = f", after {', '.join(explanation.expected_after[:3])}" if explanation.expected_after else ""
        parts.append(f"Expected to start: {at_least} {when}{after}.")
    if notes:
        parts.append(_sentence("Not looked at: " + "; ".join(notes)))
    parts.append(f"More: berth explain {job}")
    return " ".join(parts)


def shortened(text: str) -> str:
    """At most what an event takes."""
    encoded = text.encode()
    if len(encoded) <= EVENT_BYTES:
        return text
    return encoded[: EVENT_BYTES - 4].decode(errors="ignore") + " ..."


def same_but_for_numbers(one: str, other: str) -> bool:
    """Such texts need not be told again at once."""
    return NUMBER.sub("#", one) == NUMBER.sub("#", other)


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
