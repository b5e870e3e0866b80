"""Uploads: resumable by tus 1.0 if the server offers tus, else as a form."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from skipvsr_client.activity import Activity, OnProgress, away
from skipvsr_client.errors import ConnectionFailed, NotFound, Refused, SkipVsrError
from skipvsr_client.server import Patience, Server
from skipvsr_client.transport import Body, Call

_VERSION: Final = {"Tus-Resumable": "1.0.0"}
_PIECE_BYTES: Final = 1 << 18
_REQUEST_BYTES: Final = 64 << 20
"""Bytes in one request: proxies limit the size and the time of requests."""
_ABSENT: Final = (404, 405, 501)
_TRANSIENT: Final = (408, 409, 423, 460)
"""tus: stalled, another offset, locked by the request that broke, and checksum mismatch."""


@dataclass(frozen=True)
class LocalFile:
    """A file to upload."""

    path: Path
    name: str
    size: int

    @classmethod
    def of(cls, path: Path, name: str | None) -> LocalFile:
        """Describe the file at `path`. Raises OSError."""
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
        return cls(path, name or path.name, size)

    def pieces(self, start: int, size: int) -> Iterator[bytes]:
        """Read `size` bytes from `start` on."""
        with self.path.open("rb") as file:
            file.seek(start)
            while size > 0 and (piece := file.read(min(_PIECE_BYTES, size))):
                size -= len(piece)
                yield piece


class Uploads:
    """Uploads to one server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._offered: bool | None = None

    async def resumable(self) -> bool:
        """Whether the server offers resumable uploads."""
        if self._offered is None:
            try:
                answer = await self._server.fetch(Call("OPTIONS", "/uploads"), repeat=True)
                self._offered = "tus-resumable" in answer.headers
            except Refused as error:
                if error.status not in _ABSENT:
                    raise
                self._offered = False
        return self._offered

    async def send(self, file: LocalFile, upload: str | None, on_progress: OnProgress) -> str:
        """Upload a file, or the rest of an unfinished `upload`; return the upload's id.

        A broken connection is resumed. Raises ConnectionFailed with the upload's id if the server stays away.
        """
        if upload is not None:
            offset: int | None = None
        else:
            upload, offset = await self._created(file), 0
        patience, furthest = self._server.patience(away(on_progress)), 0
        while offset is None or offset < file.size:
            try:
                offset = await self._further(file, upload, offset, on_progress)
            except (ConnectionFailed, Refused) as error:
                if isinstance(error, Refused) and not _transient(error):
                    raise
                offset = None
                await _waited(patience, error, upload)
            else:
                if offset > furthest:
                    patience.succeeded()
                furthest = max(furthest, offset)
        return upload

    async def _further(self, file: LocalFile, upload: str, offset: int | None, on_progress: OnProgress) -> int:
        """Send bytes from `offset` on, or ask for the unknown offset; return the new offset."""
        if offset is None:
            return await self._offset(file, upload)
        return await self._sent(file, upload, offset, on_progress)

    async def _created(self, file: LocalFile) -> str:
        name = b64encode(file.name.encode()).decode()
        headers = {**_VERSION, "Upload-Length": str(file.size), "Upload-Metadata": f"filename {name}"}
        answer = await self._server.fetch(Call("POST", "/uploads", headers=headers), repeat=True)
        return urlsplit(answer.headers["location"]).path.rstrip("/").rpartition("/")[2]

    async def _offset(self, file: LocalFile, upload: str) -> int:
        """Number of bytes that the server has."""
        try:
            answer = await self._server.fetch(Call("HEAD", f"/uploads/{upload}", headers=_VERSION), repeat=True)
        except NotFound as error:  # the answer to HEAD has no content, which would state the reason
            raise NotFound(
                f"no unfinished upload {upload}: the upload has expired or has become a job; upload the file anew",
                status=error.status,
                kind="not-found",
                request_id=error.request_id,
            ) from error
        length = answer.headers.get("upload-length", str(file.size))
        if length != str(file.size):
            raise SkipVsrError(
                f"upload {upload} belongs to a file of {length} bytes, but {file.path} has {file.size}: upload it anew"
            )
        return int(answer.headers["upload-offset"])

    async def _sent(self, file: LocalFile, upload: str, offset: int, on_progress: OnProgress) -> int:
        """Send the bytes from `offset` on, in one request; return the new offset."""
        size = min(_REQUEST_BYTES, file.size - offset)
        done = [offset]

        def count(piece: int) -> None:
            done[0] += piece
            on_progress(Activity("uploading", done[0], file.size))

        headers = {
            **_VERSION,
            "Upload-Offset": str(offset),
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(size),
        }
        body = Body(partial(file.pieces, offset, size), count)
        call = Call("PATCH", f"/uploads/{upload}", headers=headers, body=body)
        answer = await self._server.fetch(call, repeat=False)
        return int(answer.headers["upload-offset"])


def _transient(error: Refused) -> bool:
    return error.status >= 500 or error.status in _TRANSIENT


async def _waited(patience: Patience, error: SkipVsrError, upload: str) -> None:
    """Wait after an error. Raises ConnectionFailed with the upload's id if the time is over."""
    try:
        await patience.wait(error)
    except (ConnectionFailed, Refused) as last:
        interrupted = ConnectionFailed(f"{last}; the upload is unfinished, and continues with upload={upload!r}")
        interrupted.upload = upload
        raise interrupted from last


class CountedFile(io.BufferedReader):
    """A file that reports the bytes read, while httpx sends the file piece by piece."""

    def __init__(self, file: LocalFile, on_progress: OnProgress) -> None:
        super().__init__(io.FileIO(file.path))
        self._size, self._on_progress = file.size, on_progress

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._on_progress(Activity("uploading", self.tell(), self._size))
        return data
