"""A server's REST API for the commands: list, find and change jobs, upload a file, follow a job."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from commands.shared.command_line import option, read_settings
from commands.shared.errors import CommandError, FileError

if TYPE_CHECKING:
    import httpx

    from commands.shared.progress import Advance, ShowFrames

Document = dict[str, Any]
"""A job as JSON."""
STATES: Final = ("queued", "running", "paused", "done", "failed", "cancelled")
FINAL: Final = ("done", "failed", "cancelled")
ID_LENGTH: Final = 24
"""Characters of a whole job id."""
SHORT_ID: Final = 8
"""Characters of a job id in tables."""
AWAY: Final = (502, 503, 504)
"""HTTP statuses of a starting server, or of a server without Redis."""
PATIENCE_SECONDS: Final = 120.0
"""Seconds without an answer before a command gives up; a restart of the server or its Redis takes less."""
_POLL_SECONDS: Final = 0.5
_PAGE: Final = 500
_BUSY: Final = (429, 503, 507)
_ABOUT_THE_FILE: Final = (400, 413, 415, 422)
Function = TypeVar("Function", bound=Callable[..., Any])


class Busy(CommandError):
    """The server takes no upload at present: a limit is reached, or the disk is full."""


class NoSuchJob(CommandError):
    """The server knows no job with this id, or its files are gone."""


def server_options(function: Function) -> Function:
    """Add the options that name a server and its key."""
    option("--api-key", metavar="KEY", help="Key of the server; default: SKIPVSR_API_KEY")(function)
    option("--server", "--url", "server", metavar="URL", help="Server; default: the local `skipvsr up`")(function)
    return function


class JobId(click.ParamType[str]):
    """A job's id, or the beginning of one."""

    name = "job"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Complete the ids of the server's newest jobs."""
        from click.shell_completion import CompletionItem

        try:
            with connected(ctx.params.get("server"), ctx.params.get("api_key"), seconds=2) as service:
                jobs = service.jobs()
        except (CommandError, ValueError):  # a completion is no place to complain
            return []
        return [
            CompletionItem(job["id"], help=f"{job['state']}, {job['filename']}")
            for job in jobs
            if job["id"].startswith(incomplete)
        ]


@contextmanager
def connected(server: str | None, api_key: str | None, *, seconds: float = 60.0) -> Iterator[Service]:
    """A connection to `server`, by default the local one. Raises CommandError if the server does not answer."""
    import httpx

    from commands.shared.addresses import address

    settings = read_settings()
    url = server or f"http://{address(settings.http_host, settings.http_port)}"
    key = api_key or (settings.api_key.get_secret_value() if settings.api_key else None)
    headers = {b"X-API-Key": key.encode()} if key else {}
    try:
        client = httpx.Client(base_url=url, headers=headers, timeout=httpx.Timeout(seconds, connect=min(seconds, 10)))
    except httpx.InvalidURL as error:
        raise CommandError(f"{url} is not the address of a server ({error}); expected http://host:8000") from None
    with client:
        try:
            yield Service(client)
        except (httpx.ConnectError, httpx.UnsupportedProtocol) as error:
            if isinstance(error, httpx.UnsupportedProtocol):
                raise CommandError(f"{url} is not the address of a server; expected http://host:8000") from None
            raise CommandError(f"no server answers at {url}; start one with `skipvsr up`, or give --server") from None
        except httpx.HTTPError as error:
            raise CommandError(f"the connection to {url} failed: {error or type(error).__name__}") from None


