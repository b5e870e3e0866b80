"""Documents of the server as dataclasses. Fields that the server does not send have defaults.

`document` keeps the server's JSON, with fields that this version of the client does not know.
"""

from __future__ import annotations

import types
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, is_dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final, TypedDict, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
FINAL: Final = ("done", "failed", "cancelled")
"""States that change only at a user's request."""


class Options(TypedDict, total=False):
    """Options of a job. The server's documentation describes each option, and every option has a default there."""

    model: str
    """Name of a model, or auto."""
    scale: int
    """Scale factor of width and height: 2, 3 or 4."""
    height: int
    """Height of the output in pixels, instead of `scale`."""
    chunk: int
    """Frames per chunk."""
    lookahead: int
    """Frames after a chunk that the backward branch reads."""
    routing: str
    """How much work the network may skip: off, balanced or fast."""
    codec: str
    """auto, h264, hevc or av1."""
    container: str
    """auto, mp4, mkv, mov or webm."""
    crf: int
    """Constant rate factor of the encoder, 0 to 51; lower is better."""
    deinterlace: str
    """Frames made of interlaced video: frame or field."""
    priority: str
    """Queue of the job: high, normal or low."""
    segments: str
    """Segments that several workers process at the same time: auto, off, or a number from 1 to 64."""
    webhook: str
    """URL that the server informs about the job's end."""


@dataclass(frozen=True)
class Problem:
    """Reason why a job failed or paused."""

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""


@dataclass(frozen=True)
class Progress:
    """Progress of a job."""

    frames_done: int = 0
    """Frames done; frames in work count by their finished work."""
    frames_saved: int = 0
    """Frames upscaled and checkpointed: a paused or interrupted job continues after them."""
    frames_total: int | None = None
    fps: float | None = None
    eta_seconds: float | None = None


@dataclass(frozen=True)
class StreamFacts:
    """Properties of a file and its streams."""

    container: str = ""
    codec: str = ""
    width: int = 0
    height: int = 0
    frames: int | None = None
    frame_rate: float | None = None
    duration_seconds: float | None = None
    pixel_format: str = ""
    bit_depth: int = 8
    size_bytes: int | None = None
    audio: list[str] = field(default_factory=list)
    subtitles: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Metrics:
    """Measurements on the worker's machine. Times are wall-clock seconds."""

    queue_seconds: float | None = None
    processing_seconds: float | None = None
    decode_seconds: float = 0.0
    model_seconds: float = 0.0
    encode_seconds: float = 0.0
    chunk_seconds: list[float] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    skip_ratio: float = 0.0
    reuse_ratio: float = 0.0
    speedup: float = 1.0


@dataclass(frozen=True)
class JobEstimate:
    """The server's estimate when the job was submitted."""

    seconds: float | None = None
    seconds_low: float | None = None
    seconds_high: float | None = None
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    bytes: int | None = None
    basis: str | None = None


@dataclass(frozen=True)
class Queue:
    """Place of a waiting job in the queue."""

    position: int = 0
    """Counted from 1."""
    wait_seconds: float | None = None


@dataclass(frozen=True)
class Segments:
    """Segments of a job that several workers process at the same time."""

    total: int = 0
    done: int = 0
    workers: int = 0
    exact_seams: int = 0
    """Seams at which the frames equal those of one worker."""
    warmed_seams: int = 0
    """Seams without a scene cut."""
    warmup_frames: int = 0
    """Frames that the network reads before each seam without a scene cut."""


@dataclass(frozen=True)
class Job:
    """A job."""

    id: str
    state: str
    """queued, running, paused, done, failed or cancelled."""
    filename: str = ""
    owner: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    updated_at: datetime | None = None
    """Time of the last change of the document."""
    expires_at: datetime | None = None
    """Time at which the server removes the files."""
    attempt: int = 0
    files_removed: bool = False
    deaths: int = 0
    model: str | None = None
    worker: str | None = None
    device: str | None = None
    """Compute device and number format of the current or last worker."""
    request: str | None = None
    """pause or cancel, until the worker has carried out the request."""
    progress: Progress = field(default_factory=Progress)
    input: StreamFacts | None = None
    output: StreamFacts | None = None
    metrics: Metrics = field(default_factory=Metrics)
    estimate: JobEstimate | None = None
    queue: Queue | None = None
    segments: Segments | None = None
    """None: one worker processes the whole video."""
    webhook: str | None = None
    warnings: list[str] = field(default_factory=list)
    error: Problem | None = None
    traceparent: str | None = None
    links: dict[str, str | None] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The server's JSON."""

    @property
    def final(self) -> bool:
        """Whether the job is done, failed or cancelled."""
        return self.state in FINAL


@dataclass(frozen=True)
class JobPage:
    """A page of jobs, newest first."""

    jobs: list[Job] = field(default_factory=list)
    total: int | None = None
    """Number of jobs on all pages; None if the server does not count."""
    next: str | None = None
    """Address of the next page."""
    counts: dict[str, int] = field(default_factory=dict)
    """Number of jobs in each state."""


@dataclass(frozen=True)
class OutputFacts:
    """Expected properties of a result."""

    width: int = 0
    height: int = 0
    frames: int | None = None
    frame_rate: float | None = None
    duration_seconds: float | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Estimate:
    """Size and time of a file's result, before the upload."""

    input: StreamFacts = field(default_factory=StreamFacts)
    output: OutputFacts = field(default_factory=OutputFacts)
    model: str | None = None
    scale: float | None = None
    seconds: float | None = None
    """Expected seconds of processing; None if unknown, with the reason in `warnings`."""
    seconds_low: float | None = None
    seconds_high: float | None = None
    wait_seconds: float | None = None
    """Expected seconds in the queue."""
    workers: int | None = None
    basis: str | None = None
    """measured or calibrated."""
    warnings: list[str] = field(default_factory=list)
    document: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Worker:
    """A live worker."""

    name: str = ""
    host: str = ""
    pid: int = 0
    device: str = ""
    model: str = ""
    model_x2: str = ""
    """Name of the model that `auto` means for outputs of up to twice the size."""
    models: list[str] = field(default_factory=list)
    scales: dict[str, int] = field(default_factory=dict)
    machine: str = ""
    job: str | None = None
    """Id of the current job."""
    jail_missing: list[str] = field(default_factory=list)
    """Layers of the decoder's jail that the worker's kernel does not enforce."""
    device_notes: list[str] = field(default_factory=list)
    """Preferred devices and number formats that failed, with the reasons."""
    started_at: datetime | None = None
    document: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Preview:
    """A picture of a job: a frame of the source, enlarged by bicubic interpolation, or upscaled."""

    data: bytes = field(repr=False)
    """WebP file."""
    seconds: float | None
    """Time of the frame in the video."""
    media_type: str = "image/webp"


def build(cls: type[T], data: Mapping[str, Any]) -> T:
    """Create a dataclass from JSON. Unknown fields are ignored."""
    hints = _hints(cast(Hashable, cls))
    values = {name: _converted(hints[name], data[name]) for name in hints if name in data and name != "document"}
    if "document" in hints:
        values["document"] = dict(data)
    return cls(**values)


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _converted(hint: Any, value: Any) -> Any:
    """Convert a JSON value to the type of its field."""
    if value is None:
        return None
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is list:
        return [_converted(get_args(hint)[0], item) for item in value]
    if hint is datetime:
        return datetime.fromisoformat(value)
    if is_dataclass(hint):
        return build(cast("type[Any]", hint), value)
    return value
