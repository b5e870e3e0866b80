"""Errors of this package. Every message is one line for a person.

MediaError              base
├── UnsupportedFile     not an accepted container or codec          (HTTP 415)
│   └── CorruptHeader   an accepted container that can't be opened
├── NoJail              this machine can't confine the child process
├── Unwritable          the container can't hold the result         (HTTP 422)
├── OverLimit           above a limit; `.setting` names the setting (HTTP 413)
├── FrameMissing        the result does not reach as far yet
└── UnusableVideo       an accepted format that can't be upscaled   (HTTP 422)
    ├── DecoderCrashed  the child process died, hung, or sent invalid messages
    ├── NoFrames        no frame can be decoded
    └── HeaderElsewhere the header lies outside the known ends of a file
"""

from __future__ import annotations


class MediaError(Exception):
    """Base of all errors of this package."""


class UnsupportedFile(MediaError):
    """Not an accepted container or codec."""


class CorruptHeader(UnsupportedFile):
    """An accepted container that can't be opened."""


class NoJail(MediaError):
    """The kernel does not enforce all layers of the child's jail."""


class Unwritable(MediaError):
    """The container can't hold the result."""


class FrameMissing(MediaError):
    """The result does not reach as far yet."""


class OverLimit(MediaError):
    """Above one of `media.limits.Limits`. `setting` is the name of its field."""

    def __init__(self, message: str, setting: str) -> None:
        super().__init__(message, setting)
        self.setting = setting

    def __str__(self) -> str:
        return str(self.args[0])


class UnusableVideo(MediaError):
    """A video that can't be upscaled, for example one with transparency."""


class DecoderCrashed(UnusableVideo):
    """The child process died, hung, exceeded its memory or CPU limit, or sent invalid messages."""


class NoFrames(UnusableVideo):
    """No frame can be decoded."""


class HeaderElsewhere(UnusableVideo):
    """The header, the first frame or the length lies outside the known ends of a file."""
