"""Downloads: resumed after a broken connection, also by a later call, and complete or absent at the target."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final

import httpx

from skipvsr_client.activity import Activity, OnProgress, away
from skipvsr_client.errors import ConnectionFailed, Refused
from skipvsr_client.server import Patience, Server
from skipvsr_client.transport import Call

_RANGE_NOT_SATISFIABLE: Final = 416


@dataclass(frozen=True)
class RemoteFile:
    """A file on the server."""

    path: str
    """Path of the address."""
    name: str
    size: int | None
    etag: str | None


class Downloads:
    """Downloads from one server.

    The bytes go into a hidden file beside the target. The hidden name depends on target, address and version (ETag) of
    the remote file. An interrupted download leaves this file, and the next call continues it.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    async def save(self, path: str, target: Path | None, fallback: str, on_progress: OnProgress) -> Path:
        """Download the file at `path`, and return the local path.

        Args:
            path: path of the address.
            target: file to write, or an existing folder; None: the current folder. A folder gets the server's name.
            fallback: name if the server gives none.
            on_progress: called with the bytes.
        """
        remote = await self._look(path, fallback)
        call = self._server.transport.call
        target = await call(_target, target, remote.name)
        part = _part(target, remote)
        patience = self._server.patience(away(on_progress))
        file = await call(_opened, part)
        try:
            while not await self._complete(remote, file, patience, on_progress):
                pass
            await call(_synced, file)
        finally:
            await call(file.close)
        await call(_published, part, target)
        return target

    async def _look(self, path: str, fallback: str) -> RemoteFile:
        try:
            answer = await self._server.fetch(Call("HEAD", path), repeat=True)
        except Refused:  # the answer to HEAD has no content, which would state the reason
            await self._server.fetch(Call("GET", path, headers={"Range": "bytes=0-0"}), repeat=True)
            raise
        length = answer.headers.get("content-length")
        return RemoteFile(
            path,
            _name(answer.headers.get("content-disposition", ""), fallback),
            int(length) if length is not None else None,
            answer.headers.get("etag"),
        )

    async def _complete(self, remote: RemoteFile, file: BinaryIO, patience: Patience, on_progress: OnProgress) -> bool:
        """Receive the missing bytes, over a single connection. Returns False after a broken connection."""
        have = await self._server.transport.call(file.seek, 0, os.SEEK_END)
        if have and have == remote.size:
            return True
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if remote.etag is not None:
                headers["If-Range"] = remote.etag
        try:
            async with self._server.opened(Call("GET", remote.path, headers=headers), patience) as response:
                await self._receive(response, file, have, patience, on_progress)
        except ConnectionFailed as error:
            await patience.wait(error)
            return False
        except Refused as error:
            if error.status != _RANGE_NOT_SATISFIABLE or not have:
                raise
            await self._server.transport.call(file.truncate, 0)  # the file beside the target is of no use
            return False
        return True

    async def _receive(
        self, response: httpx.Response, file: BinaryIO, have: int, patience: Patience, on_progress: OnProgress
    ) -> None:
        call = self._server.transport.call
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            have = 0
            await call(file.seek, 0)
            await call(file.truncate, 0)
        length = response.headers.get("content-length")
        total = have + int(length) if length is not None else None
        on_progress(Activity("downloading", have, total))
        async for piece in self._server.transport.pieces(response):
            await call(file.write, piece)
            patience.succeeded()
            have += len(piece)
            on_progress(Activity("downloading", have, total))


def _target(given: Path | None, name: str) -> Path:
    """The file to write. Creates no folders."""
    folder = Path() if given is None else given
    return folder / name if given is None or folder.is_dir() else folder


def _part(target: Path, remote: RemoteFile) -> Path:
    version = sha256(f"{remote.path}\n{remote.etag}\n{remote.size}".encode()).hexdigest()[:12]
    return target.with_name(f".{target.name}.{version}.part")


def _opened(part: Path) -> BinaryIO:
    """Open the file beside the target, unbuffered, for reading its size and for writing at its end."""
    part.touch()
    return part.open("r+b", buffering=0)


def _synced(file: BinaryIO) -> None:
    os.fsync(file.fileno())


def _published(part: Path, target: Path) -> None:
    """Move the complete file to the target."""
    with suppress(FileNotFoundError):  # another download of the same file has moved it
        part.replace(target)


def _name(disposition: str, fallback: str) -> str:
    """The file's name in a Content-Disposition header, without folders."""
    message = Message()
    message["content-disposition"] = disposition
    name = Path(message.get_filename() or fallback).name
    return name if name not in ("", ".", "..") else fallback
