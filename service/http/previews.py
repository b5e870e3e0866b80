"""Previews: frames of a job's source and result as pictures, also while the job runs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import replace
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from threading import Lock
from typing import Any, Final, NamedTuple

import anyio.from_thread
import anyio.to_thread
from anyio import CapacityLimiter
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from jobs.disk import open_regular
from jobs.errors import Cancelled, DecoderFailed, Gone, JobFailed, NotReady, TooManyPreviews
from jobs.schema import Job, JobState
from jobs.settings import Settings
from jobs.stored import StoredFile
from media.errors import DecoderCrashed, FrameMissing
from media.preview import Preview, preview
from pipeline.layout import SHOWN, finished_segments
from pipeline.source import media_limits, user_errors
from service.operations import Operations

_AT_ONCE: Final = 2
_WAITING: Final = 24
"""Most requests that wait for a place. A page asks for a few thumbnails at once."""
_SECONDS: Final = 10.0
"""Most seconds for a picture."""
_NO_PICTURE: Final = (
    f"The decoder crashed, or made no picture within {_SECONDS:g} seconds: try again, or download the file."
)
_CACHE_BYTES: Final = 16 * 2**20
_TAKEOVERS: Final = 3
"""Attempts: a worker that takes the job over, or publishes the result, moves the files."""
_RETRY_SECONDS: Final = 2


class View(StrEnum):
    """The content of a preview."""

    SOURCE = "source"
    BICUBIC = "bicubic"
    RESULT = "result"


class _Files(NamedTuple):
    """Files from which a picture is made."""

    path: Path
    segments: tuple[Path, ...] = ()


class Previews:
    """Makes previews, two at a time, each in a process that can only read the job's files."""

    def __init__(self, settings: Settings) -> None:
        limits = media_limits(settings)
        self._limits = replace(
            limits,
            max_pixels=max(limits.max_pixels, limits.max_output_pixels),
            max_upload_bytes=2**62,  # the limits of uploads do not hold for results
            max_streams=limits.max_streams + 8,
            max_decoder_seconds=min(limits.max_decoder_seconds, _SECONDS),
        )
        self._places = CapacityLimiter(_AT_ONCE)
        self._asked = 0
        """Requests with a place, or waiting for one."""
        self._cache = _Cache()

    async def picture(
        self,
        operations: Operations,
        job_id: str,
        view: View,
        seconds: float | None,
        width: int | None,
        gone: Callable[[], Coroutine[Any, Any, bool]],
    ) -> tuple[Job, Preview]:
        """A job of the caller, and the frame at a time; None: the newest finished frame.

        `gone` tells whether the client has disconnected: pages ask for pictures that nobody waits for a moment later.

        Raises:
            ClientDisconnect: nobody waits for the picture.
            NotReady: the result does not reach as far yet.
            Cancelled, Gone: the files have been removed.
            TooManyPreviews: too many requests wait.
            UnusableVideo, UnsupportedMedia, TooLarge: no frame can be decoded.
        """
        job = await run_in_threadpool(operations.get, job_id)
        if self._asked >= _AT_ONCE + _WAITING:
            raise TooManyPreviews("the server makes other previews at the moment; try again shortly")

        def make() -> Preview:
            if anyio.from_thread.run(gone):
                raise ClientDisconnect
            return self._make(operations, job, view, seconds, width)

        self._asked += 1
        try:
            return job, await anyio.to_thread.run_sync(make, limiter=self._places)
        finally:
            self._asked -= 1

    def _make(self, operations: Operations, job: Job, view: View, seconds: float | None, width: int | None) -> Preview:
        for _ in range(_TAKEOVERS):
            files = _files(operations, job, view, newest=seconds is None)
            try:
                key = _stamp(files), view, seconds, width
                return self._cache.get(key) or self._cache.add(key, self._decode(files, job, view, seconds, width))
            except FileNotFoundError:
                job = operations.get(job.id)
        raise _not_ready("The job's files are being moved.")

    def _decode(self, files: _Files, job: Job, view: View, seconds: float | None, width: int | None) -> Preview:
        try:
            with user_errors():
                return preview(
                    files.path,
                    seconds,
                    segments=files.segments,
                    of_result=view is View.RESULT,
                    fields=job.options.deinterlace == "field",
                    enlarge=_enlargement(job, files) if view is View.BICUBIC else Fraction(1),
                    width=width,
                    limits=self._limits,
                )
        except Exception as error:
            if isinstance(error.__cause__, FrameMissing):
                raise _not_ready("The result does not reach as far yet.") from error
            if isinstance(error.__cause__, DecoderCrashed):  # whose message names a setting without effect here
                raise DecoderFailed(_NO_PICTURE) from error
            raise


def _files(operations: Operations, job: Job, view: View, *, newest: bool) -> _Files:
    """The files of a view. Raises NotReady, Cancelled, JobFailed, Gone."""
    if job.state is JobState.DONE:
        opened = operations.result if view is View.RESULT else operations.input
        return _checked(_Files(_on_disk(operations, opened(job.id))))
    work = operations.storage.work(job.id, SHOWN)
    segments = finished_segments(work) if work else ()
    if view is View.RESULT and not segments:
        _refuse(job)
    if view is not View.RESULT and not newest:
        segments = segments[:1]  # which tells the size of the result
    return _checked(_Files(_on_disk(operations, operations.input(job.id)), segments))


def _on_disk(operations: Operations, found: tuple[Job, StoredFile]) -> Path:
    """Path of a job's file on this machine."""
    job, file = found
    return operations.storage.on_disk(job.id, file)


def _refuse(job: Job) -> None:
    """Say why a job has no finished frame."""
    if job.state is JobState.CANCELLED:
        raise Cancelled("The job was cancelled and has no result.")
    if job.state is JobState.FAILED:
        raise Gone("The job failed, and no finished frame is kept.")
    raise _not_ready(f"The job is {job.state}, and no frame is finished yet.")


def _not_ready(message: str) -> NotReady:
    error = NotReady(message)
    error.retry_after = _RETRY_SECONDS
    return error


def _checked(files: _Files) -> _Files:
    """Refuse links in place of files. Raises JobFailed."""
    open_regular(files.path).close()
    if any(path.is_symlink() for path in files.segments):
        raise JobFailed("A segment of the job is a link, so the service refuses the file.")
    return files


def _enlargement(job: Job, files: _Files) -> Fraction | None:
    """Size of the result divided by the size of the source; None: that of the segments, or unknown."""
    if job.input is None or files.segments:
        return None
    if (expected := job.output or job.estimate) is not None:
        return Fraction(expected.width, job.input.width)
    if job.options.height is not None:
        return Fraction(job.options.height, job.input.height)
    return Fraction(job.options.scale) if job.options.scale is not None else None


def _stamp(files: _Files) -> tuple[Hashable, ...]:
    """Changes whenever the picture may change. Raises FileNotFoundError."""
    facts = [path.stat() for path in (files.path, *files.segments[:1], *files.segments[-1:])]
    return len(files.segments), *((found.st_ino, found.st_mtime_ns, found.st_size) for found in facts)


class _Cache:
    """The last pictures."""

    def __init__(self) -> None:
        self._found: OrderedDict[Hashable, Preview] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    def get(self, key: Hashable) -> Preview | None:
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
            return found

    def add(self, key: Hashable, made: Preview) -> Preview:
        with self._lock:
            if key not in self._found:
                self._found[key] = made
                self._size += len(made.webp)
            while self._size > _CACHE_BYTES:
                self._size -= len(self._found.popitem(last=False)[1].webp)
        return made
