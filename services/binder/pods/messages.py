"""What a waiting pod says, for somebody who has never heard of Berth. Pure."""

from berth.v1 import placement_pb2

__all__ = ["EVENT_BYTES", "of_explanation", "shortened"]

REASONS_SHOWN = 4
REMEDIES_SHOWN = 3
EVENT_BYTES = 1024
"""What the API takes of an event's note."""


def of_explanation(explanation: placement_pb2.Explanation, *, job: str, notes: tuple[str, ...] = ()) -> str:
    """Why the job waits, the main reasons with their share of the nodes, what would admit it and when it may start.

    Says nothing that changes from second to second, so that it is not written again for that.
    """
    parts = [_sentence(explanation.summary or "waits: not looked at yet")]
    total = explanation.nodes_considered
    reasons = [
        f"{one.nodes} of {total} nodes: {one.message}" if one.nodes else one.message
        for one in explanation.reasons[:REASONS_SHOWN]
        if one.message
    ]
    if reasons:
        parts.append(_sentence("Reasons: " + "; ".join(reasons)))
    if explanation.remedies:
        parts.append(_sentence("What would admit it: " + "; ".join(explanation.remedies[:REMEDIES_SHOWN])))
    if explanation.HasField("expected_start"):
        when = explanation.expected_start.ToDatetime().strftime("%Y-%m-%dT%H:%MZ")
        at_least = "not before" if explanation.expected_start_at_least else "about"
        parts.append(f"Expected to start: {at_least} {when}.")
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


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
