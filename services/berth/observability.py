"""Traces, metrics and logs.

One trace a job: the publisher's traceparent (or a new one) is the parent of the span `accept`, whose context is
kept on the job's row; every later span of the job is its child. Spans of a batch link to it instead. The OTLP
exporter follows the standard OTEL_... variables; `span_dir` keeps spans as JSON lines for `berth trace`.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from prometheus_client import Counter, Gauge, Histogram

__all__ = [
    "CONSUMED_RECORDS",
    "DEAD_LETTERS",
    "HANDLER_SECONDS",
    "OUTBOX_PENDING",
    "RECORDS_PUBLISHED",
    "configure_logging",
    "configure_tracing",
    "new_traceparent",
    "parse_traceparent",
    "record_span",
    "shutdown_tracing",
    "traceparent_of",
    "tracing_enabled",
]

RECORDS_PUBLISHED = Counter("berth_records_published_total", "Records that the broker has taken.", ["topic"])
CONSUMED_RECORDS = Counter("berth_records_consumed_total", "Records whose effect is committed.", ["topic"])
DEAD_LETTERS = Counter("berth_dead_letters_total", "Records that could not be understood.", ["topic", "code"])
OUTBOX_PENDING = Gauge("berth_outbox_pending", "Rows of the outbox seen by the relay's last look, at most one batch.")
HANDLER_SECONDS = Histogram("berth_handler_seconds", "Time to handle one batch of records.", ["topic"])


def configure_logging(service: str, *, level: str = "info", format: str = "json") -> None:
    """Structured logs on standard error; each line carries the trace id where one is current."""

    def add_trace(_logger: Any, _method: str, event: Any) -> Any:
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            event["trace_id"] = f"{context.trace_id:032x}"
            event["span_id"] = f"{context.span_id:016x}"
        return event

    renderer: Any = structlog.processors.JSONRenderer() if format == "json" else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            add_trace,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr
    )


class JsonLinesExporter(SpanExporter):
    """Keeps spans in a file, one JSON object a line."""

    def __init__(self, path: Path, service: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._service = service

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        lines = []
        for span in spans:
            context = span.get_span_context()
            if context is None:
                continue
            lines.append(
                json.dumps(
                    {
                        "trace_id": f"{context.trace_id:032x}",
                        "span_id": f"{context.span_id:016x}",
                        "parent_id": f"{span.parent.span_id:016x}" if span.parent else "",
                        "service": self._service,
                        "name": span.name,
                        "start_ns": span.start_time,
                        "end_ns": span.end_time,
                        "status": span.status.status_code.name,
                        "attributes": dict(span.attributes or {}),
                        "links": [f"{link.context.trace_id:032x}" for link in span.links],
                    }
                )
            )
        self._file.write("\n".join(lines) + "\n")
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self._file.close()


def configure_tracing(service: str, *, span_dir: Path | None = None) -> None:
    """OTLP where OTEL_EXPORTER_OTLP_ENDPOINT is set; files where `span_dir` is; else spans cost next to nothing."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    provider = TracerProvider(resource=Resource.create({"service.name": f"berth-{service}"}))
    wanted = False
    if any(os.environ.get(f"OTEL_EXPORTER_OTLP_{kind}ENDPOINT") for kind in ("", "TRACES_")):
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        wanted = True
    if span_dir is not None:
        exporter = JsonLinesExporter(span_dir / f"{service}-{os.getpid()}.jsonl", service)
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=300, max_queue_size=65536))
        wanted = True
    if wanted:
        trace.set_tracer_provider(provider)


def tracing_enabled() -> bool:
    """Whether spans go anywhere."""
    return isinstance(trace.get_tracer_provider(), TracerProvider)


def shutdown_tracing() -> None:
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.shutdown()


def parse_traceparent(traceparent: str) -> SpanContext | None:
    """The span context of a W3C traceparent, or None where it is not one."""
    parts = traceparent.strip().split("-")
    if len(parts) < 4 or [len(part) for part in parts[:4]] != [2, 32, 16, 2]:
        return None
    try:
        trace_id, span_id, flags = int(parts[1], 16), int(parts[2], 16), int(parts[3], 16)
    except ValueError:
        return None
    if not trace_id or not span_id or parts[0] == "ff":
        return None
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))


def traceparent_of(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def new_traceparent() -> str:
    """A fresh, sampled trace of our own."""
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"


def record_span(
    name: str,
    *,
    parent: str = "",
    start: float,
    end: float,
    attributes: Mapping[str, str | int | float | bool] | None = None,
    links: Sequence[str] = (),
    kind: SpanKind = SpanKind.INTERNAL,
    error: str = "",
) -> str:
    """A span that is over, from `start` to `end` (seconds since the epoch). Gives its traceparent.

    `parent` and `links` are traceparents. Where tracing is off the parent's own traceparent comes back, so
    that the trace's identity survives.
    """
    context = None
    parent_context = parse_traceparent(parent) if parent else None
    if parent_context is not None:
        context = trace.set_span_in_context(NonRecordingSpan(parent_context))
    span = trace.get_tracer("berth").start_span(
        name,
        context=context,
        kind=kind,
        attributes=dict(attributes or {}),
        links=[Link(linked) for linked in map(parse_traceparent, links) if linked is not None],
        start_time=int(start * 1e9),
    )
    if error:
        span.set_status(Status(StatusCode.ERROR, error))
    span.end(end_time=int(max(start, end) * 1e9))
    own = span.get_span_context()
    return traceparent_of(own) if own.is_valid else parent
