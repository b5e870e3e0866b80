"""Job documents, shared by service, worker and API: the user's options (`JobOptions`) and the job's state (`Job`)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from jobs.errors import SkipVsrError
from jobs.speed import Basis


class JobState(StrEnum):
    """State of a job. Done, failed and cancelled are final; a paused or failed job can be resumed."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether the state changes only at a user's request."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


class Request(StrEnum):
    """A user's request to a running job, until the worker has carried out the request."""

    CANCEL = "cancel"
    PAUSE = "pause"

    @property
    def state(self) -> JobState:
        """State of the job after the request is carried out."""
        return JobState.CANCELLED if self is Request.CANCEL else JobState.PAUSED


class Priority(StrEnum):
    """Queue of a job. A worker reads the queues in the order high, normal, low."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


_CODECS: Final = {"mov": ("h264", "hevc"), "webm": ("av1",)}
"""Codecs of the containers that do not support all codecs."""
_ROUTINGS: Final = ("off", "balanced", "fast")
_SEGMENTS: Final = r"^(auto|off|[1-9]|[1-5][0-9]|6[0-4])$"
PROBLEMS: Final = "/problems/"
"""Path of the pages that explain each kind of error."""
STORED: Final = "stored"
"""Validation context for stored documents: stored documents may hold options that new requests may not use."""


def _wrong(message: str, *fields: str) -> PydanticCustomError:
    """An error of fields that do not fit together."""
    return PydanticCustomError("fields", "{message}", {"message": message, "fields": fields})


class JobOptions(BaseModel):
    """Options of a job. Every field has a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        "auto",
        description="Name of a model (`skipvsr models` lists all models); auto: the server's default, for outputs "
        "of up to twice the size a network for x2.",
    )
    scale: Literal[2, 3, 4] | None = Field(
        None,
        description="Scale factor of width and height. Without `scale` and `height`: the model's scale (4 "
        "for the default), or less: the shorter side then has at most 2160 pixels.",
    )
    height: Annotated[int, Field(ge=16, le=8192)] | None = Field(
        None, description="Height of the output in pixels, instead of `scale`. The width keeps the aspect ratio."
    )
    chunk: Annotated[int, Field(ge=1, le=256)] = Field(
        24, description="Frames per chunk. The worker processes, encodes and checkpoints one chunk at a time."
    )
    lookahead: Annotated[int, Field(ge=0, le=64)] = Field(
        4,
        description="Frames after a chunk that the backward branch reads. More frames improve the frames at chunk "
        "borders and take more time.",
    )
    routing: str = Field(
        "balanced",
        description="How much work the network may skip: off, balanced or fast.",
        json_schema_extra={"enum": list(_ROUTINGS)},
    )
    codec: Literal["auto", "h264", "hevc", "av1"] = Field(
        "auto",
        description="Codec of the output: h264, hevc or av1; auto: av1 in webm, hevc for a source of more "
        "than 8 bits per sample and for more than 4096 pixels a side, h264 otherwise.",
    )
    container: Literal["auto", "mp4", "mkv", "mov", "webm"] = Field(
        "auto",
        description="Container of the output: mp4, mkv, mov or webm; auto: mp4, or mkv if mp4 cannot hold a track, an "
        "attachment or the styles of ASS subtitles, or if few players play a track there.",
    )
    crf: Annotated[int, Field(ge=0, le=51)] = Field(
        18, description="Constant rate factor of the encoder. A lower value gives higher quality and a larger file."
    )
    deinterlace: Literal["frame", "field"] = Field(
        "frame",
        description="Frames made of interlaced video: frame: one frame for two fields; field: one frame for each "
        "field, at twice the frame rate.",
    )
    priority: Priority = Field(Priority.NORMAL, description="Queue of the job: high, normal or low.")
    segments: str = Field(
        "auto",
        description="Segments that several workers process at the same time: auto: some for each idle worker, if the "
        "video is long enough; off: none; or a number from 1 to 64.",
        json_schema_extra={"pattern": _SEGMENTS},
    )

    @field_validator("routing")
    @classmethod
    def _is_known(cls, routing: str, info: ValidationInfo) -> str:
        if routing not in _ROUTINGS and info.context is not STORED:
            raise ValueError("Input should be 'off', 'balanced' or 'fast'")
        return routing

    @field_validator("segments")
    @classmethod
    def _is_number_of_segments(cls, segments: str) -> str:
        if re.fullmatch(_SEGMENTS, segments) is None:
            raise ValueError("Input should be 'auto', 'off' or a number from 1 to 64")
        return segments

    @model_validator(mode="after")
    def _one_size(self) -> JobOptions:
        if self.scale is not None and self.height is not None:
            raise _wrong("give either scale or height, not both", "scale", "height")
        return self

    @model_validator(mode="after")
    def _fits(self) -> JobOptions:
        codecs = _CODECS.get(self.container)
        if codecs is not None and self.codec not in ("auto", *codecs):
            raise _wrong(
                f"{self.container} can't hold {self.codec}; it holds {' and '.join(codecs)}", "container", "codec"
            )
        return self


