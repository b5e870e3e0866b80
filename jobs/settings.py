"""Settings: one typed class, built once in a process's entry point and passed down. No globals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Every setting is an environment variable `SKIPVSR_<NAME>`, or a line of `.env`; all are in `.env.example`."""

    model_config = SettingsConfigDict(env_prefix="SKIPVSR_", env_file=".env", extra="ignore", frozen=True)

    redis_url: str | None = Field(None, description="A Redis of your own; empty: `skipvsr up` starts one.")
    data_dir: Path = Field(Path("data"), description="Where uploads, checkpoints, results and weights are kept.")
    http_host: str = Field("127.0.0.1", description="Address that the HTTP API listens on.")
    http_port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="Port of the HTTP API.")
    grpc_port: Annotated[int, Field(ge=0, le=65535)] = Field(50051, description="Port of the gRPC server.")

    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Number format of the network; auto: bf16 where the device computes it, else fp32."
    )
    threads: Annotated[int, Field(ge=0)] = Field(0, description="CPU threads for the network; 0: one a core.")
    model: str = Field("auto", description="Model of jobs that name none; auto: the best one for the device.")
