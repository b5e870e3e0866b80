"""What an exception means for the job: which problem it is, and whether the job may go on later."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from rq.timeouts import JobTimeoutException

from jobs.errors import JobFailed, SkipVsrError, StorageFull, TooLarge, UnsupportedMedia, UnusableVideo
from jobs.schema import Problem
from media.errors import MediaError, OverLimit, UnsupportedFile
from model.errors import DeviceError, MissingWeights, ModelError, UnknownModel

_NO_ROOM: Final = {errno.ENOSPC: "is full", errno.EDQUOT: "is over its quota", errno.EROFS: "is read-only"}


def explain(error: BaseException, data_dir: Path) -> SkipVsrError:
    """The error of ours that says to a person what happened."""
    if isinstance(error, SkipVsrError):
        return error
    if reason := no_room(error):
        return StorageFull(
            f"The data folder {data_dir} {reason}. What is done so far is kept: make room, then resume the job."
        )
    if isinstance(error, JobTimeoutException):
        return JobFailed("The job took longer than SKIPVSR_JOB_TIMEOUT_HOURS allows.")
    if isinstance(error, UnsupportedFile):
        return UnsupportedMedia(str(error))
    if isinstance(error, OverLimit):
        return TooLarge(str(error))
    if isinstance(error, MediaError):
        return UnusableVideo(str(error))
    if isinstance(error, (UnknownModel, MissingWeights)):  # another worker, with another weights folder, may have it
        return JobFailed(f"The worker that took the job lacks its model: {error}")
    if isinstance(error, ModelError):
        return JobFailed(str(error))
    return JobFailed(f"Unexpected {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}")


def problem(error: SkipVsrError) -> Problem:
    """An error as the job document has it."""
    return Problem(type=f"/problems/{error.kind}", title=error.title, status=error.status, detail=str(error))


def no_room(error: BaseException) -> str | None:
    """Why nothing can be written, if that is what is behind an error."""
    for cause in _causes(error):
        number = getattr(cause, "errno", None)
        if number is None and (match := re.search(r"\(os error (\d+)\)", str(cause))):  # safetensors, from Rust
            number = int(match[1])
        if number in _NO_ROOM:
            return _NO_ROOM[number]
    return None


def out_of_memory(error: BaseException) -> bool:
    """Whether the device had too little memory for a chunk."""
    return isinstance(error, DeviceError) and any(isinstance(c, torch.OutOfMemoryError) for c in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
