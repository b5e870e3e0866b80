"""Settings: one typed class. The entry point of a process creates the settings once and passes them on."""

from __future__ import annotations

import os
from base64 import b64decode
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from dotenv import dotenv_values
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from jobs.environment import unknown_variables
from jobs.secret_files import SECRETS, SecretFiles
from jobs.server_settings import ServerSettings
from jobs.storage_settings import StorageSettings


class Settings(ServerSettings, StorageSettings):  # pydantic lists the fields of the last class first
    """All settings. Each is an environment variable `SKIPVSR_<NAME>` or a line of `.env`; an empty value is unset."""

    model_config = SettingsConfigDict(
        env_prefix="SKIPVSR_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    device: str = Field(
        "auto",
        description="Compute device of the network: auto, cpu, cuda or cuda:N. auto: a GPU that computes right "
        "frames in a trial, else the CPU.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        "auto",
        description="Number format of the network. auto: int8 on CPUs with VNNI for models with good scales; else "
        "bf16 if the device supports bf16; else fp16 on a GPU that passes a trial in fp16; else fp32.",
    )
    max_model_bytes: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Maximum memory in bytes for a chunk in the network; longer chunks of jobs and gRPC streams are "
        "shortened. 0: 70 % of the memory that the GPU, or the system and the control group, have free.",
    )
    threads: Annotated[int, Field(ge=0)] = Field(
        0, description="Number of CPU threads for the network; 0: one thread per core."
    )
    encoder: Literal["device", "software", "auto", "nvenc", "vaapi"] = Field(
        "device",
        description="Encoder of results. device: nvenc if the network computes on an NVIDIA GPU, else software. "
        "software: the same bytes on every x86 CPU with AVX2; the number of threads also changes the "
        "bytes: one thread if the network computes on at most four cores, else four. nvenc, vaapi: the "
        "named hardware encoder if the encoder works, else software. auto: the first working encoder.",
    )
    model: str = Field(
        "auto",
        description="Model of jobs without a model option; auto: small-x2 up to twice the size, else small, or "
        "basicvsr-video on GPUs with bfloat16.",
    )

    api_key: SecretStr | None = Field(
        None,
        description="API key of the administrator (`Authorization: Bearer` or `X-API-Key`), for all jobs and without "
        "limits; `skipvsr keys` manages further keys. Empty, and no other keys: the service is open. Clients "
        "(`skipvsr submit`, `stream`) send this key.",
    )
    require_api_key: bool = Field(
        False,
        description="true: the service is closed even while no API key exists, for example without its data folder.",
    )
    webhook_secret: SecretStr | None = Field(
        None,
        description="Secret that signs webhooks: `whsec_` and 24 to 64 random bytes in base64. Two secrets with a "
        "space between sign every message twice, while receivers change over. Empty: no webhooks.",
    )
    webhook_hosts: str = Field(
        "*",
        description="Comma-separated hosts to which webhooks may go; *.example.com allows all names below "
        "example.com, and * all hosts.",
    )
    webhook_networks: str = Field(
        "",
        description="Comma-separated private networks or addresses to which webhooks may go, for example 10.0.0.0/8. "
        "Empty: webhooks reach public addresses only.",
    )
    max_upload_bytes: Annotated[int, Field(ge=1)] = Field(
        4 * 1024**3, description="Maximum size of an upload in bytes; the API rejects larger uploads with status 413."
    )
    max_pixels: Annotated[int, Field(ge=1)] = Field(
        1920 * 1088, description="Maximum number of pixels in a source frame."
    )
    max_output_pixels: Annotated[int, Field(ge=1)] = Field(
        7680 * 4352, description="Maximum number of pixels in an output frame."
    )
    max_duration_seconds: Annotated[float, Field(gt=0)] = Field(
        4 * 3600, description="Maximum duration of a video in seconds."
    )
    max_frames: Annotated[int, Field(ge=1)] = Field(1_000_000, description="Maximum number of frames in a video.")
    max_streams: Annotated[int, Field(ge=1)] = Field(
        32, description="Maximum number of streams (video, audio, subtitles, …) in a file."
    )
    max_probe_bytes: Annotated[int, Field(ge=4096)] = Field(
        16 * 1024**2, description="Maximum number of bytes that the probe reads to identify a file."
    )
    max_probe_memory_bytes: Annotated[int, Field(ge=64 * 1024**2)] = Field(
        512 * 1024**2,
        description="Maximum memory (address space) in bytes of the process that identifies a file. Each server "
        "process identifies four files at the same time.",
    )
    max_decoder_bytes: Annotated[int, Field(ge=1)] = Field(
        4 * 1024**3, description="Maximum memory (address space) of the decoder process in bytes."
    )
    max_decoder_seconds: Annotated[float, Field(gt=0)] = Field(
        60.0, description="Seconds in which the decoder process must return the next frame."
    )
    require_jail: bool = Field(
        False,
        description="true: API, worker and gRPC server start only if the kernel enforces all layers of the decoder's "
        "jail.",
    )
    upload_idle_seconds: Annotated[float, Field(gt=0)] = Field(
        60.0, description="Seconds without data before the API ends an upload with status 408."
    )
    upload_min_rate: Annotated[float, Field(ge=0)] = Field(
        16384.0,
        description="Minimum rate of an upload in bytes per second, on average after upload_idle_seconds; the API ends "
        "slower uploads with status 408, the gRPC server with DEADLINE_EXCEEDED. 0: no minimum.",
    )
    max_uploads: Annotated[int, Field(ge=1)] = Field(
        16,
        description="Maximum number of uploads that a server process receives at the same time; the API rejects "
        "further uploads with status 503.",
    )
    max_open_uploads: Annotated[int, Field(ge=1)] = Field(
        100,
        description="Maximum number of open resumable uploads of an API key; the API rejects further uploads with "
        "status 429.",
    )
    max_queue_hours: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="Hours that a job of an API key may wait before the API rejects further jobs of this key with "
        "status 429. 0: no limit.",
    )
    upload_ttl_hours: Annotated[float, Field(gt=0)] = Field(
        24.0, description="Hours after the last byte before a resumable upload without a job is removed."
    )
    url_hosts: str = Field(
        "",
        description="Comma-separated hosts from which the API may fetch videos (`url=` of POST /upscale); "
        "`*.example.com`: all names below example.com; `*`: all hosts. Empty: the API fetches nothing.",
    )
    url_networks: str = Field(
        "",
        description="Comma-separated private networks or addresses from which the API may fetch videos, for example "
        "10.0.0.0/8. Empty: public addresses only.",
    )
    url_seconds: Annotated[float, Field(gt=0)] = Field(
        3600.0, description="Maximum seconds in which a video must arrive from another host."
    )
    download_idle_seconds: Annotated[float, Field(gt=0)] = Field(
        60.0,
        description="Seconds without a read by the client before the API or the gRPC server ends a download.",
    )

    weights_dir: Path | None = Field(
        None,
        description="Folder of model weights, with user models as NAME.safetensors; empty: the folder weights in "
        "data_dir.",
    )
    metrics_host: str = Field(
        "127.0.0.1",
        description="Listen address of the Prometheus metrics of workers and gRPC server, which need no key.",
    )
    worker_metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="Port of a worker's Prometheus metrics; 0: no metrics."
    )
    heartbeat_seconds: Annotated[float, Field(gt=0)] = Field(
        2.0,
        description="Seconds between two heartbeats of a worker. Progress and requests to cancel or pause the job "
        "take one second at most.",
    )
    worker_lost_seconds: Annotated[float, Field(gt=0)] = Field(
        20.0,
        description="Seconds without a heartbeat before a worker counts as dead and its job returns to the queue.",
    )
    max_deaths: Annotated[int, Field(ge=1)] = Field(
        3,
        description="Number of workers that may die in a row at the same frame of a job before the job fails.",
    )
    chunk_timeout_minutes: Annotated[float, Field(gt=0)] = Field(
        240.0, description="Minutes without a finished frame before a worker treats its job as hung and exits."
    )
    job_timeout_hours: Annotated[int, Field(ge=1, le=8760)] = Field(
        720,
        description="Maximum hours of work on a job. After this time, the job fails.",
    )
    stop_grace_seconds: Annotated[float, Field(gt=0)] = Field(
        60.0,
        description="Seconds after SIGTERM in which a worker may finish its chunk. A worker that expects to need "
        "longer abandons the chunk at once.",
    )
    input_ttl_hours: Annotated[float, Field(ge=0)] = Field(
        24.0, description="Hours after the end of a job before its uploaded file is removed."
    )
    result_ttl_hours: Annotated[float, Field(ge=0)] = Field(
        168.0, description="Hours after the end of a job before its result is removed."
    )
    failed_ttl_hours: Annotated[float, Field(ge=0)] = Field(
        72.0, description="Hours after the failure of a job before its files are removed."
    )
    history_ttl_hours: Annotated[float, Field(ge=0)] = Field(
        720.0, description="Hours after the end of a job before its document is removed."
    )
    history_jobs: Annotated[int, Field(ge=0)] = Field(
        10_000,
        description="Maximum number of finished jobs. Beyond the maximum, the oldest jobs of the API key with the "
        "most jobs are removed, with their files. The documents of finished jobs never take more than "
        "half of Redis' maxmemory. 0: no maximum number.",
    )
    janitor_seconds: Annotated[float, Field(gt=0)] = Field(
        300.0, description="Seconds between two searches for expired files and orphaned folders."
    )
    orphan_minutes: Annotated[float, Field(gt=0)] = Field(
        60.0, description="Minutes without a change before a folder without a job is removed."
    )
    quota_gb: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Maximum size of all job files together in GB; 0: no limit."
    )
    min_free_gb: Annotated[float, Field(ge=0)] = Field(
        0.5,
        description="Disk space in GB that must stay free; the server rejects uploads and pauses jobs that need this "
        "space.",
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Minimum severity of log lines."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Format of log lines. text: lines for a terminal; json: one JSON document per line."
    )

    otlp_endpoint: str | None = Field(
        None, description="URL of the OpenTelemetry collector (OTLP over HTTP) that receives traces; empty: no tracing."
    )

    @field_validator("webhook_secret")
    @classmethod
    def _is_secret(cls, secret: SecretStr | None) -> SecretStr | None:
        for part in secret.get_secret_value().split() if secret else ():
            try:
                size = len(b64decode(part.removeprefix("whsec_"), validate=True))
            except ValueError:
                size = 0
            if not 24 <= size <= 64:
                raise ValueError('is no webhook secret: use echo "whsec_$(openssl rand -base64 32)"')
        return secret

    @field_validator("webhook_networks", "url_networks")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        for part in filter(None, map(str.strip, text.split(","))):
            ip_network(part)
        return text

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Add the files that variables name (`SKIPVSR_API_KEY_FILE`) to pydantic's sources; the first source wins."""
        env_files, dotenv_files = (SecretFiles(settings_cls, source) for source in (env_settings, dotenv_settings))
        return init_settings, env_settings, env_files, dotenv_settings, dotenv_files, file_secret_settings

    @classmethod
    def unknown_variables(cls) -> list[str]:
        """One line for each variable of the environment or of `.env` that looks like a setting but is none."""
        file = cls.model_config.get("env_file")
        lines = dotenv_values(file) if isinstance(file, str) else {}
        files = [f"{secret}_file" for secret in SECRETS]
        return unknown_variables([*cls.model_fields, *files], os.environ, lines)

    @property
    def grpc_message_bytes(self) -> int:
        """Maximum size of a gRPC message: `grpc_max_message_bytes`, or enough for a frame of 16-bit RGBA."""
        return self.grpc_max_message_bytes or min(max(2**20, 8 * self.max_pixels), 2**30)

    @property
    def weights(self) -> Path:
        """Folder of model weights: `weights_dir`, or a folder in `data_dir`."""
        return self.weights_dir or self.data_dir / "weights"
