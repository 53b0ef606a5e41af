"""Logs, traces: structured, and unable to hold patient data.

A log line is a member of ``Event`` with the fields it names: free text cannot be logged.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from opentelemetry import trace

from carefolio.cloud.settings import settings

_OURS = str(Path(__file__).parents[3])


class Event(Enum):
    """Everything that is ever logged: severity, and the fields that may go with it."""

    MESSAGE_ANSWERED = ("INFO", "message_id", "sender_id", "message_type", "code", "duplicate", "bytes")
    SENDER_REFUSED = ("WARNING", "reason", "sender_id")
    MESSAGE_SETTLED = ("INFO", "message_id", "status", "reason", "resources")
    MESSAGE_FAILED = ("ERROR", "message_id", "error", "where", "attempt")
    TOKEN_ISSUED = ("INFO", "client_id", "scope")
    TOKEN_REFUSED = ("WARNING", "client_id", "reason")
    TOKEN_REVOKED = ("INFO",)
    SECURITY = ("INFO", "kind", "detail")
    SECURITY_ALERT = ("WARNING", "kind", "detail")
    LETTER_SENT = ("INFO", "kind")
    LETTER_FAILED = ("ERROR", "kind", "error")
    PROVIDER_FAILED = ("WARNING", "provider", "error")
    EXTRACT_FETCHED = ("INFO", "agreement", "files", "bytes", "batches")
    EXTRACT_ALERT = ("WARNING", "agreement", "reason")
    EXTRACT_LOADED = ("INFO", "agreement", "batch", "rows", "created", "updated", "removed", "parked")
    EXTRACT_FAILED = ("ERROR", "agreement", "batch", "stage", "error", "where")
    REQUEST = ("INFO", "function", "method", "route", "status", "milliseconds")
    UNAVAILABLE = ("ERROR", "function", "error")
    UNEXPECTED = ("CRITICAL", "function", "error", "where")
    SUBSCRIPTION_FAILED = ("ERROR", "subscription", "error", "where")
    COHORT_FAILED = ("ERROR", "group", "error", "where")
    INVARIANTS_ENDED = ("WARNING",)
    SUBSCRIPTION_UNTAKEN = ("INFO", "subscription", "reason")
    JOB_FAILED = ("ERROR", "job", "kind", "error", "where")
    OUTBOX_FAILED = ("ERROR", "error")
    PUSH_REFUSED = ("WARNING", "reason")
    DELIVERY_FAILED = ("WARNING", "topic", "status", "attempt")
    DEAD_LETTER = ("ERROR", "topic", "attempt")
    COPY_FAILED = ("ERROR", "place", "error")
    RECOVERY_LOOKED = ("INFO", "promises")
    RECOVERY_ALERT = ("ERROR", "promise", "detail")


_output: BinaryIO | None = None


def log_to(output: BinaryIO) -> None:
    """Where log lines go from now on: a command's standard output is for its answer."""
    global _output
    _output = output


def log(event: Event, **fields: Any) -> None:
    """Write one line of JSON to standard output, with the trace that it belongs to.

    Raises KeyError for a field that the event does not name.
    """
    severity, *allowed = event.value
    for name in fields:
        if name not in allowed:
            raise KeyError(name)
    line: dict[str, Any] = {"severity": severity, "event": event.name.lower(), "time": datetime.now(UTC)}
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        project = settings().project
        trace_id = format(span.trace_id, "032x")
        line["logging.googleapis.com/trace"] = f"projects/{project}/traces/{trace_id}" if project else trace_id
        line["logging.googleapis.com/spanId"] = format(span.span_id, "016x")
    line |= {name: value for name, value in fields.items() if value is not None}
    output = _output or sys.stdout.buffer
    output.write(orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE))
    output.flush()


def where(error: BaseException) -> str:
    """The innermost line of our own code that an exception passed; never its text, which may quote data."""
    place = ""
    step = error.__traceback__
    while step is not None:
        name = step.tb_frame.f_code.co_filename
        if name.startswith(_OURS) and "site-packages" not in name:
            place = f"{name[len(_OURS) + 1 :]}:{step.tb_lineno}"
        step = step.tb_next
    return place


@lru_cache(maxsize=1)
def tracer() -> trace.Tracer:
    """The tracer; spans go to OTEL_EXPORTER_OTLP_ENDPOINT, for TRACE_SHARE of the requests."""
    wanted = settings()
    if wanted.otlp_endpoint and wanted.trace_share > 0:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(wanted.trace_share)),
            resource=Resource.create(
                {"service.name": wanted.function or "carefolio", "gcp.project_id": wanted.project}
            ),
        )
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(session=_session())))
        trace.set_tracer_provider(provider)
    return trace.get_tracer("carefolio")


def _session() -> Any:
    """How spans are sent: in the cloud in this process's name, to Google's own endpoint for OTLP.

    (https://cloud.google.com/stackdriver/docs/reference/telemetry/overview)
    """
    if not settings().project:
        return None
    import google.auth
    from google.auth.transport.requests import AuthorizedSession

    credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    return AuthorizedSession(credentials)  # type: ignore[no-untyped-call]


_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\Z")


@contextmanager
def span(name: str, parent: str = "", **attributes: str | int) -> Iterator[trace.Span]:
    """A span; ``parent`` is a W3C traceparent header, which a caller may leave out or get wrong."""
    if not parent and not settings().trace_share and not trace.get_current_span().get_span_context().is_valid:
        # Nobody records and nobody called with a trace: six spans a message for nothing are a twentieth of its time.
        yield trace.INVALID_SPAN
        return
    context = None
    if match := _TRACEPARENT.match(parent):
        trace_id, span_id, flags = (int(part, 16) for part in match.groups())
        remote = trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(flags))
        if remote.is_valid:
            context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
    with tracer().start_as_current_span(name, context=context, attributes=attributes, record_exception=False) as made:
        yield made


def traceparent() -> str:
    """The current span as a W3C traceparent header, '' where there is none."""
    current = trace.get_current_span().get_span_context()
    if not current.is_valid:
        return ""
    return f"00-{current.trace_id:032x}-{current.span_id:016x}-{int(current.trace_flags):02x}"
