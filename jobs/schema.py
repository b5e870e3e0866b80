"""The job as both sides and the API see it: what was asked (`JobOptions`), and how it goes (`Job`)."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator


class JobState(StrEnum):
    """Where a job stands. Done, failed and cancelled are final, but a failed one can be resumed, as a paused one."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing will happen to the job by itself any more."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


class Priority(StrEnum):
    """Which queue a job waits in; a worker looks into them in this order."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


_HOLDS: Final = {"mov": ("h264", "hevc"), "webm": ("av1",)}
"""Codecs of the containers that don't hold all of them."""


_ROUTINGS: Final = ("off", "balanced", "fast")
STORED: Final = "stored"
"""Validation context for documents that were written down earlier: they may hold what is refused by now."""


class JobOptions(BaseModel):
    """What the user asks for; every field has a default that suits most."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field("auto", description="Name of a model (`skipvsr models` lists them); auto: the server's default.")
    scale: Literal[2, 3, 4] | None = Field(None, description="Enlargement; 4 unless `height` is given.")
    height: Annotated[int, Field(ge=16, le=8192)] | None = Field(
        None, description="Height of the output in pixels, instead of `scale`; the width follows."
    )
    chunk: Annotated[int, Field(ge=1, le=256)] = Field(
        24, description="Frames that are processed, encoded and checkpointed together."
    )
    lookahead: Annotated[int, Field(ge=0, le=64)] = Field(
        4, description="Frames after the chunk that the backward branch sees: more is sharper at the seams, and slower."
    )
    routing: str = Field(
        "balanced",
        description="How much work may be left out: off, balanced or fast.",
        json_schema_extra={"enum": list(_ROUTINGS)},
    )
    codec: Literal["auto", "h264", "hevc", "av1"] = Field(
        "auto", description="Codec of the output: h264, hevc or av1; auto: h264, but av1 in webm."
    )
    container: Literal["auto", "mp4", "mkv", "mov", "webm"] = Field(
        "auto",
        description="Container of the output: mp4, mkv, mov or webm; auto: mp4, but mkv where mp4 would lose "
        "a track, an attachment or the styles of ASS subtitles.",
    )
    crf: Annotated[int, Field(ge=0, le=51)] = Field(18, description="Quality of the encoding, lower is better.")
    priority: Priority = Field(Priority.NORMAL, description="high, normal or low: which queue the job waits in.")

    @field_validator("routing")
    @classmethod
    def _is_known(cls, routing: str, info: ValidationInfo) -> str:
        if routing not in _ROUTINGS and info.context is not STORED:
            raise ValueError("Input should be 'off', 'balanced' or 'fast'")
        return routing

    @model_validator(mode="after")
    def _one_size(self) -> JobOptions:
        if self.scale is not None and self.height is not None:
            raise ValueError("give either scale or height, not both")
        return self

    @model_validator(mode="after")
    def _fits(self) -> JobOptions:
        held = _HOLDS.get(self.container)
        if held is not None and self.codec not in ("auto", *held):
            raise ValueError(f"{self.container} can't hold {self.codec}; it holds {' and '.join(held)}")
        return self


class StreamFacts(BaseModel):
    """What is known of a file's video stream and of what goes with it."""

    container: str
    codec: str
    width: int = Field(description="Pixels, as stored (before rotation).")
    height: int
    frames: int | None = Field(None, description="Number of frames; null where the file does not say.")
    frame_rate: float | None = Field(None, description="Average frames a second.")
    duration_seconds: float | None = None
    pixel_format: str
    bit_depth: int = 8
    size_bytes: int | None = None
    audio: list[str] = Field(default_factory=list, description="Codecs of the audio tracks.")
    subtitles: list[str] = Field(default_factory=list, description="Codecs of the subtitle tracks.")


class Progress(BaseModel):
    """How far a job is."""

    frames_done: int = 0
    frames_total: int | None = Field(None, description="Null where the file does not say how many frames it has.")
    fps: float | None = Field(None, description="Frames a second since the job started.")
    eta_seconds: float | None = None


class JobMetrics(BaseModel):
    """Measured on the machine that did the work, wall-clock seconds."""

    queue_seconds: float | None = Field(None, description="From the upload's end until a worker took the job.")
    processing_seconds: float | None = Field(None, description="From then until the result was published.")
    decode_seconds: float = Field(0.0, description="Spent in decoding (overlaps with the others).")
    model_seconds: float = Field(0.0, description="Spent in the network.")
    encode_seconds: float = Field(0.0, description="Spent in encoding.")
    chunk_seconds: list[float] = Field(default_factory=list, description="Time in the network of each chunk.")
    cuts: list[int] = Field(
        default_factory=list, description="Frames, counted from 0, at which a new scene starts and the network anew."
    )
    skip_ratio: float = Field(0.0, description="Fraction of (tile, block) units of the network that were not run.")
    reuse_ratio: float = Field(
        0.0,
        description="The part of skip_ratio whose tiles were taken over from the frame beside; "
        "the rest an estimator left out.",
    )
    speedup: float = Field(
        1.0, description="Dense network's time over this job's, measured on this machine at this size; 1: no gain."
    )


class Problem(BaseModel):
    """An error, as RFC 9457 (application/problem+json) has it."""

    type: str = Field(description="about:blank, or a URI reference that names the kind.")
    title: str
    status: int
    detail: str


def _now() -> datetime:
    return datetime.now(UTC)


class Job(BaseModel):
    """The job document."""

    id: str
    state: JobState = JobState.QUEUED
    filename: str = Field(description="Name of the uploaded file, as the client gave it, made harmless.")
    options: JobOptions
    created_at: datetime = Field(default_factory=_now)
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempt: int = Field(0, description="How many times a worker has taken the job.")
    files_removed: bool = Field(
        False, description="Of a failed job: whether its files have been removed since, so that it can't be resumed."
    )
    deaths: int = Field(
        0, description="How many workers died over it; too many in a row at the same place, and it fails."
    )
    model: str | None = Field(None, description="Name of the network that does it: what `auto` came to.")
    worker: str | None = Field(None, description="Name of the worker that has it, or had it last.")
    progress: Progress = Field(default_factory=Progress)
    input: StreamFacts | None = None
    output: StreamFacts | None = None
    metrics: JobMetrics = Field(default_factory=JobMetrics)
    warnings: list[str] = Field(default_factory=list, description="What could not be kept, and why.")
    error: Problem | None = None
    traceparent: str | None = Field(None, description="The trace that the upload belongs to, where traces are made.")
