"""Upper bounds for source files. The service fills `Limits` from its settings; every error names the setting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from media.errors import OverLimit


@dataclass(frozen=True)
class Limits:
    """Upper bounds for a source file. Field `max_pixels` is setting `SKIPVSR_MAX_PIXELS`, and so on."""

    max_upload_bytes: int = 4 * 2**30
    """Size of the file."""
    max_pixels: int = 1920 * 1088
    """Pixels of one source frame."""
    max_output_pixels: int = 7680 * 4352
    """Pixels of one output frame."""
    max_duration_seconds: float = 4 * 3600
    """Length of the video."""
    max_frames: int = 1_000_000
    """Frames of the video."""
    max_streams: int = 32
    """Streams (video, audio, subtitles, …) of the file."""
    max_probe_bytes: int = 16 * 2**20
    """Bytes that libav may read to detect the file's format."""
    max_probe_memory_bytes: int = 512 * 2**20
    """Address space of the child process that inspects a file."""
    max_decoder_bytes: int = 4 * 2**30
    """Address space of the child process that decodes or joins."""
    max_decoder_seconds: float = 60.0
    """Seconds, of CPU and of waiting, until the child process must deliver its next frame."""

    def check(self, name: str, value: float, subject: str) -> None:
        """Raise `OverLimit` if `value` is above the limit `name`.

        Args:
            subject: the measured thing, for the message: "the file", "a frame (640×480)".
        """
        allowed = getattr(self, name)
        if value > allowed:
            raise OverLimit(
                f"{subject[:1].upper()}{subject[1:]} has {_number(value)} {_UNITS[name]}; the limit is "
                f"{_number(allowed)} (SKIPVSR_{name.upper()}).",
                setting=name,
            )


_UNITS: Final = {
    "max_upload_bytes": "bytes",
    "max_pixels": "pixels",
    "max_output_pixels": "pixels",
    "max_duration_seconds": "seconds",
    "max_frames": "frames",
    "max_streams": "streams",
    "max_probe_bytes": "bytes",
    "max_probe_memory_bytes": "bytes",
    "max_decoder_bytes": "bytes",
    "max_decoder_seconds": "seconds",
}


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}"


DEFAULT_LIMITS: Final = Limits()
