"""Errors of the commands themselves, and the line of text that a person reads about any expected error."""

from __future__ import annotations

import errno
import sys
from typing import Final

_NO_ROOM: Final = {
    errno.ENOSPC: "the disk is full: free some space, then run the same command again",
    errno.EDQUOT: "your quota of disk space is used up: free some space, then run the same command again",
    errno.EROFS: "the disk is read-only: choose another folder for the output",
}
"""Error numbers of a disk that takes no data, with the remedy."""


class CommandError(Exception):
    """A command cannot do its work; the message is the one line for the user, with the remedy."""


class FileError(CommandError):
    """A command cannot process one file; its other files may be fine."""


class Interrupted(KeyboardInterrupt):
    """A ^C; the message tells how to continue."""


def explained(error: Exception) -> str | None:
    """The message of an error that is written for the user; None for any other error."""
    if isinstance(error, OSError):
        return _system_error(error)
    if isinstance(error, CommandError):
        return str(error)
    from jobs.errors import SkipVsrError
    from media.errors import MediaError
    from model.errors import ModelError

    if isinstance(error, RuntimeError) and "torch" in sys.modules:
        from model.faults import device_failure, told

        if failure := device_failure(error):
            return f"the compute device failed: {told(failure)}; run the same command again to continue"
    return str(error) if isinstance(error, SkipVsrError | MediaError | ModelError) else None


def only_this_file(error: Exception) -> bool:
    """Whether an error says nothing about other files: the file is damaged, missing, or not readable."""
    from media.errors import MediaError, NoJail

    if isinstance(error, OSError):
        return error.filename is not None and not no_room(error)
    return isinstance(error, FileError | MediaError) and not isinstance(error, NoJail)


def no_room(error: Exception) -> bool:
    """Whether a disk takes no data."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def _system_error(error: OSError) -> str:
    text = _NO_ROOM.get(error.errno or 0) or error.strerror or str(error)
    text = f"{text[:1].lower()}{text[1:]}"
    return f"{error.filename}: {text}" if error.filename else text
