"""`skipvsr submit`: a server upscales a file: upload, wait, download; ^C cancels the job."""

from __future__ import annotations

import io
import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from commands.shared.command_line import FILE, Command, option, read_settings
from commands.shared.errors import CommandError
from commands.shared.job_options import given, job_options
from jobs.schema import JobOptions

if TYPE_CHECKING:
    import httpx

    from commands.shared.progress import Advance, ShowFrames

_POLL_SECONDS: Final = 0.5
_PATIENCE_SECONDS: Final = 120.0
"""Seconds without an answer before the command gives up; a restart of the server or its Redis takes less."""
_AWAY: Final = (502, 503, 504)
"""HTTP statuses of a starting server, or of a server without Redis."""


@click.command(cls=Command)
@click.argument("source", type=FILE, metavar="IN", help="Video file")
@option("-o", "--output", type=FILE, metavar="OUT", required=True, help="Result; .mp4, .mkv, .mov or .webm")
@option("--url", metavar="URL", help="Server; default: the local `skipvsr up`")
@job_options
def command(source: Path, output: Path, url: str | None, **options: Any) -> int:
    """Upscale a file on a server and download the result."""
    from commands.shared.addresses import address

    settings = read_settings()
    chosen = given(options, output)
    JobOptions(**chosen)  # report invalid options before the upload
    key = settings.api_key.get_secret_value() if settings.api_key else None
    url = url or f"http://{address(settings.http_host, settings.http_port)}"
    return run(source, output, url=url, api_key=key, fields={name: str(value) for name, value in chosen.items()})


def run(source: Path, target: Path, *, url: str, api_key: str | None, fields: Mapping[str, str]) -> int:
    """Upscale `source` on the server at `url` and write the result to `target`. Raises CommandError."""
    import httpx

    from commands.shared.naming import check_names

    if not source.is_file():
        raise CommandError(f"there is no file {source}")
    check_names(source, {"the output": target})
    headers = {b"X-API-Key": api_key.encode()} if api_key else {}
    try:
        client = httpx.Client(base_url=url, headers=headers, timeout=httpx.Timeout(60, connect=10))
    except httpx.InvalidURL as error:
        raise CommandError(f"{url} is not the address of a server ({error}); expected http://host:8000") from None
    with client:
        try:
            job = _processed(client, source, target, fields)
        except httpx.ConnectError:
            raise CommandError(f"no server answers at {url}; start one with `skipvsr up`, or give --url") from None
        except httpx.HTTPError as error:
            raise CommandError(f"the connection to {url} failed: {error or type(error).__name__}") from None
    for warning in job.get("warnings", []):
        print(f"note: {warning}")
    print(f"{target}  {_summary(job)}")
    return 0


def _processed(client: httpx.Client, source: Path, target: Path, fields: Mapping[str, str]) -> dict[str, Any]:
    """The finished job, with its result in `target`. Raises CommandError and httpx.HTTPError."""
    job = _upload(client, source, fields)
    title = f"job {job['id']}"
    print(f"{title} at {str(client.base_url).rstrip('/')}", file=sys.stderr)
    try:
        job = _Waiting(client, job["id"]).wait()
    except KeyboardInterrupt:
        raise CommandError(_cancel(client, title, job["id"])) from None
    if job["state"] != "done":
        reason = (job.get("error") or {}).get("detail", "no reason given")
        raise CommandError(f"{title} {job['state']}: {reason}")
    _download(client, job["id"], target)
    return job


def _upload(client: httpx.Client, source: Path, fields: Mapping[str, str]) -> dict[str, Any]:
    from commands.shared.progress import bytes_bar

    size = source.stat().st_size
    with bytes_bar("uploading", size) as advance, _Counted(source, advance) as body:
        return _json(client.post("/upscale", data=dict(fields), files={"file": (source.name, body)}))


class _Waiting:
    """Polls a job until its end, and reports pauses of the job and absences of the server."""

    def __init__(self, client: httpx.Client, job_id: str) -> None:
        self._client = client
        self._id = job_id
        self._answered = time.monotonic()
        self._away = False
        self._paused = False

    def wait(self) -> dict[str, Any]:
        """The finished job. Raises CommandError if the server stays away."""
        from commands.shared.progress import frames_bar

        with frames_bar("waiting") as show:
            while True:
                job = self._ask()
                if job is not None:
                    if job["state"] in ("done", "failed", "cancelled"):
                        return job
                    self._report(job, show)
                time.sleep(_POLL_SECONDS)

    def _ask(self) -> dict[str, Any] | None:
        """The job's document; None while the server is away."""
        import httpx

        try:
            answer = self._client.get(f"/jobs/{self._id}")
        except httpx.TransportError as error:
            self._report_absence(str(error) or type(error).__name__)
            return None
        if answer.status_code in _AWAY:
            self._report_absence(f"status {answer.status_code} {answer.reason_phrase}")
            return None
        job = _json(answer)
        self._answered, self._away = time.monotonic(), False
        return job

    def _report_absence(self, trouble: str) -> None:
        if time.monotonic() - self._answered > _PATIENCE_SECONDS:
            raise CommandError(
                f"the server has not answered for {_PATIENCE_SECONDS:.0f} s ({trouble}); job {self._id} continues "
                f"when the server is back: ask {str(self._client.base_url).rstrip('/')}/jobs/{self._id}"
            )
        if not self._away:
            print(f"the server does not answer ({trouble}); waiting", file=sys.stderr)
        self._away = True

    def _report(self, job: dict[str, Any], show: ShowFrames) -> None:
        state, progress = job["state"], job["progress"]
        if state == "paused" and not self._paused:
            reason = (job.get("error") or {}).get("detail", "paused by request.")
            print(f"job {self._id} is paused: {reason} Waiting until the job is resumed.", file=sys.stderr)
        self._paused = state == "paused"
        activity = {"queued": "waiting", "paused": "paused"}.get(state, "upscaling")
        show(activity, progress["frames_done"], progress["frames_total"], progress["fps"])


def _download(client: httpx.Client, job_id: str, target: Path) -> None:
    from commands.shared.naming import beside
    from commands.shared.progress import bytes_bar

    with client.stream("GET", f"/jobs/{job_id}/result") as answer:
        if answer.is_error:
            answer.read()
            _json(answer)
        size = int(answer.headers.get("content-length", 0)) or None
        part = beside(target, f".{secrets.token_hex(6)}.part")  # random: two downloads may have the same target
        try:
            with part.open("xb") as file, bytes_bar("downloading", size) as advance:
                for piece in answer.iter_bytes(1 << 20):
                    file.write(piece)
                    advance(len(piece))
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _cancel(client: httpx.Client, title: str, job_id: str) -> str:
    """Cancel a job; returns the message about the outcome."""
    import httpx

    try:
        answer = client.post(f"/jobs/{job_id}/cancel")
        if answer.is_success:
            return f"cancelled {title}"
        if answer.status_code not in _AWAY:
            _json(answer)
    except httpx.HTTPError:
        pass
    except CommandError as error:
        return f"could not cancel {title}: {error}"
    return f"could not cancel {title}, because the server does not answer; the job continues"


def _json(answer: httpx.Response) -> dict[str, Any]:
    """The document in a response. Raises CommandError with the problem's detail if the status is an error."""
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
    """A file that counts the bytes read, while httpx sends the file piece by piece."""

    def __init__(self, path: Path, advance: Advance) -> None:
        super().__init__(io.FileIO(path))
        self._advance = advance

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._advance(len(data))
        return data
