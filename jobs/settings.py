"""Settings: one typed class, built once in a process's entry point and passed down. No globals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Every setting is an environment variable `SKIPVSR_<NAME>`, or a line of `.env`; an empty one is unset."""

    model_config = SettingsConfigDict(
        env_prefix="SKIPVSR_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    redis_url: str | None = Field(None, description="A Redis of your own; empty: `skipvsr up` starts one.")
    data_dir: Path = Field(Path("data"), description="Where uploads, checkpoints, results and weights are kept.")
    http_host: str = Field("127.0.0.1", description="Address that the HTTP API listens on.")
    http_port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="Port of the HTTP API.")
    http_names: str = Field(
        "",
        description="Without an API key: public names by which the HTTP API may be asked, with commas between them; "
        "addresses and names of local networks always may.",
    )
    grpc_host: str = Field("127.0.0.1", description="Address that the gRPC server listens on.")
    grpc_port: Annotated[int, Field(ge=0, le=65535)] = Field(50051, description="Port of the gRPC server.")
    grpc_max_streams: Annotated[int, Field(ge=1)] = Field(
        8, description="Most gRPC streams at a time; further ones end with RESOURCE_EXHAUSTED."
    )
    grpc_in_flight: Annotated[int, Field(ge=1, le=256)] = Field(
        8, description="Frames of a stream that may wait for their answer to be taken, beyond chunk and look-ahead."
    )
    grpc_batch: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Most gRPC streams of one size and config whose waiting frames go through the network together; "
        "1: one by one; 0: as many as pay (on a GPU all, on a CPU while their frames have at most 57,600 pixels).",
    )
    grpc_max_message_bytes: Annotated[int, Field(ge=65536, le=2**31 - 1)] = Field(
        64 * 1024**2, description="Largest gRPC message that is taken, in bytes."
    )
    grpc_idle_seconds: Annotated[float, Field(gt=0)] = Field(
        60.0, description="A gRPC stream on which nothing comes, or no answer is taken, for so long is ended."
    )
    grpc_session_seconds: Annotated[float, Field(gt=0)] = Field(
        60.0, description="How long a gRPC stream's state is kept after its connection broke, for it to be resumed."
    )
    grpc_drain_seconds: Annotated[float, Field(ge=0)] = Field(
        10.0, description="After SIGTERM gRPC streams have so long to end by themselves."
    )
    grpc_keepalive_seconds: Annotated[float, Field(ge=1)] = Field(
        20.0, description="How often a silent gRPC connection is checked; a dead one is closed half as much later."
    )
    grpc_metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="Port on which the gRPC server serves its Prometheus metrics; 0: it serves none."
    )
    grpc_tls_cert: Path | None = Field(None, description="Certificate (PEM) of the gRPC server; empty: no TLS.")
    grpc_tls_key: Path | None = Field(None, description="Its private key (PEM).")
    grpc_tls_client_ca: Path | None = Field(
        None, description="CA (PEM) whose certificate gRPC clients must have; empty: any client."
    )

    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Number format of the network; auto: bf16 where the device computes it, else fp32."
    )
    threads: Annotated[int, Field(ge=0)] = Field(0, description="CPU threads for the network; 0: one a core.")
    encoder: Literal["software", "auto", "nvenc", "vaapi"] = Field(
        "software",
        description="Encoder of results. software: the same bytes on every x86 CPU with AVX2; nvenc, vaapi: that "
        "hardware where it works, else software; auto: whichever works.",
    )
    model: str = Field("auto", description="Model of jobs that name none; auto: small.")

    api_key: SecretStr | None = Field(
        None, description="Key that every request needs (`Authorization: Bearer` or `X-API-Key`); empty: none."
    )
    max_upload_bytes: Annotated[int, Field(ge=1)] = Field(
        4 * 1024**3, description="Largest upload that is taken, in bytes; larger ones end with 413."
    )
    max_pixels: Annotated[int, Field(ge=1)] = Field(1920 * 1088, description="Most pixels of one source frame.")
    max_output_pixels: Annotated[int, Field(ge=1)] = Field(7680 * 4352, description="Most pixels of one output frame.")
    max_duration_seconds: Annotated[float, Field(gt=0)] = Field(4 * 3600, description="Longest video that is taken.")
    max_frames: Annotated[int, Field(ge=1)] = Field(1_000_000, description="Most frames of a video.")
    max_streams: Annotated[int, Field(ge=1)] = Field(
        32, description="Most streams (video, audio, subtitles, …) of a file."
    )
    max_probe_bytes: Annotated[int, Field(ge=4096)] = Field(
        16 * 1024**2, description="Bytes that may be read to find out what a file is."
    )
    max_decoder_bytes: Annotated[int, Field(ge=1)] = Field(
        4 * 1024**3, description="Memory (address space) of the process that decodes."
    )
    max_decoder_seconds: Annotated[float, Field(gt=0)] = Field(
        60.0, description="Time in which the process that decodes must come up with the next frame."
    )
    upload_idle_seconds: Annotated[float, Field(gt=0)] = Field(
        60.0, description="An upload from which nothing comes for so long is given up (408)."
    )

    weights_dir: Path | None = Field(
        None,
        description="Where models' weights are kept, your own as NAME.safetensors; empty: weights in data_dir.",
    )
    worker_metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="Port on which a worker serves its Prometheus metrics; 0: it serves none."
    )
    heartbeat_seconds: Annotated[float, Field(gt=0)] = Field(
        2.0, description="How often a worker says that it is alive, and asks whether its job is to stop."
    )
    worker_lost_seconds: Annotated[float, Field(gt=0)] = Field(
        20.0, description="A worker that was silent for so long is taken for dead, and its job goes to another."
    )
    max_deaths: Annotated[int, Field(ge=1)] = Field(
        3,
        description="A job over which so many workers in a row died at the same place fails, and does not loop.",
    )
    chunk_timeout_minutes: Annotated[float, Field(gt=0)] = Field(
        240.0, description="A chunk that takes longer is taken for hung: the worker ends itself."
    )
    job_timeout_hours: Annotated[int, Field(ge=1, le=8760)] = Field(
        720, description="A job that a worker has had for longer fails."
    )
    stop_grace_seconds: Annotated[float, Field(gt=0)] = Field(
        60.0, description="After SIGTERM a worker finishes its chunk; after so many seconds it gives the chunk up."
    )
    input_ttl_hours: Annotated[float, Field(ge=0)] = Field(
        24.0, description="How long an upload is kept after its job is done."
    )
    result_ttl_hours: Annotated[float, Field(ge=0)] = Field(168.0, description="How long a result is kept.")
    failed_ttl_hours: Annotated[float, Field(ge=0)] = Field(
        72.0, description="How long the files of a failed job are kept."
    )
    history_ttl_hours: Annotated[float, Field(ge=0)] = Field(
        720.0, description="How long the document of a finished job can still be asked for."
    )
    janitor_seconds: Annotated[float, Field(gt=0)] = Field(
        300.0, description="How often expired files and orphans are looked for."
    )
    orphan_minutes: Annotated[float, Field(gt=0)] = Field(
        60.0, description="A folder without a job is removed when nothing in it has changed for so long."
    )
    quota_gb: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Most that all jobs' files together may take, in GB; 0: as much as the disk has."
    )
    min_free_gb: Annotated[float, Field(ge=0)] = Field(
        0.5, description="Uploads are refused and jobs do not start when the disk would have less left, in GB."
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log lines that are written."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="text: lines for a terminal; json: a JSON document a line, as in containers."
    )

    otlp_endpoint: str | None = Field(
        None, description="OpenTelemetry collector (OTLP over HTTP) that traces are sent to; empty: none are made."
    )

    @property
    def weights(self) -> Path:
        """The folder of the weights, whether it was set or follows from `data_dir`."""
        return self.weights_dir or self.data_dir / "weights"
