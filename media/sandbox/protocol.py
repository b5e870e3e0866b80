"""Requests to the child process, and its messages. Shared by parent (`media.sandbox`) and child (`media.jailed`).

The parent sends one pickled `Envelope`. The child answers with messages, a line of JSON each. The parent does not trust
the messages. Decoded frames travel through shared memory with `SLOTS` places. The parent sends a byte after sizing the
memory, and a byte after copying each frame.

Named tuples rather than dataclasses: the child's start would take 5 ms longer.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from media.ledger import Ledger
from media.limits import Limits
from media.sandbox.serialization import from_plain, to_plain
from media.types import Canvas, MediaInfo, OutputSpec

if TYPE_CHECKING:
    from media.coding import Coding

PACKET_HEADER: Final = "<qQ"
"""Of a live stream's packet: its number, and its size in bytes. Size 0 asks for the delayed frames."""
SLOTS: Final = 4
"""Frames that the shared memory holds."""


class ProbeRequest(NamedTuple):
    """Inspect a file. Answer: `Probed`."""

    path: Path
    target: str
    """Container of the result: mp4, mov, mkv, webm or auto."""
    fields: bool = False
    """Whether each field of an interlaced frame becomes a frame."""
    hole: tuple[int, int] | None = None
    """First byte of the file that is unknown, and the next known byte. None: the whole file is known."""


class DecodeRequest(NamedTuple):
    """Decode a file's video. Answer: `FrameFormat`, `FrameReady` and `FrameSkipped` in turn, `Decoded`."""

    path: Path
    start_after_pts: int | None
    frames_before: int | None
    memory: int
    """File descriptor of the shared memory."""
    fields: bool = False
    """Whether each field of an interlaced frame becomes a frame."""
    canvas: Canvas | None = None
    """Size of all frames. None: the first frame's."""


class MuxRequest(NamedTuple):
    """Join segments with a source's other tracks. Answer: `MuxProgress` in turn, `Muxed`."""

    segments: tuple[Path, ...]
    source: Path
    out: Path
    spec: OutputSpec


class LiveRequest(NamedTuple):
    """Decode a live stream's packets, each after a `PACKET_HEADER`. Answer to each: `FrameReady` in turn, `PacketDone`.

    All frames use slot 0: the parent sends a byte after copying each frame, and the child waits for the byte.
    """

    coding: Coding
    memory: int
    """File descriptor of the shared memory."""


class PreviewRequest(NamedTuple):
    """Decode one frame. Answer: `FrameFormat` and `FrameReady`, whose pts counts from the first frame of the video."""

    path: Path
    """The source, or a finished result."""
    segments: tuple[Path, ...]
    """The segments of an unfinished result."""
    of_result: bool
    """Whether to show the segments, if there are any."""
    seconds: float | None
    """Time from the first frame. None: the last frame."""
    fields: bool
    """Whether each field of an interlaced frame is a frame of the segments."""
    enlarge: Fraction | None
    """Factor of the picture's size. None: the factor of the segments, or 1 without segments."""
    most: tuple[int, int]
    """Largest width and height."""
    memory: int
    """File descriptor of the shared memory."""


class JailRequest(NamedTuple):
    """Lock down, and open no file. Answer: `Jailed`."""


Request: TypeAlias = ProbeRequest | DecodeRequest | MuxRequest | LiveRequest | PreviewRequest | JailRequest


class Envelope(NamedTuple):
    """A request and the limits that the child imposes on itself."""

    request: Request
    limits: Limits
    reads: tuple[Path, ...]
    """The readable files, beside libraries."""
    writes: Path | None
    """The only writable file. None: nothing is writable."""


class Probed(NamedTuple):
    """Facts of the file."""

    info: MediaInfo


class FrameFormat(NamedTuple):
    """Size and format of every frame. Sent once, before the first frame; the child then waits for the parent."""

    width: int
    height: int
    bytes_per_sample: int
    time_base: Fraction


class FrameReady(NamedTuple):
    """A frame is in the shared memory."""

    slot: int
    pts: int
    clean: bool


class FrameSkipped(NamedTuple):
    """A frame before the requested start. Proof of progress only."""

    pts: int


class Decoded(NamedTuple):
    """The video ended."""

    ledger: Ledger
    """What was read and decoded of the video."""


class MuxProgress(NamedTuple):
    """Proof of progress."""


class Muxed(NamedTuple):
    """The result is complete."""

    warnings: tuple[str, ...]
    ledger: Ledger
    """What was read of the source's other tracks, and written to the result."""
    frame_rate: Fraction | None
    """Average frames a second of the result. None: it has no length."""


class PacketDone(NamedTuple):
    """All frames of the packet were sent."""


class Jailed(NamedTuple):
    """The child is locked down."""

    missing: tuple[str, ...]
    """Layers that the kernel does not enforce."""


class Failed(NamedTuple):
    """The request failed."""

    error: str
    """Class name in `media.errors`, or OSError."""
    text: str
    setting: str | None = None
    """`OverLimit.setting`."""
    errno: int | None = None
    """`OSError.errno`."""


Message: TypeAlias = (
    Probed | FrameFormat | FrameReady | FrameSkipped | Decoded | MuxProgress | Muxed | PacketDone | Jailed | Failed
)

_MESSAGES: Final[dict[str, type[Message]]] = {
    kind.__name__: kind
    for kind in (Probed, FrameFormat, FrameReady, FrameSkipped, Decoded, MuxProgress, Muxed, PacketDone, Jailed, Failed)
}


class InvalidMessage(Exception):
    """The child sent an invalid line."""


def to_line(message: Message) -> bytes:
    """Serialize a message as one line."""
    return json.dumps({"message": type(message).__name__, "fields": to_plain(message)}).encode() + b"\n"


def from_line(line: bytes) -> Message:
    """Restore a message from an untrusted line. Raises InvalidMessage."""
    try:
        plain = json.loads(line)
        return from_plain(_MESSAGES[plain["message"]], plain["fields"])
    except (TypeError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
        raise InvalidMessage from error
