"""How large a file may be. The service fills this from its settings; every error names the setting to change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from media.errors import OverLimit

_SLOWEST_DISK: Final = 5e6
"""Bytes a second."""


@dataclass(frozen=True)
class Limits:
    """Upper bounds on what is read. A field's name is the setting's name (`SKIPVSR_MAX_PIXELS` and so on)."""

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
    """Bytes that libav may read to find out what the file is."""
    max_decoder_bytes: int = 4 * 2**30
    """Memory (address space) of the process that decodes."""
    max_decoder_seconds: float = 60.0
    """Time in which the process that decodes must come up with the next frame."""

    def seconds_to_rewrite(self, size: int) -> float:
        """Time in which a file of `size` bytes must be read and written once, where nothing tells how far it is."""
        return self.max_decoder_seconds + size / _SLOWEST_DISK

    def check(self, name: str, value: float, what: str) -> None:
        """Raise `OverLimit` if `value` is above the limit `name`; `what` says what was measured, e.g. "the file"."""
        allowed = getattr(self, name)
        if value > allowed:
            message = (
                f"{what} has {_number(value)}, more than the {_number(allowed)} that SKIPVSR_{name.upper()} allows"
            )
            raise OverLimit(f"{message} ({_UNITS[name]})", setting=name)


_UNITS = {
    "max_upload_bytes": "bytes",
    "max_pixels": "pixels a frame",
    "max_output_pixels": "pixels an output frame",
    "max_duration_seconds": "seconds",
    "max_frames": "frames",
    "max_streams": "streams",
    "max_probe_bytes": "bytes",
    "max_decoder_bytes": "bytes",
    "max_decoder_seconds": "seconds",
}


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}"


DEFAULT_LIMITS = Limits()
