"""Traces by OpenTelemetry, from the upload through the queue into the worker. Off unless a collector is named.

The API below is always there and does nothing until `set_up` has found a collector in the settings. The trace's
context travels in the job's document (`traceparent`, as W3C has it).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind

from jobs.settings import Settings

_HEADER = "traceparent"


def set_up(settings: Settings, part: str) -> None:
    """Send this process's spans to the collector, if the settings name one; `part` is api, worker or grpc.

    To be called once a process. Raises ImportError where the extra `tracing` is not installed.
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
    """The present span as a `traceparent`, to be written into a job; None where nothing is traced."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get(_HEADER)


@contextmanager
def span(name: str, *, parent: str | None = None, **attributes: str | int | float) -> Iterator[Span]:
    """A span around a block, below `parent` (a `traceparent`) if there is one; it takes note of exceptions."""
    context = propagate.extract({_HEADER: parent}) if parent else None
    kind = SpanKind.CONSUMER if parent else SpanKind.INTERNAL
    with trace.get_tracer("skipvsr").start_as_current_span(
        name, context, kind, attributes={f"skipvsr.{key}": value for key, value in attributes.items()}
    ) as current_span:
        yield current_span


def mark(name: str, **attributes: str | int | float) -> None:
    """Note an event in the present span."""
    trace.get_current_span().add_event(name, {f"skipvsr.{key}": value for key, value in attributes.items()})
