"""`skipvsr submit`: a server upscales files: upload, wait, download. ^C leaves the jobs, and tells how to collect."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.shared.command_line import Command
from commands.shared.errors import Interrupted, only_this_file
from commands.shared.files import Item, Output, file_options, output_of, planned
from commands.shared.job_options import job_options
from commands.shared.service import Busy, Document, connected, server_options

if TYPE_CHECKING:
    from commands.shared.remote import RemoteUpscaler


@click.command(cls=Command)
@file_options
@server_options
@job_options
def command(paths: Sequence[Path], server: str | None, api_key: str | None, **options: Any) -> int:
    """Upscale files on a server and download the results."""
    output = output_of(options)
    return run(planned(paths, output, options), output, server=server, api_key=api_key)


def run(items: Sequence[Item], output: Output, *, server: str | None = None, api_key: str | None = None) -> int:
    """Upscale files on a server, and write the results. Raises CommandError, OSError."""
    from commands.shared.remote import RemoteUpscaler

    with connected(server, api_key) as service:
        remote = RemoteUpscaler(service, quiet=output.quiet, tell=output.tells)
        return _Submission(remote, items, output).run()


class _Submission:
    """Uploads all files, then collects the results in the same order."""

    def __init__(self, remote: RemoteUpscaler, items: Sequence[Item], output: Output) -> None:
        from commands.shared.batch import Report

        self._remote = remote
        self._items = items
        self._output = output
        self._report = Report(output, single=len(items) == 1)
        self._pending: deque[tuple[Item, Document]] = deque()

    def run(self) -> int:
        """Returns the exit status. Names the jobs that continue if the command ends early."""
        try:
            for item in self._items:
                self._begin(item)
            while self._pending:
                self._collect()
        except KeyboardInterrupt:
            self._tell_how_to_collect()
            raise Interrupted("interrupted") from None
        except Exception:
            self._tell_how_to_collect()
            raise
        self._report.finish()
        return self._report.status

    def _begin(self, item: Item) -> None:
        """Upload a file. While the server takes no more files, collect the results of earlier ones."""
        if item.target.exists() and not self._output.overwrite:
            self._report.skipped(item)
            return
        while True:
            try:
                job = self._remote.upload(item)
                self._pending.append((item, job))  # before the announcement: ^C may follow at once
                self._remote.announce(item, job)
                return
            except Busy:
                if not self._pending:
                    raise
                self._collect()
            except Exception as error:
                self._failed(item, error)
                return

    def _collect(self) -> None:
        """Wait for the oldest job, and write its result."""
        item, job = self._pending[0]
        try:
            item.target.absolute().parent.mkdir(parents=True, exist_ok=True)
            report = self._remote.collect(item, job)
        except Exception as error:
            if only_this_file(error):
                self._pending.popleft()  # a job without a result to collect
            self._failed(item, error)
            return
        self._pending.popleft()
        self._report.done(item, report)

    def _failed(self, item: Item, error: Exception) -> None:
        """Report a failure of one file; re-raise trouble that all files share."""
        if not only_this_file(error):
            raise error
        self._report.failed(item, error)

    def _tell_how_to_collect(self) -> None:
        for item, job in self._pending:
            print(
                f"job {job['id']} continues; to fetch the result: {self._remote.way_to_collect(job, item)}",
                file=sys.stderr,
            )
