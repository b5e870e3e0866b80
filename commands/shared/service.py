"""A server for the commands, by `skipvsr_client`: options, short ids, progress bars, and errors for people."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from commands.shared.command_line import option, read_settings
from commands.shared.errors import CommandError, FileError

if TYPE_CHECKING:
    from commands.shared.progress import Advance, ShowFrames
    from skipvsr_client import Activity, Client

Document = dict[str, Any]
"""A job as JSON."""
STATES: Final = ("queued", "running", "paused", "done", "failed", "cancelled")
ID_LENGTH: Final = 24
"""Characters of a whole job id."""
SHORT_ID: Final = 8
"""Characters of a job id in tables."""
PATIENCE_SECONDS: Final = 120.0
"""Seconds without an answer before a command gives up; a restart of the server or its Redis takes less."""
_PAGE: Final = 500
_BUSY: Final = (429, 503)
"""HTTP statuses of a server that takes no upload at present."""
Function = TypeVar("Function", bound=Callable[..., Any])


class Busy(CommandError):
    """The server takes no upload at present: a limit is reached, or a part of the server is away."""


class NoSuchJob(CommandError):
    """The server knows no job with this id, or its files are gone."""


class Unreachable(CommandError):
    """The server does not answer."""


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
            with connected(ctx.params.get("server"), ctx.params.get("api_key"), timeout=2, patience=0) as service:
                jobs = service.jobs()
        except (CommandError, ValueError):  # a completion is no place to complain
            return []
        return [
            CompletionItem(job["id"], help=f"{job['state']}, {job['filename']}")
            for job in jobs
            if job["id"].startswith(incomplete)
        ]


@contextmanager
def connected(
    server: str | None, api_key: str | None, *, timeout: float = 60.0, patience: float | None = None
) -> Iterator[Service]:
    """A connection to `server`, by default the local one. Raises CommandError for an invalid address.

    Args:
        server: address of the server.
        api_key: key of the server; default: that of the settings.
        timeout: seconds without a byte after which a connection counts as broken.
        patience: seconds for which a server that has answered before may be away.
    """
    from commands.shared.addresses import address
    from skipvsr_client import Client

    settings = read_settings()
    url = server or f"http://{address(settings.http_host, settings.http_port)}"
    key = api_key or (settings.api_key.get_secret_value() if settings.api_key else None)
    seconds = PATIENCE_SECONDS if patience is None else patience
    with _translated():
        client = Client(url, key, timeout=timeout, patience=seconds)
    with client:
        yield Service(client, url.rstrip("/"))


@contextmanager
def _translated() -> Iterator[None]:
    """Raise the errors of the client in the block as errors of the commands."""
    import skipvsr_client as of_client

    try:
        yield
    except of_client.ConnectionFailed as error:
        raise Unreachable(str(error)) from None
    except of_client.InvalidRequest as error:
        raise FileError(str(error)) from None
    except of_client.NotFound as error:
        raise NoSuchJob(str(error)) from None
    except of_client.Refused as error:
        raise (Busy if error.status in _BUSY else CommandError)(str(error)) from None
    except of_client.SkipVsrError as error:
        raise CommandError(str(error)) from None


class Service:
    """One server.

    Args:
        client: the connection.
        url: address of the server, without a slash at the end.
    """

    def __init__(self, client: Client, url: str) -> None:
        self._client = client
        self.url = url

    def jobs(self, states: Sequence[str] = (), limit: int = 50) -> list[Document]:
        """The newest jobs, in any of `states` if given."""
        found: list[Document] = []
        with _translated():
            while len(found) < limit:
                size = min(_PAGE, limit - len(found))
                page = self._client.jobs.list(state=states, limit=size, offset=len(found)).jobs
                found += [job.document for job in page]
                if len(page) < size:
                    break
        return found

    def find(self, beginning: str) -> str:
        """The id that begins with `beginning`. Raises CommandError for none or several."""
        if len(beginning) == ID_LENGTH:
            return beginning
        with _translated():
            ids = [job.id for job in self._client.jobs.all() if job.id.startswith(beginning)]
        if not ids:
            raise CommandError(f"no job id begins with {beginning}; `skipvsr jobs` lists the jobs of {self.url}")
        if len(ids) > 1:
            raise CommandError(f"{len(ids)} job ids begin with {beginning}: {', '.join(ids[:3])}; give more characters")
        return ids[0]

    def job(self, job_id: str) -> Document:
        """The document of a job."""
        with _translated():
            return self._client.jobs.get(job_id).document

    def change(self, job_id: str, operation: str) -> Document:
        """Cancel, pause or resume a job; returns the new document."""
        changes = {"cancel": self._client.jobs.cancel, "pause": self._client.jobs.pause}
        with _translated():
            return changes.get(operation, self._client.jobs.resume)(job_id).document

    def upload(self, source: Path, options: dict[str, Any], advance: Advance) -> Document:
        """Queue a job for a file. Raises Busy if the server takes none now, FileError if it refuses the file."""
        with _translated():
            return self._client.submit(source, on_progress=_Bytes(advance), **options).document

    def follow(self, job_id: str, show: ShowFrames) -> Document:
        """Wait for the end of a job; returns the last document. Raises CommandError if the server stays away."""
        try:
            with _translated():
                return self._client.wait(job_id, on_progress=_Frames(job_id, show)).document
        except (Busy, Unreachable) as error:
            way = f"{self.url}/jobs/{job_id}, or `skipvsr watch {job_id}`"
            raise CommandError(f"{error}; the job continues when the server is back: {way}") from None

    def download(self, job_id: str, target: Path, *, quiet: bool = False) -> None:
        """Write the result of a job to `target`. An interrupted download continues at the bytes that exist."""
        from commands.shared.progress import bytes_bar

        size = (self.job(job_id).get("output") or {}).get("size_bytes")
        with bytes_bar("downloading", size, quiet=quiet) as advance, _translated():
            self._client.download(job_id, target, on_progress=_Bytes(advance))


class _Trouble:
    """Prints once that the server is away."""

    _away = False

    def report(self, activity: Activity) -> bool:
        """Whether the server is away."""
        if activity.phase == "away" and not self._away:
            print(f"the server does not answer ({activity.message}); waiting", file=sys.stderr, flush=True)
        self._away = activity.phase == "away"
        return self._away


class _Bytes(_Trouble):
    """Shows the progress of an upload or a download."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._done = 0

    def __call__(self, activity: Activity) -> None:
        if not self.report(activity):
            self._advance(activity.done - self._done)
            self._done = activity.done


class _Frames(_Trouble):
    """Shows the progress of a job, and says once that the job is paused."""

    def __init__(self, job_id: str, show: ShowFrames) -> None:
        self._id = job_id
        self._show = show
        self._paused = False

    def __call__(self, activity: Activity) -> None:
        if self.report(activity) or activity.job is None:
            return
        job = activity.job
        if job.state == "paused" and not self._paused:
            reason = activity.message or "paused by request."
            print(f"job {self._id} is paused: {reason} Waiting until the job is resumed.", file=sys.stderr, flush=True)
        self._paused = job.state == "paused"
        self._show(activity_of(job.document), activity.done, activity.total, job.progress.fps)


def activity_of(job: Document) -> str:
    """The present activity of a job, in one or two words."""
    request = {"pause": "pausing", "cancel": "cancelling"}.get(job.get("request") or "")
    return request or {"queued": "waiting", "running": "upscaling"}.get(job["state"], str(job["state"]))


def failure(job: Document) -> FileError:
    """The error of a job that ended without a result."""
    reason = (job.get("error") or {}).get("detail", "no reason given")
    return FileError(f"job {job['id']} {job['state']}" + ("" if job["state"] == "cancelled" else f": {reason}"))
