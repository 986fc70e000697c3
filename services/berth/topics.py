"""Topics, their headers and how a record is told apart.

A record carries `content-type` and CloudEvents 1.0 headers in binary mode (`ce_id`, `ce_type`, `ce_source`,
`ce_specversion`), and W3C `traceparent` where it belongs to a trace.
"""

from typing import Final

JOBS_SUBMITTED: Final = "jobs.submitted"
PLACEMENTS_DECIDED: Final = "placements.decided"
BINDINGS_SETTLED: Final = "bindings.settled"
JOBS_LIFECYCLE: Final = "jobs.lifecycle"
TELEMETRY_DEVICES: Final = "telemetry.devices"
FLEET_NODES: Final = "fleet.nodes"
PROFILES_CHANGED: Final = "profiles.changed"

DEAD_LETTER_SUFFIX: Final = ".dead-letter"

SOURCE_TOPICS: Final = (
    JOBS_SUBMITTED,
    PLACEMENTS_DECIDED,
    BINDINGS_SETTLED,
    JOBS_LIFECYCLE,
    TELEMETRY_DEVICES,
    FLEET_NODES,
    PROFILES_CHANGED,
)
COMPACTED_TOPICS: Final = frozenset({FLEET_NODES, PROFILES_CHANGED})

PROTOBUF: Final = "application/protobuf"
JSON: Final = "application/json"
CLOUDEVENTS_JSON: Final = "application/cloudevents+json"

JOB_SUBMITTED_TYPE: Final = "berth.v1.JobSubmitted"


def dead_letter_topic(topic: str) -> str:
    return topic + DEAD_LETTER_SUFFIX


def cloud_event_headers(
    *, event_id: str, event_type: str, source: str, content_type: str = PROTOBUF, traceparent: str = ""
) -> dict[str, str]:
    headers = {
        "content-type": content_type,
        "ce_specversion": "1.0",
        "ce_id": event_id,
        "ce_type": event_type,
        "ce_source": source,
    }
    if traceparent:
        headers["traceparent"] = traceparent
    return headers
