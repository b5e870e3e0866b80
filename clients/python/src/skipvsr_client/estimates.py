"""Estimates: the server needs the ends of a file only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from skipvsr_client.documents import Estimate, build
from skipvsr_client.errors import Refused
from skipvsr_client.server import Server
from skipvsr_client.transport import Call

_MIB: Final = 1 << 20
_ENDS: Final = ((1 * _MIB, 2 * _MIB), (4 * _MIB, 16 * _MIB))
"""Bytes of the head and of the tail; the larger ends only if the header is not in the smaller ones."""
_HEADER_NOT_SENT: Final = "header-not-sent"


async def of_file(server: Server, path: Path, options: Mapping[str, str]) -> Estimate:
    """Estimate the job for a local file. Raises OSError, Refused."""
    for last, (head, tail) in zip((False, True), _ENDS, strict=True):
        files, size = await server.transport.call(_ends, path, head, tail)
        form = {**options, "size": str(size), "filename": path.name}
        try:
            return await _estimate(server, Call("POST", "/estimate", form=form, files=files))
        except Refused as error:
            if last or error.kind != _HEADER_NOT_SENT or size <= head + tail:
                raise
    raise AssertionError("unreachable")


async def of_upload(server: Server, upload: str, options: Mapping[str, str]) -> Estimate:
    """Estimate the job for an upload, finished or not."""
    files = {name: (None, text) for name, text in {**options, "upload": upload}.items()}  # a form without a file
    return await _estimate(server, Call("POST", "/estimate", files=files))


async def _estimate(server: Server, call: Call) -> Estimate:
    return build(Estimate, await server.json(call, repeat=True))


def _ends(path: Path, head: int, tail: int) -> tuple[dict[str, Any], int]:
    """The form's files with the ends of a file, and the size of the whole file."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        files = {"head": (path.name, file.read(head))}
        if size > head:
            file.seek(max(head, size - tail))
            files["tail"] = (path.name, file.read(tail))
    return files, size