class JobRequest(JobOptions):
    """A request for a job: the options, and fields without an effect on the result."""

    webhook: str | None = Field(
        None,
        description="URL that gets a signed message (Standard Webhooks) when the job is done, failed, cancelled or "
        "paused. The server must allow webhooks.",
    )

    @property
    def job_options(self) -> JobOptions:
        """The options alone."""
        return JobOptions.model_construct(**{name: getattr(self, name) for name in JobOptions.model_fields})


class StreamFacts(BaseModel):
    """Properties of a file and its streams."""

    container: str = Field(description="Name of the container.")
    codec: str = Field(description="Name of the video codec.")
    width: int = Field(description="Width in pixels as stored, before rotation.")
    height: int = Field(description="Height in pixels as stored, before rotation.")
    frames: int | None = Field(None, description="Number of frames; null if the file does not state the number.")
    frame_rate: float | None = Field(None, description="Average number of frames per second.")
    duration_seconds: float | None = Field(None, description="Duration of the video in seconds.")
    pixel_format: str = Field(description="libav's name of the pixel format.")
    bit_depth: int = Field(8, description="Bits per color channel.")
    size_bytes: int | None = Field(None, description="Size of the file in bytes.")
    audio: list[str] = Field(default_factory=list, description="Codecs of the audio tracks.")
    subtitles: list[str] = Field(default_factory=list, description="Codecs of the subtitle tracks.")


class Progress(BaseModel):
    """Progress of a job."""

    frames_done: int = Field(
        0,
        description="Number of frames done. Frames in work count by their finished work; the number never "
        "falls while a worker processes the job.",
    )
    frames_saved: int = Field(
        0, description="Number of frames upscaled and checkpointed. A paused or interrupted job continues after them."
    )
    frames_total: int | None = Field(None, description="Number of frames in the video; null if unknown.")
    fps: float | None = Field(None, description="Frames per second in the worker's current attempt.")
    eta_seconds: float | None = Field(None, description="Estimated seconds until all frames are done.")

    def at_checkpoint(self) -> Progress:
        """Progress without the frames in work, which are lost."""
        return Progress(frames_done=self.frames_saved, frames_saved=self.frames_saved, frames_total=self.frames_total)


class JobMetrics(BaseModel):
    """Measurements on the worker's machine. Times are wall-clock seconds."""

    queue_seconds: float | None = Field(
        None, description="Seconds from the end of the upload until the first worker claimed the job."
    )
    processing_seconds: float | None = Field(None, description="Seconds of processing, summed over all attempts.")
    decode_seconds: float = Field(0.0, description="Seconds of decoding. Decoding, model and encoding overlap in time.")
    model_seconds: float = Field(0.0, description="Seconds of computation in the network.")
    encode_seconds: float = Field(0.0, description="Seconds of encoding.")
    chunk_seconds: list[float] = Field(
        default_factory=list, description="Seconds of computation in the network for each of the last 1000 chunks."
    )
    cuts: list[int] = Field(
        default_factory=list,
        description="First frame of each of the first 10,000 new scenes, counted from 0. A scene cut resets the "
        "network's state.",
    )
    skip_ratio: float = Field(
        0.0,
        description="Fraction of all (tile, residual block) units that the network did not compute: reused units and "
        "units skipped by gates or by a resting backward trunk.",
    )
    reuse_ratio: float = Field(
        0.0,
        description="Fraction of all (tile, residual block) units that the inter-frame mask reused from a neighboring "
        "frame; a part of skip_ratio.",
    )
    speedup: float = Field(
        1.0,
        description="Speedup is dense time divided by routed time. Dense time follows from the job's own steps that "
        "ran on whole frames, measured on the same machine. 1: no gain.",
    )


class Problem(BaseModel):
    """An error in the format of RFC 9457 (application/problem+json)."""

    type: str = Field(description="URI reference that identifies the kind of error, or about:blank.")
    title: str = Field(description="Name of the kind of error.")
    status: int = Field(description="HTTP status code.")
    detail: str = Field(description="The problem and a remedy, in one line.")

    @classmethod
    def from_error(cls, error: SkipVsrError) -> Problem:
        """Describe an error."""
        return cls(type=f"{PROBLEMS}{error.kind}", title=error.title, status=error.status, detail=str(error))

    def to_error(self) -> SkipVsrError:
        """The described error."""
        return SkipVsrError.again(self.type.removeprefix(PROBLEMS), self.detail)


class InvalidField(BaseModel):
    """The fault in a field of a request."""

    field: str = Field(description="Name of the field; empty: the whole request.")
    detail: str = Field(description="The problem, in one line.")


