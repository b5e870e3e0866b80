"""What can be wrong with a media file.

MediaError              base; the message is one line for a person
├── UnsupportedFile     not a container or codec that is taken                      (HTTP 415)
├── OverLimit           larger than a limit; `.setting` names the setting           (HTTP 413)
└── UnusableVideo       of a kind that is taken, but can't be upscaled              (HTTP 422)
    └── DecoderCrashed  the process that read it died, hung or used too much
"""

from __future__ import annotations


class MediaError(Exception):
    """Base of all errors of this package."""


class UnsupportedFile(MediaError):
    """Not a container or codec that is taken."""


class OverLimit(MediaError):
    """Larger than a limit allows."""

    def __init__(self, message: str, setting: str) -> None:
        super().__init__(message, setting)
        self.setting = setting

    def __str__(self) -> str:
        return str(self.args[0])


class UnusableVideo(MediaError):
    """A video, but one that can't be upscaled."""


class DecoderCrashed(UnusableVideo):
    """The process that read the file died, hung, or went over its memory or CPU limit."""
