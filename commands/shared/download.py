"""Downloads of results: resumed after an interruption, and published whole."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from commands.shared.errors import CommandError
from commands.shared.service import AWAY, PATIENCE_SECONDS, Service, document

if TYPE_CHECKING:
    import httpx

    from commands.shared.progress import Advance

_RETRY_SECONDS: Final = 1.0
_PIECE: Final = 1 << 20
_PLAIN: Final = {"Accept-Encoding": "identity"}
"""The bytes of the file itself, so that their number tells the place to resume at."""


class _Away(Exception):
    """The server does not answer, or the connection broke."""


def download(service: Service, job_id: str, target: Path, *, quiet: bool = False) -> None:
    """Write the result of a job to `target`. An interrupted download continues where the last one ended.

    Raises CommandError and httpx.HTTPError.
    """
    from commands.shared.progress import bytes_bar
    from jobs.storage import replace

    head = service.client.head(f"/jobs/{job_id}/result", headers=_PLAIN)
    if head.is_error:
        document(service.client.get(f"/jobs/{job_id}/result"))  # a response to HEAD has no reason in it
    size, version = int(head.headers["content-length"]), head.headers.get("etag", "")
    with _part_file(target, f"{job_id}{version}") as (part, file):
        with bytes_bar("downloading", size, quiet=quiet) as advance:
            advance(min(file.seek(0, os.SEEK_END), size))
            _complete(service, job_id, file, size, version, advance)
        file.flush()
        replace(part, target.absolute())


@contextmanager
def _part_file(target: Path, version: str) -> Iterator[tuple[Path, BinaryIO]]:
    """The unfinished file of one version of a result, locked. Raises CommandError if another download has the lock."""
    from commands.shared.naming import beside

    part = beside(target, f".{hashlib.sha256(version.encode()).hexdigest()[:12]}.part")
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(f"another download is writing {target}") from None
        yield part, file


def _complete(service: Service, job_id: str, file: BinaryIO, size: int, version: str, advance: Advance) -> None:
    """Append the missing bytes, with patience for a server that restarts."""
    answered = time.monotonic()
    while (have := file.seek(0, os.SEEK_END)) != size:
        try:
            _append(service, job_id, file, have, version, advance)
        except _Away as error:
            if file.tell() > have:
                answered = time.monotonic()
            if time.monotonic() - answered > PATIENCE_SECONDS:
                raise CommandError(
                    f"the download broke off ({error}); `skipvsr download {job_id}` with the same output continues"
                ) from None
            time.sleep(_RETRY_SECONDS)


def _append(service: Service, job_id: str, file: BinaryIO, have: int, version: str, advance: Advance) -> None:
    import httpx

    headers = {**_PLAIN, **({"Range": f"bytes={have}-", "If-Range": version} if have else {})}
    try:
        with service.client.stream("GET", f"/jobs/{job_id}/result", headers=headers) as answer:
            _check(answer)
            if have and answer.status_code != httpx.codes.PARTIAL_CONTENT:  # another version of the file
                file.truncate(0)
                advance(-have)
            for piece in answer.iter_raw(_PIECE):
                file.write(piece)
                advance(len(piece))
    except httpx.TransportError as error:
        raise _Away(str(error) or type(error).__name__) from None
    finally:
        file.flush()


def _check(answer: httpx.Response) -> None:
    if answer.status_code in AWAY:
        raise _Away(f"status {answer.status_code} {answer.reason_phrase}")
    if answer.is_error:
        answer.read()
        document(answer)