class InvalidProblem(Problem):
    """The error of an invalid request (status 400)."""

    errors: list[InvalidField] = Field(description="The wrong fields; empty if no single field is wrong.")


class Estimate(BaseModel):
    """Expected time and size of a job's result, at the submission."""

    seconds: float = Field(description="Seconds of processing, without the wait in the queue.")
    seconds_low: float = Field(description="Lower bound: one of ten jobs takes less.")
    seconds_high: float = Field(description="Upper bound: one of ten jobs takes more.")
    width: int = Field(description="Width of the result in pixels.")
    height: int = Field(description="Height of the result in pixels.")
    frames: int = Field(description="Number of frames of the result.")
    bytes: int = Field(description="Size of the result in bytes.")
    basis: Basis = Field(
        description="measured: from finished work like this job; calibrated: from other work, or from a few frames at "
        "the worker's start."
    )


class QueuePlace(BaseModel):
    """A waiting job's place in the queue."""

    position: int = Field(description="1: the next job that a free worker takes.")
    wait_seconds: float | None = Field(description="Estimated seconds until a worker takes the job; null if unknown.")


class JobSegments(BaseModel):
    """Segments of a job that several workers process at the same time."""

    total: int = Field(description="Number of segments.")
    done: int = Field(description="Number of finished segments.")
    workers: int = Field(description="Most workers that have processed the job at the same time.")
    exact_seams: int = Field(
        description="Number of seams right behind a scene cut. There, the frames equal a single worker's frames."
    )
    warmed_seams: int = Field(
        description="Number of seams without a scene cut. The network first reads `warmup_frames` frames before."
    )
    warmup_frames: int = Field(description="Frames before each seam without a scene cut.")


def _now() -> datetime:
    return datetime.now(UTC)


class Job(BaseModel):
    """A job document."""

    id: str = Field(description="Id of the job.")
    owner: str = Field(
        "", description="Id of the API key that created the job; empty: the administrator's key, or no key."
    )
    state: JobState = Field(JobState.QUEUED, description="State of the job.")
    request: Request | None = Field(
        None,
        description="Open request of a user: cancel or pause. The job is still "
        "running, and stops within the time of one frame.",
    )
    filename: str = Field(description="Client's name of the uploaded file, without path and control characters.")
    options: JobOptions
    created_at: datetime = Field(default_factory=_now, description="Time when the upload was complete.")
    started_at: datetime | None = Field(None, description="Time of the last claim by a worker.")
    finished_at: datetime | None = Field(None, description="Time when the job reached a final state.")
    updated_at: datetime | None = Field(None, description="Time of the last change of this document.")
    expires_at: datetime | None = Field(
        None,
        description="Time when the service removes the result, or the files of a failed job; null if the job is not "
        "finished or has no files.",
    )
    attempt: int = Field(0, description="Number of claims by workers.")
    files_removed: bool = Field(
        False, description="Whether the files of a failed job have been removed. A job without files cannot be resumed."
    )
    deaths: int = Field(
        0,
        description="Number of workers that died while processing the job. The job fails after SKIPVSR_MAX_DEATHS "
        "deaths in a row at the same frame.",
    )
    model: str | None = Field(None, description="Name of the model; null until a worker resolves `auto`.")
    worker: str | None = Field(None, description="Name of the current or last worker.")
    device: str | None = Field(
        None, description="Compute device and number format of the current or last worker; null before the first."
    )
    progress: Progress = Field(default_factory=Progress)
    input: StreamFacts | None = Field(None, description="Properties of the uploaded file.")
    output: StreamFacts | None = Field(None, description="Properties of the result; null until the job is done.")
    estimate: Estimate | None = Field(None, description="Expected time and result; null if unknown at submission.")
    queue: QueuePlace | None = Field(None, description="Place in the queue, as of now; null unless the job is queued.")
    metrics: JobMetrics = Field(default_factory=JobMetrics)
    segments: JobSegments | None = Field(
        None, description="Segments of the job; null: one worker processes the whole video."
    )
    warnings: list[str] = Field(
        default_factory=list,
        description="Notes for the user: properties of the source that the result cannot keep, a reduced size, damage, "
        "an undelivered webhook.",
    )
    error: Problem | None = Field(None, description="Reason why the job failed or paused.")
    webhook: str | None = Field(
        None, description="URL that gets a message when the job is done, failed, cancelled or paused; null: none."
    )
    traceparent: str | None = Field(None, description="Trace of the upload (W3C Trace Context); null without tracing.")

    @property
    def resumable(self) -> bool:
        """Whether a resumption can help: the job is paused, or failed for a temporary cause and has its files."""
        if self.state is JobState.FAILED:
            return not self.files_removed and not (self.error and self.error.to_error().permanent)
        return self.state is JobState.PAUSED
