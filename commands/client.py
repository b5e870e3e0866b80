"""`skipvsr submit`: have a server upscale a file: upload, wait, download; ^C cancels the job."""

from __future__ import annotations

import io
import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from commands.errors import CommandError
from commands.naming import beside, check_names
from commands.progress import Advance, bytes_bar, frames_bar

_POLL_SECONDS: Final = 0.5
_PATIENCE_SECONDS: Final = 120.0
"""How long a server that had taken the job may be away: it may be restarting, or waiting for its Redis."""
_AWAY: Final = (502, 503, 504)


def run(source: Path, target: Path, *, url: str, api_key: str | None, fields: Mapping[str, str]) -> int:
    """Upscale `source` on the server at `url` and write the result to `target`. Raises CommandError."""
    if not source.is_file():
        raise CommandError(f"there is no file {source}")
    check_names(source, {"the output": target})
    headers = {b"X-API-Key": api_key.encode()} if api_key else {}
    try:
        client = httpx.Client(base_url=url, headers=headers, timeout=httpx.Timeout(60, connect=10))
    except httpx.InvalidURL as error:
        raise CommandError(f"{url} is no address of a server ({error}); it looks like http://host:8000") from None
    with client:
        try:
            job = _upload(client, source, fields)
            told = f"job {job['id']}"
            print(f"{told} at {url}", file=sys.stderr)
            try:
                job = _wait(client, job)
            except KeyboardInterrupt:
                raise CommandError(_cancel(client, told, job["id"])) from None
            if job["state"] != "done":
                reason = (job.get("error") or {}).get("detail", "no reason given")
                raise CommandError(f"{told} {job['state']}: {reason}")
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
    """The job when it is over. Says so where nothing goes on; raises CommandError where the server stays away."""
    answered, away, paused = time.monotonic(), False, False
    answer: httpx.Response | None
    with frames_bar("waiting") as show:
        while True:
            try:
                answer = client.get(f"/jobs/{job['id']}")
                trouble = f"it answers {answer.status_code} {answer.reason_phrase}"
            except httpx.TransportError as error:
                answer, trouble = None, str(error) or type(error).__name__
            if answer is None or answer.status_code in _AWAY:
                if time.monotonic() - answered > _PATIENCE_SECONDS:
                    raise CommandError(
                        f"the server has been away for {_PATIENCE_SECONDS:.0f} s ({trouble}); job {job['id']} goes on "
                        f"when it is back: ask {str(client.base_url).rstrip('/')}/jobs/{job['id']}"
                    )
                if not away:
                    print(f"the server is away ({trouble}); waiting for it", file=sys.stderr)
                away = True
                time.sleep(_POLL_SECONDS)
                continue
            job, answered, away = _json(answer), time.monotonic(), False
            if job["state"] in ("done", "failed", "cancelled"):
                return job
            if job["state"] == "paused" and not paused:
                reason = (job.get("error") or {}).get("detail", "somebody has paused it.")
                print(f"job {job['id']} is paused: {reason} Waiting until it is resumed.", file=sys.stderr)
            paused = job["state"] == "paused"
            progress = job["progress"]
            show(
                {"queued": "waiting", "paused": "paused"}.get(job["state"], "upscaling"),
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
        part = beside(target, f".{secrets.token_hex(6)}.part")  # its own: two may download to one place
        try:
            with part.open("xb") as file, bytes_bar("downloading", size) as advance:
                for piece in answer.iter_bytes(1 << 20):
                    file.write(piece)
                    advance(len(piece))
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _cancel(client: httpx.Client, told: str, job_id: str) -> str:
    try:
        answer = client.post(f"/jobs/{job_id}/cancel")
        if answer.is_success:
            return f"cancelled {told}"
        if answer.status_code not in _AWAY:
            _json(answer)
    except httpx.HTTPError:
        pass
    except CommandError as error:
        return f"{told} could not be cancelled: {error}"
    return f"{told} could not be cancelled, for the server does not answer: it goes on"


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
