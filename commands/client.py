"""`skipvsr submit`: have a server upscale a file: upload, wait, download; ^C cancels the job."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from commands.errors import CommandError
from commands.progress import Advance, bytes_bar, frames_bar

_POLL_SECONDS = 0.5
_ATTEMPTS = 10
"""Polls in a row that may fail before the server is given up: it may be restarting."""


def run(source: Path, target: Path, *, url: str, api_key: str | None, fields: Mapping[str, str]) -> int:
    """Upscale `source` on the server at `url` and write the result to `target`. Raises CommandError."""
    if not source.is_file():
        raise CommandError(f"there is no file {source}")
    if not target.absolute().parent.is_dir():
        raise CommandError(f"there is no folder {target.absolute().parent}")
    headers = {"X-API-Key": api_key} if api_key else {}
    with httpx.Client(base_url=url, headers=headers, timeout=httpx.Timeout(60, connect=10)) as client:
        try:
            job = _upload(client, source, fields)
            try:
                job = _wait(client, job)
            except KeyboardInterrupt:
                with contextlib.suppress(httpx.HTTPError):
                    client.post(f"/jobs/{job['id']}/cancel")
                raise CommandError(f"cancelled job {job['id']}") from None
            if job["state"] != "done":
                error = job.get("error") or {}
                raise CommandError(f"job {job['id']} {job['state']}: {error.get('detail', 'no reason given')}")
            _download(client, job["id"], target)
        except httpx.ConnectError:
            raise CommandError(f"no server answers at {url}; start one with `skipvsr up`, or give --url") from None
        except httpx.HTTPError as error:
            raise CommandError(f"the connection to {url} failed: {error or type(error).__name__}") from None
    for warning in job.get("warnings", []):
        print(f"note: {warning}")
    print(f"{target}  {_summary(job)}")
    return 0


def _upload(client: httpx.Client, source: Path, fields: Mapping[str, str]) -> dict[str, Any]:
    size = source.stat().st_size
    with bytes_bar("uploading", size) as advance, _Counted(source, advance) as body:
        return _json(client.post("/upscale", data=dict(fields), files={"file": (source.name, body)}))


def _wait(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    failures = 0
    with frames_bar("waiting") as show:
        while True:
            try:
                job = _json(client.get(f"/jobs/{job['id']}"))
                failures = 0
            except httpx.TransportError:
                failures += 1
                if failures >= _ATTEMPTS:
                    raise
            if job["state"] in ("done", "failed", "cancelled"):
                return job
            progress = job["progress"]
            show(
                "waiting" if job["state"] == "queued" else "upscaling",
                progress["frames_done"],
                progress["frames_total"],
                progress["fps"],
            )
            time.sleep(_POLL_SECONDS)


def _download(client: httpx.Client, job_id: str, target: Path) -> None:
    with client.stream("GET", f"/jobs/{job_id}/result") as answer:
        if answer.is_error:
            answer.read()
            _json(answer)
        size = int(answer.headers.get("content-length", 0)) or None
        handle, name = tempfile.mkstemp(dir=target.absolute().parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file, bytes_bar("downloading", size) as advance:
                for piece in answer.iter_bytes(1 << 20):
                    file.write(piece)
                    advance(len(piece))
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _json(answer: httpx.Response) -> dict[str, Any]:
    """The document in an answer. Raises CommandError with the problem's detail where it is an error."""
    try:
        document = answer.json()
    except ValueError:
        document = None
    if answer.is_success and isinstance(document, dict):
        return document
    detail = document.get("detail") if isinstance(document, dict) else None
    raise CommandError(str(detail or f"the server answered {answer.status_code} {answer.reason_phrase}"))


def _summary(job: Mapping[str, Any]) -> str:
    metrics, output = job["metrics"], job.get("output") or {}
    seconds = metrics.get("processing_seconds") or 0
    frames = job["progress"]["frames_done"]
    rate = f", {frames / seconds:.1f} fps" if seconds else ""
    return (
        f"{output.get('width', '?')}×{output.get('height', '?')}, {frames} frames in {seconds:.1f} s{rate}; "
        f"skip ratio {metrics['skip_ratio']:.2f}, speed-up {metrics['speedup']:.2f}"
    )


class _Counted(io.BufferedReader):
    """A file whose reading is counted; httpx sends it piece by piece."""

    def __init__(self, path: Path, advance: Advance) -> None:
        super().__init__(io.FileIO(path))
        self._advance = advance

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._advance(len(data))
        return data
