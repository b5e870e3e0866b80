"""`skipvsr watch`: follow a job of a server, or upscale the videos that appear in a folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from commands.shared.command_line import Command, Positive, option, read_settings
from commands.shared.errors import CommandError, Interrupted
from commands.shared.files import Item, Output, fitting
from commands.shared.job_options import job_options
from commands.shared.service import NoSuchJob, connected, failure, server_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from commands.shared.local import LocalUpscaler

_OUTCOMES: Final = {"done": 0, "failed": 1, "cancelled": 3}
"""Exit statuses after the end of a job."""
_SETTLE_SECONDS: Final = 5.0


@click.command(cls=Command)
@click.argument("places", nargs=-1, required=True, metavar="JOB|IN_DIR OUT_DIR", help="A job, or two folders")
@option("--once", is_flag=True, help="Folder: end when all present files are done")
@option("--settle", type=Positive(), default=_SETTLE_SECONDS, metavar="S", help="Folder: seconds without a change")
@option("--json", "as_json", is_flag=True, help="Write one JSON object for each outcome")
@option("-q", "--quiet", is_flag=True, help="Print errors only")
@server_options
@job_options
def command(
    places: Sequence[str],
    once: bool,
    settle: float,
    as_json: bool,
    quiet: bool,
    server: str | None,
    api_key: str | None,
    **options: Any,
) -> int:
    """Follow a job, or upscale videos on arrival in a folder.

    \b
    skipvsr watch JOB               Exit status: 0 done, 1 failed, 3 cancelled
    skipvsr watch IN_DIR OUT_DIR    In this process; with --server, on a server
    """
    if len(places) == 1:
        return follow(places[0], server=server, api_key=api_key, as_json=as_json, quiet=quiet)
    if len(places) > 2:
        raise CommandError("name one job, or two folders: skipvsr watch IN_DIR OUT_DIR")
    source, target = map(Path, places)
    output = Output(None, target, overwrite=False, as_json=as_json, quiet=quiet)
    return watch_folder(source, output, options, once=once, settle=settle, server=server, api_key=api_key)


def follow(job: str, *, server: str | None, api_key: str | None, as_json: bool, quiet: bool) -> int:
    """Show the progress of a job until its end; returns the exit status of its outcome."""
    from commands.shared.progress import frames_bar
    from commands.shared.remote import summary

    if Path(job).is_dir():
        raise CommandError(f"{job} is a folder; name the folder of the results too: skipvsr watch {job} OUT_DIR")
    with connected(server, api_key) as service:
        job_id = service.find(job)
        try:
            with frames_bar("waiting", quiet=quiet) as show:
                document = service.follow(job_id, show)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; job {job_id} continues, `skipvsr cancel {job_id}` ends the job") from None
    if as_json:
        print(json.dumps(document, ensure_ascii=False))
    elif document["state"] == "done" and not quiet:
        print(f"{job_id}  done, {summary(document)}; `skipvsr download {job_id}` fetches the result")
    if document["state"] != "done" and not as_json:
        print(f"skipvsr: {failure(document)}", file=sys.stderr)
    return _OUTCOMES[document["state"]]


def watch_folder(
    source: Path,
    output: Output,
    options: Mapping[str, Any],
    *,
    once: bool,
    settle: float,
    server: str | None,
    api_key: str | None,
) -> int:
    """Upscale the videos of the folder `source` into `output.folder`, until ^C or, with `once`, until all are done.

    Raises CommandError, ModelError, OSError.
    """
    from commands.shared.batch import Report
    from commands.shared.interrupts import stop_event
    from commands.shared.ledger import Ledger
    from commands.shared.local import LocalUpscaler
    from commands.shared.settling import Settling
    from commands.shared.watched import Upscaler, WatchedFolder

    assert output.folder is not None
    _check_folders(source, output.folder)
    chosen = fitting(source, options)  # reports invalid options before any work
    upscaler: Upscaler
    if server is None:
        local = LocalUpscaler(chosen.model, read_settings(), quiet=output.quiet, tell=output.tells)
        local.check()  # reports an unknown model or device before any work
        upscaler = InProcess(local)
    else:
        upscaler = OnServer(server, api_key, quiet=output.quiet)
    report = Report(output, single=False)
    with ExitStack() as stack:
        stop = stack.enter_context(stop_event(and_terminate=True))
        ledger = stack.enter_context(Ledger(output.folder).opened())
        if not output.quiet and not once:
            print(f"watching {source}; results go to {output.folder}. ^C stops.", file=sys.stderr, flush=True)
        WatchedFolder(source, ledger, options, upscaler, report, Settling(settle)).run(stop, once=once)
        report.finish()
    return report.status


def _check_folders(source: Path, target: Path) -> None:
    if not source.is_dir():
        raise CommandError(f"there is no folder {source}")
    if target.exists() and not target.is_dir():
        raise CommandError(f"{target} is no folder; the results need a folder")
    if target.resolve() == source.resolve():
        raise CommandError("the folder of the results must differ from the watched folder")
    if target.resolve() in source.resolve().parents:
        raise CommandError(f"{source} lies in {target}; the results need a folder beside or in the watched folder")
    target.mkdir(parents=True, exist_ok=True)


class InProcess:
    """Upscales the files of a watched folder in this process."""

    def __init__(self, upscaler: LocalUpscaler) -> None:
        self._upscaler = upscaler

    def start(self, item: Item, known: str | None) -> None:
        """Nothing to begin: `finish` does the work."""

    def finish(self, item: Item, job: str | None) -> dict[str, Any]:
        """Upscale the file; resumes an interrupted run."""
        return self._upscaler.upscale(item)


class OnServer:
    """Upscales the files of a watched folder on a server. Each step connects anew: a server may restart."""

    def __init__(self, server: str, api_key: str | None, *, quiet: bool) -> None:
        self._server = server
        self._key = api_key
        self._quiet = quiet

    def start(self, item: Item, known: str | None) -> str:
        """Upload the file, unless the server still has the job `known`. Returns the job's id."""
        from commands.shared.remote import RemoteUpscaler

        with connected(self._server, self._key) as service:
            try:
                if known is not None:
                    return str(service.job(known)["id"])
            except NoSuchJob:
                pass
            remote = RemoteUpscaler(service, quiet=self._quiet)
            job = remote.upload(item)
            remote.announce(item, job)
            return str(job["id"])

    def finish(self, item: Item, job: str | None) -> dict[str, Any]:
        """Wait for the job, and write its result."""
        from commands.shared.remote import RemoteUpscaler

        with connected(self._server, self._key) as service:
            return RemoteUpscaler(service, quiet=self._quiet).collect(item, {"id": job})
