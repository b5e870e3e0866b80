import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FrameFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FRAME_FORMAT_UNSPECIFIED: _ClassVar[FrameFormat]
    FRAME_FORMAT_RGB24: _ClassVar[FrameFormat]
    FRAME_FORMAT_YUV420P: _ClassVar[FrameFormat]
    FRAME_FORMAT_NV12: _ClassVar[FrameFormat]
    FRAME_FORMAT_JPEG: _ClassVar[FrameFormat]
    FRAME_FORMAT_PNG: _ClassVar[FrameFormat]
    FRAME_FORMAT_H264: _ClassVar[FrameFormat]
    FRAME_FORMAT_HEVC: _ClassVar[FrameFormat]

class ColorMatrix(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COLOR_MATRIX_UNSPECIFIED: _ClassVar[ColorMatrix]
    COLOR_MATRIX_BT601: _ClassVar[ColorMatrix]
    COLOR_MATRIX_BT709: _ClassVar[ColorMatrix]
    COLOR_MATRIX_BT2020: _ClassVar[ColorMatrix]

class ColorRange(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COLOR_RANGE_UNSPECIFIED: _ClassVar[ColorRange]
    COLOR_RANGE_LIMITED: _ClassVar[ColorRange]
    COLOR_RANGE_FULL: _ClassVar[ColorRange]

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_QUEUED: _ClassVar[JobState]
    JOB_STATE_RUNNING: _ClassVar[JobState]
    JOB_STATE_PAUSED: _ClassVar[JobState]
    JOB_STATE_DONE: _ClassVar[JobState]
    JOB_STATE_FAILED: _ClassVar[JobState]
    JOB_STATE_CANCELLED: _ClassVar[JobState]

class PendingRequest(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PENDING_REQUEST_UNSPECIFIED: _ClassVar[PendingRequest]
    PENDING_REQUEST_PAUSE: _ClassVar[PendingRequest]
    PENDING_REQUEST_CANCEL: _ClassVar[PendingRequest]
FRAME_FORMAT_UNSPECIFIED: FrameFormat
FRAME_FORMAT_RGB24: FrameFormat
FRAME_FORMAT_YUV420P: FrameFormat
FRAME_FORMAT_NV12: FrameFormat
FRAME_FORMAT_JPEG: FrameFormat
FRAME_FORMAT_PNG: FrameFormat
FRAME_FORMAT_H264: FrameFormat
FRAME_FORMAT_HEVC: FrameFormat
COLOR_MATRIX_UNSPECIFIED: ColorMatrix
COLOR_MATRIX_BT601: ColorMatrix
COLOR_MATRIX_BT709: ColorMatrix
COLOR_MATRIX_BT2020: ColorMatrix
COLOR_RANGE_UNSPECIFIED: ColorRange
COLOR_RANGE_LIMITED: ColorRange
COLOR_RANGE_FULL: ColorRange
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_QUEUED: JobState
JOB_STATE_RUNNING: JobState
JOB_STATE_PAUSED: JobState
JOB_STATE_DONE: JobState
JOB_STATE_FAILED: JobState
JOB_STATE_CANCELLED: JobState
PENDING_REQUEST_UNSPECIFIED: PendingRequest
PENDING_REQUEST_PAUSE: PendingRequest
PENDING_REQUEST_CANCEL: PendingRequest

class StreamRequest(_message.Message):
    __slots__ = ("config", "frame")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    config: StreamConfig
    frame: InputFrame
    def __init__(self, config: _Optional[_Union[StreamConfig, _Mapping]] = ..., frame: _Optional[_Union[InputFrame, _Mapping]] = ...) -> None: ...

class StreamResponse(_message.Message):
    __slots__ = ("config", "frame", "summary")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    config: StreamAccepted
    frame: OutputFrame
    summary: StreamSummary
    def __init__(self, config: _Optional[_Union[StreamAccepted, _Mapping]] = ..., frame: _Optional[_Union[OutputFrame, _Mapping]] = ..., summary: _Optional[_Union[StreamSummary, _Mapping]] = ...) -> None: ...

class InputFormat(_message.Message):
    __slots__ = ("format", "matrix", "range")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    MATRIX_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    format: FrameFormat
    matrix: ColorMatrix
    range: ColorRange
    def __init__(self, format: _Optional[_Union[FrameFormat, str]] = ..., matrix: _Optional[_Union[ColorMatrix, str]] = ..., range: _Optional[_Union[ColorRange, str]] = ...) -> None: ...

class OutputFormat(_message.Message):
    __slots__ = ("format", "matrix", "range", "quality", "crf")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    MATRIX_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    CRF_FIELD_NUMBER: _ClassVar[int]
    format: FrameFormat
    matrix: ColorMatrix
    range: ColorRange
    quality: int
    crf: int
    def __init__(self, format: _Optional[_Union[FrameFormat, str]] = ..., matrix: _Optional[_Union[ColorMatrix, str]] = ..., range: _Optional[_Union[ColorRange, str]] = ..., quality: _Optional[int] = ..., crf: _Optional[int] = ...) -> None: ...

class FrameRate(_message.Message):
    __slots__ = ("numerator", "denominator")
    NUMERATOR_FIELD_NUMBER: _ClassVar[int]
    DENOMINATOR_FIELD_NUMBER: _ClassVar[int]
    numerator: int
    denominator: int
    def __init__(self, numerator: _Optional[int] = ..., denominator: _Optional[int] = ...) -> None: ...

class StreamConfig(_message.Message):
    __slots__ = ("width", "height", "input", "output", "frame_rate", "model", "routing", "lookahead", "chunk", "resume", "scale")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    FRAME_RATE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ROUTING_FIELD_NUMBER: _ClassVar[int]
    LOOKAHEAD_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    input: InputFormat
    output: OutputFormat
    frame_rate: FrameRate
    model: str
    routing: str
    lookahead: int
    chunk: int
    resume: Resume
    scale: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ..., input: _Optional[_Union[InputFormat, _Mapping]] = ..., output: _Optional[_Union[OutputFormat, _Mapping]] = ..., frame_rate: _Optional[_Union[FrameRate, _Mapping]] = ..., model: _Optional[str] = ..., routing: _Optional[str] = ..., lookahead: _Optional[int] = ..., chunk: _Optional[int] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ..., scale: _Optional[int] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ("session_token", "last_received")
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LAST_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    session_token: str
    last_received: int
    def __init__(self, session_token: _Optional[str] = ..., last_received: _Optional[int] = ...) -> None: ...

class StreamAccepted(_message.Message):
    __slots__ = ("effective", "output_width", "output_height", "latency_frames", "max_in_flight", "max_message_bytes", "session_token", "session_ttl", "resume_after", "device", "precision")
    EFFECTIVE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_WIDTH_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FRAMES_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SESSION_TTL_FIELD_NUMBER: _ClassVar[int]
    RESUME_AFTER_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    effective: StreamConfig
    output_width: int
    output_height: int
    latency_frames: int
    max_in_flight: int
    max_message_bytes: int
    session_token: str
    session_ttl: _duration_pb2.Duration
    resume_after: int
    device: str
    precision: str
    def __init__(self, effective: _Optional[_Union[StreamConfig, _Mapping]] = ..., output_width: _Optional[int] = ..., output_height: _Optional[int] = ..., latency_frames: _Optional[int] = ..., max_in_flight: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., session_token: _Optional[str] = ..., session_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., resume_after: _Optional[int] = ..., device: _Optional[str] = ..., precision: _Optional[str] = ...) -> None: ...

class InputFrame(_message.Message):
    __slots__ = ("sequence", "pts", "data", "reset", "end_of_stream")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    END_OF_STREAM_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    pts: int
    data: bytes
    reset: bool
    end_of_stream: bool
    def __init__(self, sequence: _Optional[int] = ..., pts: _Optional[int] = ..., data: _Optional[bytes] = ..., reset: _Optional[bool] = ..., end_of_stream: _Optional[bool] = ...) -> None: ...

class OutputFrame(_message.Message):
    __slots__ = ("sequence", "pts", "data", "skip_ratio", "model_milliseconds", "server_milliseconds", "scene_start", "key_frame")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SKIP_RATIO_FIELD_NUMBER: _ClassVar[int]
    MODEL_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    SERVER_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    SCENE_START_FIELD_NUMBER: _ClassVar[int]
    KEY_FRAME_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    pts: int
    data: bytes
    skip_ratio: float
    model_milliseconds: float
    server_milliseconds: float
    scene_start: bool
    key_frame: bool
    def __init__(self, sequence: _Optional[int] = ..., pts: _Optional[int] = ..., data: _Optional[bytes] = ..., skip_ratio: _Optional[float] = ..., model_milliseconds: _Optional[float] = ..., server_milliseconds: _Optional[float] = ..., scene_start: _Optional[bool] = ..., key_frame: _Optional[bool] = ...) -> None: ...

class StreamSummary(_message.Message):
    __slots__ = ("frames", "skip_ratio", "speedup", "latency_p50_milliseconds", "latency_p95_milliseconds", "latency_p99_milliseconds", "scenes", "model_seconds", "reuse_ratio")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    SKIP_RATIO_FIELD_NUMBER: _ClassVar[int]
    SPEEDUP_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P50_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P95_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P99_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    SCENES_FIELD_NUMBER: _ClassVar[int]
    MODEL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REUSE_RATIO_FIELD_NUMBER: _ClassVar[int]
    frames: int
    skip_ratio: float
    speedup: float
    latency_p50_milliseconds: float
    latency_p95_milliseconds: float
    latency_p99_milliseconds: float
    scenes: int
    model_seconds: float
    reuse_ratio: float
    def __init__(self, frames: _Optional[int] = ..., skip_ratio: _Optional[float] = ..., speedup: _Optional[float] = ..., latency_p50_milliseconds: _Optional[float] = ..., latency_p95_milliseconds: _Optional[float] = ..., latency_p99_milliseconds: _Optional[float] = ..., scenes: _Optional[int] = ..., model_seconds: _Optional[float] = ..., reuse_ratio: _Optional[float] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "default_model")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_MODEL_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    default_model: str
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., default_model: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "description")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...

class JobOptions(_message.Message):
    __slots__ = ("model", "scale", "height", "chunk", "lookahead", "routing", "codec", "crf", "priority", "container", "deinterlace", "segments")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    LOOKAHEAD_FIELD_NUMBER: _ClassVar[int]
    ROUTING_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    CRF_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    DEINTERLACE_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    scale: int
    height: int
    chunk: int
    lookahead: int
    routing: str
    codec: str
    crf: int
    priority: str
    container: str
    deinterlace: str
    segments: str
    def __init__(self, model: _Optional[str] = ..., scale: _Optional[int] = ..., height: _Optional[int] = ..., chunk: _Optional[int] = ..., lookahead: _Optional[int] = ..., routing: _Optional[str] = ..., codec: _Optional[str] = ..., crf: _Optional[int] = ..., priority: _Optional[str] = ..., container: _Optional[str] = ..., deinterlace: _Optional[str] = ..., segments: _Optional[str] = ...) -> None: ...

class StreamFacts(_message.Message):
    __slots__ = ("container", "codec", "width", "height", "frames", "frame_rate", "duration_seconds", "pixel_format", "bit_depth", "size_bytes", "audio", "subtitles")
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    FRAME_RATE_FIELD_NUMBER: _ClassVar[int]
    DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PIXEL_FORMAT_FIELD_NUMBER: _ClassVar[int]
    BIT_DEPTH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    SUBTITLES_FIELD_NUMBER: _ClassVar[int]
    container: str
    codec: str
    width: int
    height: int
    frames: int
    frame_rate: float
    duration_seconds: float
    pixel_format: str
    bit_depth: int
    size_bytes: int
    audio: _containers.RepeatedScalarFieldContainer[str]
    subtitles: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, container: _Optional[str] = ..., codec: _Optional[str] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., frames: _Optional[int] = ..., frame_rate: _Optional[float] = ..., duration_seconds: _Optional[float] = ..., pixel_format: _Optional[str] = ..., bit_depth: _Optional[int] = ..., size_bytes: _Optional[int] = ..., audio: _Optional[_Iterable[str]] = ..., subtitles: _Optional[_Iterable[str]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("frames_done", "frames_total", "fps", "eta_seconds", "frames_saved")
    FRAMES_DONE_FIELD_NUMBER: _ClassVar[int]
    FRAMES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    FPS_FIELD_NUMBER: _ClassVar[int]
    ETA_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_SAVED_FIELD_NUMBER: _ClassVar[int]
    frames_done: int
    frames_total: int
    fps: float
    eta_seconds: float
    frames_saved: int
    def __init__(self, frames_done: _Optional[int] = ..., frames_total: _Optional[int] = ..., fps: _Optional[float] = ..., eta_seconds: _Optional[float] = ..., frames_saved: _Optional[int] = ...) -> None: ...

class Estimate(_message.Message):
    __slots__ = ("seconds", "seconds_low", "seconds_high", "width", "height", "frames", "bytes", "basis")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LOW_FIELD_NUMBER: _ClassVar[int]
    SECONDS_HIGH_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    BASIS_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    seconds_low: float
    seconds_high: float
    width: int
    height: int
    frames: int
    bytes: int
    basis: str
    def __init__(self, seconds: _Optional[float] = ..., seconds_low: _Optional[float] = ..., seconds_high: _Optional[float] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., frames: _Optional[int] = ..., bytes: _Optional[int] = ..., basis: _Optional[str] = ...) -> None: ...

class QueuePlace(_message.Message):
    __slots__ = ("position", "wait_seconds")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    position: int
    wait_seconds: float
    def __init__(self, position: _Optional[int] = ..., wait_seconds: _Optional[float] = ...) -> None: ...

class JobMetrics(_message.Message):
    __slots__ = ("queue_seconds", "processing_seconds", "decode_seconds", "model_seconds", "encode_seconds", "skip_ratio", "speedup", "cuts", "reuse_ratio")
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PROCESSING_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DECODE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MODEL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ENCODE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SKIP_RATIO_FIELD_NUMBER: _ClassVar[int]
    SPEEDUP_FIELD_NUMBER: _ClassVar[int]
    CUTS_FIELD_NUMBER: _ClassVar[int]
    REUSE_RATIO_FIELD_NUMBER: _ClassVar[int]
    queue_seconds: float
    processing_seconds: float
    decode_seconds: float
    model_seconds: float
    encode_seconds: float
    skip_ratio: float
    speedup: float
    cuts: _containers.RepeatedScalarFieldContainer[int]
    reuse_ratio: float
    def __init__(self, queue_seconds: _Optional[float] = ..., processing_seconds: _Optional[float] = ..., decode_seconds: _Optional[float] = ..., model_seconds: _Optional[float] = ..., encode_seconds: _Optional[float] = ..., skip_ratio: _Optional[float] = ..., speedup: _Optional[float] = ..., cuts: _Optional[_Iterable[int]] = ..., reuse_ratio: _Optional[float] = ...) -> None: ...

class Problem(_message.Message):
    __slots__ = ("title", "status", "detail")
    TITLE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    title: str
    status: int
    detail: str
    def __init__(self, title: _Optional[str] = ..., status: _Optional[int] = ..., detail: _Optional[str] = ...) -> None: ...

class JobSegments(_message.Message):
    __slots__ = ("total", "done", "workers", "exact_seams", "warmed_seams", "warmup_frames")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    EXACT_SEAMS_FIELD_NUMBER: _ClassVar[int]
    WARMED_SEAMS_FIELD_NUMBER: _ClassVar[int]
    WARMUP_FRAMES_FIELD_NUMBER: _ClassVar[int]
    total: int
    done: int
    workers: int
    exact_seams: int
    warmed_seams: int
    warmup_frames: int
    def __init__(self, total: _Optional[int] = ..., done: _Optional[int] = ..., workers: _Optional[int] = ..., exact_seams: _Optional[int] = ..., warmed_seams: _Optional[int] = ..., warmup_frames: _Optional[int] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("id", "state", "filename", "options", "created_at", "started_at", "finished_at", "attempt", "deaths", "worker", "progress", "input", "output", "metrics", "warnings", "error", "model", "files_removed", "owner", "request", "expires_at", "queue", "estimate", "webhook", "updated_at", "segments", "device")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    DEATHS_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FILES_REMOVED_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    WEBHOOK_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: JobState
    filename: str
    options: JobOptions
    created_at: _timestamp_pb2.Timestamp
    started_at: _timestamp_pb2.Timestamp
    finished_at: _timestamp_pb2.Timestamp
    attempt: int
    deaths: int
    worker: str
    progress: Progress
    input: StreamFacts
    output: StreamFacts
    metrics: JobMetrics
    warnings: _containers.RepeatedScalarFieldContainer[str]
    error: Problem
    model: str
    files_removed: bool
    owner: str
    request: PendingRequest
    expires_at: _timestamp_pb2.Timestamp
    queue: QueuePlace
    estimate: Estimate
    webhook: str
    updated_at: _timestamp_pb2.Timestamp
    segments: JobSegments
    device: str
    def __init__(self, id: _Optional[str] = ..., state: _Optional[_Union[JobState, str]] = ..., filename: _Optional[str] = ..., options: _Optional[_Union[JobOptions, _Mapping]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., finished_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., attempt: _Optional[int] = ..., deaths: _Optional[int] = ..., worker: _Optional[str] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., input: _Optional[_Union[StreamFacts, _Mapping]] = ..., output: _Optional[_Union[StreamFacts, _Mapping]] = ..., metrics: _Optional[_Union[JobMetrics, _Mapping]] = ..., warnings: _Optional[_Iterable[str]] = ..., error: _Optional[_Union[Problem, _Mapping]] = ..., model: _Optional[str] = ..., files_removed: _Optional[bool] = ..., owner: _Optional[str] = ..., request: _Optional[_Union[PendingRequest, str]] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., queue: _Optional[_Union[QueuePlace, _Mapping]] = ..., estimate: _Optional[_Union[Estimate, _Mapping]] = ..., webhook: _Optional[str] = ..., updated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., segments: _Optional[_Union[JobSegments, _Mapping]] = ..., device: _Optional[str] = ...) -> None: ...

class CreateJobRequest(_message.Message):
    __slots__ = ("config", "chunk")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    config: UploadConfig
    chunk: UploadChunk
    def __init__(self, config: _Optional[_Union[UploadConfig, _Mapping]] = ..., chunk: _Optional[_Union[UploadChunk, _Mapping]] = ...) -> None: ...

class UploadConfig(_message.Message):
    __slots__ = ("filename", "options", "size_bytes", "idempotency_key", "webhook")
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    WEBHOOK_FIELD_NUMBER: _ClassVar[int]
    filename: str
    options: JobOptions
    size_bytes: int
    idempotency_key: str
    webhook: str
    def __init__(self, filename: _Optional[str] = ..., options: _Optional[_Union[JobOptions, _Mapping]] = ..., size_bytes: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., webhook: _Optional[str] = ...) -> None: ...

class UploadChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class CreateJobResponse(_message.Message):
    __slots__ = ("job", "replayed")
    JOB_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    job: Job
    replayed: bool
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ..., replayed: _Optional[bool] = ...) -> None: ...

class EstimateJobRequest(_message.Message):
    __slots__ = ("config", "head", "tail")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    config: EstimateConfig
    head: UploadChunk
    tail: UploadChunk
    def __init__(self, config: _Optional[_Union[EstimateConfig, _Mapping]] = ..., head: _Optional[_Union[UploadChunk, _Mapping]] = ..., tail: _Optional[_Union[UploadChunk, _Mapping]] = ...) -> None: ...

class EstimateConfig(_message.Message):
    __slots__ = ("options", "size_bytes")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    options: JobOptions
    size_bytes: int
    def __init__(self, options: _Optional[_Union[JobOptions, _Mapping]] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class EstimateJobResponse(_message.Message):
    __slots__ = ("input", "output", "model", "scale", "estimate", "wait_seconds", "workers", "warnings")
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    input: StreamFacts
    output: ExpectedOutput
    model: str
    scale: float
    estimate: Estimate
    wait_seconds: float
    workers: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, input: _Optional[_Union[StreamFacts, _Mapping]] = ..., output: _Optional[_Union[ExpectedOutput, _Mapping]] = ..., model: _Optional[str] = ..., scale: _Optional[float] = ..., estimate: _Optional[_Union[Estimate, _Mapping]] = ..., wait_seconds: _Optional[float] = ..., workers: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class ExpectedOutput(_message.Message):
    __slots__ = ("width", "height", "frames", "frame_rate", "duration_seconds", "bytes")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    FRAME_RATE_FIELD_NUMBER: _ClassVar[int]
    DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    frames: int
    frame_rate: float
    duration_seconds: float
    bytes: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ..., frames: _Optional[int] = ..., frame_rate: _Optional[float] = ..., duration_seconds: _Optional[float] = ..., bytes: _Optional[int] = ...) -> None: ...

class GetJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class GetJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "state", "states", "filename_contains")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    FILENAME_CONTAINS_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    state: JobState
    states: _containers.RepeatedScalarFieldContainer[JobState]
    filename_contains: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., state: _Optional[_Union[JobState, str]] = ..., states: _Optional[_Iterable[_Union[JobState, str]]] = ..., filename_contains: _Optional[str] = ...) -> None: ...

class StateCount(_message.Message):
    __slots__ = ("state", "jobs")
    STATE_FIELD_NUMBER: _ClassVar[int]
    JOBS_FIELD_NUMBER: _ClassVar[int]
    state: JobState
    jobs: int
    def __init__(self, state: _Optional[_Union[JobState, str]] = ..., jobs: _Optional[int] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs", "next_page_token", "total", "counts")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    next_page_token: str
    total: int
    counts: _containers.RepeatedCompositeFieldContainer[StateCount]
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total: _Optional[int] = ..., counts: _Optional[_Iterable[_Union[StateCount, _Mapping]]] = ...) -> None: ...

class WatchJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class WatchJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class CancelJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class CancelJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class PauseJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class PauseJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class ResumeJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class ResumeJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class DeleteJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class DeleteJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class DownloadResultRequest(_message.Message):
    __slots__ = ("job_id", "offset")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    offset: int
    def __init__(self, job_id: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class DownloadResultResponse(_message.Message):
    __slots__ = ("file", "data")
    FILE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    file: FileFacts
    data: bytes
    def __init__(self, file: _Optional[_Union[FileFacts, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class DownloadInputRequest(_message.Message):
    __slots__ = ("job_id", "offset")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    offset: int
    def __init__(self, job_id: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class DownloadInputResponse(_message.Message):
    __slots__ = ("file", "data")
    FILE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    file: FileFacts
    data: bytes
    def __init__(self, file: _Optional[_Union[FileFacts, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class FileFacts(_message.Message):
    __slots__ = ("filename", "media_type", "size_bytes")
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    filename: str
    media_type: str
    size_bytes: int
    def __init__(self, filename: _Optional[str] = ..., media_type: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...
