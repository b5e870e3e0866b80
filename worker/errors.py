"""Exceptions of a job as errors for the user."""

from __future__ import annotations

import re
from pathlib import Path

from rq.timeouts import JobTimeoutException

from jobs.disk import NO_ROOM
from jobs.errors import JobFailed, SkipVsrError, StorageFull
from media.errors import MediaError
from model.errors import DeviceError, MissingWeights, ModelError, UnknownModel
from model.faults import chain, memory_ran_out
from pipeline import source


def user_error(error: BaseException, data_dir: Path) -> SkipVsrError:
    """Convert any exception of a job to an error for the user.

    Args:
        error: the exception.
        data_dir: the data folder, which the message names if the disk has no room.
    """
    if isinstance(error, SkipVsrError):
        return error
    if reason := no_room(error):
        return StorageFull(
            f"The data folder {data_dir} {reason}. All finished chunks are kept: free disk space, then resume the job."
        )
    match error:
        case JobTimeoutException():
            return JobFailed("The job took longer than SKIPVSR_JOB_TIMEOUT_HOURS allows.")
        case MediaError():
            return source.user_error(error)
        case UnknownModel() | MissingWeights():  # another worker may have another weights folder
            return JobFailed(f"The worker that claimed the job lacks the model: {error}")
        case ModelError():
            return JobFailed(str(error))
        case OSError() if error.strerror:  # the whole text names files of this machine
            return JobFailed(f"Unexpected {type(error).__name__}: {error.strerror}")
        case _:
            detail = str(error).splitlines()[0] if str(error) else "no details"
            return JobFailed(f"Unexpected {type(error).__name__}: {detail}")


def is_final(error: BaseException) -> bool:
    """Whether the job would fail again in the same way: its finished chunks are then useless.

    Other limits, another worker or a later attempt may help after any other error.
    """
    return isinstance(error, MediaError) and source.user_error(error).permanent


def no_room(error: BaseException) -> str | None:
    """The reason why the disk accepts no data, from an error or its causes."""
    for cause in chain(error):
        number = getattr(cause, "errno", None)
        if number is None and (match := re.search(r"\(os error (\d+)\)", str(cause))):  # safetensors, from Rust
            number = int(match[1])
        if number in NO_ROOM:
            return NO_ROOM[number]
    return None


def out_of_memory(error: BaseException) -> bool:
    """Whether the device had too little memory for a chunk."""
    return isinstance(error, DeviceError) and any(memory_ran_out(cause) for cause in chain(error))
