"""OpenTelemetry traces from the upload through the queue into the worker.

Tracing is off unless the settings name a collector; until `set_up` runs, all functions have no effect. The job document
carries the trace context (`traceparent`, W3C Trace Context).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind

from jobs.settings import Settings

_HEADER = "traceparent"


def set_up(settings: Settings, part: str) -> None:
    """Send the process's spans to the collector in the settings, if the settings name one; call once per process.

    Raises ImportError if the extra `tracing` is not installed.

    Args:
        settings: the settings.
        part: api, worker or grpc; the suffix of the service's name.
    """
    if not settings.otlp_endpoint:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": f"skipvsr-{part}"}))
    exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    trace.set_tracer_provider(provider)


def current() -> str | None:
    """Current span as a `traceparent` for a job document; None without tracing."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get(_HEADER)


@contextmanager
def span(name: str, *, parent: str | None = None, **attributes: str | int | float) -> Iterator[Span]:
    """Open a span around a block, below `parent` (a `traceparent`) if given; exceptions are recorded in the span."""
    context = propagate.extract({_HEADER: parent}) if parent else None
    kind = SpanKind.CONSUMER if parent else SpanKind.INTERNAL
    with trace.get_tracer("skipvsr").start_as_current_span(
        name, context, kind, attributes={f"skipvsr.{key}": value for key, value in attributes.items()}
    ) as current_span:
        yield current_span


def mark(name: str, **attributes: str | int | float) -> None:
    """Add an event to the current span."""
    trace.get_current_span().add_event(name, {f"skipvsr.{key}": value for key, value in attributes.items()})
