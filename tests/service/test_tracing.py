"""Tracing: a collector receives one trace from the upload through the queue to the worker."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from jobs import tracing
from tests.commands.test_up import Up
from tests.support.clips import make_clip
from tests.support.processes import wait_until


class Collector:
    """An OTLP collector that stores spans: (service, span name, trace id, parent's id)."""

    def __init__(self) -> None:
        spans: list[tuple[str, str, bytes, bytes]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    attributes = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
                    spans.extend(
                        (attributes["service.name"], span.name, span.trace_id, span.parent_span_id)
                        for scope in resource.scope_spans
                        for span in scope.spans
                    )
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.spans = spans
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    thread = threading.Thread(target=running.server.serve_forever)
    thread.start()
    yield running
    running.server.shutdown()
    thread.join()
    running.server.server_close()


@pytest.mark.slow
def test_trace_continues_through_the_queue(collector: Collector, data_dir: Path, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=6)
    up = Up(data_dir, SKIPVSR_OTLP_ENDPOINT=collector.url)
    try:
        up.wait_for("SkipVSR is ready")
        with clip.open("rb") as file:
            answer = httpx.post(f"{up.url}/upscale", files={"file": file}, timeout=60)
        assert answer.status_code == 202, answer.text
        job = answer.json()
        wait_until(lambda: up.get(f"/jobs/{job['id']}")["state"] == "done", 60, "the job was not done")
        wait_until(lambda: any(name == "upscale" for _, name, _, _ in collector.spans), 60, str(collector.spans))
        wait_until(lambda: any("/upscale" in name for _, name, _, _ in collector.spans), 60, str(collector.spans))
    finally:
        up.process.terminate()
        up.process.wait(60)
    upload = next(span for span in collector.spans if span[1] == "POST /upscale")
    work = next(span for span in collector.spans if span[1] == "upscale")
    assert (upload[0], work[0]) == ("skipvsr-api", "skipvsr-worker")
    assert upload[2] == work[2]
    assert work[3] != b""
    assert job["traceparent"].split("-")[1] == upload[2].hex()
    assert not any("/healthz" in name or "/readyz" in name for _, name, _, _ in collector.spans)


def test_tracing_is_off_by_default() -> None:
    with tracing.span("work", job_id="1") as span:
        assert not span.is_recording()
        assert tracing.current() is None
        tracing.mark("event", number=1)
