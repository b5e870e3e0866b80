"""Settings of the HTTP API and the gRPC server. `jobs.settings.Settings` is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings


class ServerSettings(BaseSettings):
    """Addresses, and limits on connections, streams and messages."""

    http_host: str = Field("127.0.0.1", description="Listen address of the HTTP API.")
    http_port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="Listen port of the HTTP API.")
    http_names: str = Field(
        "",
        description="Comma-separated public host names that the HTTP API accepts if the service has no API keys. IP "
        "addresses and names of local networks are always accepted.",
    )
    http_max_connections: Annotated[int, Field(ge=1)] = Field(
        512,
        description="Maximum number of open HTTP connections. A new connection replaces the connection that waits "
        "longest for a request; if all are at work, the API answers with status 503. The limit of open files can lower "
        "this number.",
    )
    http_max_streams: Annotated[int, Field(ge=0)] = Field(
        256,
        description="Maximum number of event streams and waiting requests (`Prefer: wait`). The API rejects further "
        "streams with status 503, and further requests do not wait. http_max_connections does not count "
        "these streams and requests.",
    )
    http_max_key_streams: Annotated[int, Field(ge=0)] = Field(
        64,
        description="Maximum number of event streams and waiting requests of an API key of `skipvsr keys`.",
    )
    http_head_seconds: Annotated[float, Field(gt=0)] = Field(
        10.0,
        description="Seconds in which the head of an HTTP request must arrive, from the start of the connection or "
        "the end of the last response.",
    )
    grpc_host: str = Field("127.0.0.1", description="Listen address of the gRPC server.")
    grpc_port: Annotated[int, Field(ge=0, le=65535)] = Field(50051, description="Listen port of the gRPC server.")
    grpc_max_streams: Annotated[int, Field(ge=1)] = Field(
        8,
        description="Maximum number of concurrent gRPC streams; the server rejects further streams with "
        "RESOURCE_EXHAUSTED.",
    )
    grpc_memory_bytes: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Maximum estimated memory in bytes of all gRPC streams together. Beyond the maximum, a new stream "
        "gets a shorter chunk, or RESOURCE_EXHAUSTED. 0: 70 % of the free memory of the GPU, or of the "
        "system and the control group, when the server starts.",
    )
    grpc_max_watchers: Annotated[int, Field(ge=1)] = Field(
        256,
        description="Maximum number of gRPC calls that watch a job; the server rejects further calls with "
        "RESOURCE_EXHAUSTED.",
    )
    grpc_max_downloads: Annotated[int, Field(ge=1)] = Field(
        64,
        description="Maximum number of concurrent downloads of results over gRPC; the server rejects further downloads "
        "with RESOURCE_EXHAUSTED.",
    )
    grpc_max_connections: Annotated[int, Field(ge=1)] = Field(
        8192,
        description="Maximum number of open gRPC connections; the server closes further connections at once. The limit "
        "of open files can lower this number.",
    )
    grpc_session_bytes: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Maximum main memory in bytes for the states of disconnected gRPC streams. On a GPU, these states "
        "move to main memory; beyond the maximum, the oldest streams cannot resume. 0: 10 % of the free "
        "memory of the system and the control group when the server starts.",
    )
    grpc_in_flight: Annotated[int, Field(ge=1, le=256)] = Field(
        8,
        description="Maximum number of frames of a gRPC stream whose answers the client has not read, besides "
        "look-ahead and chunks in work.",
    )
    grpc_batch: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Maximum number of gRPC streams in a batch. Streams of a batch have equal frame sizes and "
        "configs. 1: no batches; 0: automatic, a total of 57,600 pixels on a CPU. On a GPU, the memory "
        "limits every batch.",
    )
    grpc_max_message_bytes: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(
        0,
        description="Maximum size of a gRPC message in bytes, such as a frame or a chunk of an upload. 0: eight bytes "
        "for each pixel of the largest frame (SKIPVSR_MAX_PIXELS), and at least 1 MiB.",
    )
    grpc_idle_seconds: Annotated[float, Field(gt=0)] = Field(
        60.0,
        description="Seconds without a frame from the client, or without a read of an answer by the client, before a "
        "gRPC stream ends. The server closes a connection without a call after the same time.",
    )
    grpc_session_seconds: Annotated[float, Field(gt=0)] = Field(
        60.0,
        description="Seconds after a lost connection during which the client can resume a stream: the server keeps "
        "the stream's state.",
    )
    grpc_drain_seconds: Annotated[float, Field(ge=0)] = Field(
        10.0, description="Seconds after SIGTERM before the server ends the remaining gRPC streams."
    )
    grpc_keepalive_seconds: Annotated[float, Field(ge=1)] = Field(
        20.0,
        description="Seconds without traffic before the server probes a gRPC connection. The server closes a "
        "connection without an answer after half this time.",
    )
    grpc_metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="Port of the gRPC server's Prometheus metrics; 0: no metrics."
    )
    grpc_tls_cert: Path | None = Field(None, description="Certificate file (PEM) of the gRPC server; empty: no TLS.")
    grpc_tls_key: Path | None = Field(None, description="Private key file (PEM) of the gRPC server's certificate.")
    grpc_tls_client_ca: Path | None = Field(
        None,
        description="CA file (PEM) that must have signed the certificates of gRPC clients; empty: clients need no "
        "certificate.",
    )