class Service:
    """The REST API of one server."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    @property
    def url(self) -> str:
        """Address of the server, without a slash at the end."""
        return str(self.client.base_url).rstrip("/")

    def jobs(self, states: Sequence[str] = (), limit: int = 50) -> list[Document]:
        """The newest jobs, in any of `states` if given."""
        found: list[Document] = []
        for chosen in [{"state": state} for state in states] or [{}]:
            found += self._listed(chosen, limit)
        return sorted(found, key=lambda job: str(job["created_at"]), reverse=True)[:limit]

    def _listed(self, filters: Mapping[str, str], limit: int) -> list[Document]:
        found: list[Document] = []
        while len(found) < limit:
            page = {"limit": min(_PAGE, limit - len(found)), "offset": len(found)}
            jobs = document(self.client.get("/jobs", params={**filters, **page}))["jobs"]
            found += jobs
            if len(jobs) < page["limit"]:
                break
        return found

    def find(self, beginning: str) -> str:
        """The id that begins with `beginning`. Raises CommandError for none or several."""
        if len(beginning) == ID_LENGTH:
            return beginning
        ids = [job["id"] for job in self.jobs(limit=1_000_000) if job["id"].startswith(beginning)]
        if not ids:
            raise CommandError(f"no job begins with {beginning}; `skipvsr jobs` lists the jobs of {self.url}")
        if len(ids) > 1:
            raise CommandError(f"{len(ids)} jobs begin with {beginning}: {', '.join(ids[:3])}; give more characters")
        return str(ids[0])

    def job(self, job_id: str) -> Document:
        """The document of a job."""
        return document(self.client.get(f"/jobs/{job_id}"))

    def change(self, job_id: str, operation: str) -> Document:
        """Cancel, pause or resume a job; returns the new document."""
        return document(self.client.post(f"/jobs/{job_id}/{operation}"))

    def upload(self, source: Path, fields: Mapping[str, str], advance: Advance) -> Document:
        """Send a file. Raises Busy if the server takes none now, FileError if the server refuses the file."""
        with _Counted(source, advance) as body:
            answer = self.client.post("/upscale", data=dict(fields), files={"file": (source.name, body)})
        if answer.status_code in _BUSY:
            raise Busy(_detail(answer))
        if answer.status_code in _ABOUT_THE_FILE:
            raise FileError(_detail(answer))
        return document(answer)

    def follow(self, job_id: str, show: ShowFrames, *, patience: float | None = None) -> Document:
        """Poll a job until its end; returns the last document. Raises CommandError if the server stays away."""
        return _Follower(self, job_id, PATIENCE_SECONDS if patience is None else patience).wait(show)


class _Follower:
    """Polls a job until its end, and reports pauses of the job and absences of the server."""

    def __init__(self, service: Service, job_id: str, patience: float) -> None:
        import sys
        from functools import partial

        self._service = service
        self._id = job_id
        self._patience = patience
        self._answered = time.monotonic()
        self._away = False
        self._paused = False
        self._say = partial(print, file=sys.stderr)

    def wait(self, show: ShowFrames) -> Document:
        while True:
            job = self._ask()
            if job is not None:
                if job["state"] in FINAL:
                    return job
                self._report(job, show)
            time.sleep(_POLL_SECONDS)

    def _ask(self) -> Document | None:
        """The job's document; None while the server is away."""
        import httpx

        try:
            answer = self._service.client.get(f"/jobs/{self._id}")
        except httpx.TransportError as error:
            self._report_absence(str(error) or type(error).__name__)
            return None
        if answer.status_code in AWAY:
            self._report_absence(f"status {answer.status_code} {answer.reason_phrase}")
            return None
        job = document(answer)
        self._answered, self._away = time.monotonic(), False
        return job

    def _report_absence(self, trouble: str) -> None:
        if time.monotonic() - self._answered > self._patience:
            raise CommandError(
                f"the server has not answered for {self._patience:.0f} s ({trouble}); the job continues when the "
                f"server is back: {self._service.url}/jobs/{self._id}, `skipvsr watch {self._id}`"
            )
        if not self._away:
            self._say(f"the server does not answer ({trouble}); waiting")
        self._away = True

    def _report(self, job: Document, show: ShowFrames) -> None:
        state, progress = job["state"], job["progress"]
        if state == "paused" and not self._paused:
            reason = (job.get("error") or {}).get("detail", "paused by request.")
            self._say(f"job {self._id} is paused: {reason} Waiting until the job is resumed.")
        self._paused = state == "paused"
        show(activity(job), progress["frames_done"], progress["frames_total"], progress["fps"])


def activity(job: Document) -> str:
    """What happens to a job at present, in one word or two."""
    request = {"pause": "pausing", "cancel": "cancelling"}.get(job.get("request") or "")
    return request or {"queued": "waiting", "running": "upscaling"}.get(job["state"], str(job["state"]))


def failure(job: Document) -> FileError:
    """The error of a job that ended without a result."""
    reason = (job.get("error") or {}).get("detail", "no reason given")
    return FileError(f"job {job['id']} {job['state']}" + ("" if job["state"] == "cancelled" else f": {reason}"))


def document(answer: httpx.Response) -> Document:
    """The document in a response. Raises CommandError with the problem's detail if the status is an error."""
    try:
        content = answer.json()
    except ValueError:
        content = None
    if answer.is_success and isinstance(content, dict):
        return content
    raise (NoSuchJob if answer.status_code in (404, 410) else CommandError)(_detail(answer))


def _detail(answer: httpx.Response) -> str:
    try:
        content = answer.json()
    except ValueError:
        content = None
    detail = content.get("detail") if isinstance(content, dict) else None
    return str(detail or f"the server answered {answer.status_code} {answer.reason_phrase}")


class _Counted(io.BufferedReader):
    """A file that counts the bytes read, while httpx sends the file piece by piece."""

    def __init__(self, path: Path, advance: Advance) -> None:
        super().__init__(io.FileIO(path))
        self._advance = advance

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._advance(len(data))
        return data
