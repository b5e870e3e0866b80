"""Upscaling by a server: upload, wait, download."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import Any

from commands.shared.files import Item
from commands.shared.service import Document, Service, failure


class RemoteUpscaler:
    """Upscales files on a server.

    Args:
        service: the server.
        quiet: without progress bars and lines about the job.
        tell: whether to print the expected time of each job.
    """

    def __init__(self, service: Service, *, quiet: bool = False, tell: bool = False) -> None:
        self._service = service
        self._quiet, self._tells = quiet, tell

    def upload(self, item: Item) -> Document:
        """Upload a file; returns the document of the new job. Raises CommandError, OSError."""
        from commands.shared.naming import check_source
        from commands.shared.progress import bytes_bar

        check_source(item.source)
        options = item.options.model_dump(mode="json", exclude_unset=True)
        size = item.source.stat().st_size
        with bytes_bar(f"uploading {item.source.name}", size, quiet=self._quiet) as advance:
            return self._service.upload(item.source, options, advance)

    def announce(self, item: Item, job: Document) -> None:
        """Print the id of a new job, and the expected time."""
        from commands.shared.expected import sentence

        if not self._quiet:
            print(f"{item.source}: job {job['id']} at {self._service.url}", file=sys.stderr, flush=True)
        if self._tells and job.get("estimate") and job.get("input"):  # not if the server has no worker
            source = job["input"]["width"], job["input"]["height"]
            wait = (job.get("queue") or {}).get("wait_seconds")
            print(f"{item.source}: {sentence(source, job['estimate'], wait)}", file=sys.stderr, flush=True)

    def collect(self, item: Item, job: Document) -> dict[str, Any]:
        """Wait for the end of a job, and write its result; returns the report.

        Raises FileError if the job failed, CommandError, OSError.
        """
        from commands.shared.progress import frames_bar

        with frames_bar("waiting", quiet=self._quiet) as show:
            job = self._service.follow(job["id"], show)
        if job["state"] != "done":
            raise failure(job)
        self._service.download(job["id"], item.target, quiet=self._quiet)
        return {**job, "summary": summary(job)}

    def way_to_collect(self, job: Document, item: Item) -> str:
        """The command that fetches the result of a job later."""
        return shlex.join(["skipvsr", "download", job["id"], "-o", str(item.target), "--server", self._service.url])


def summary(job: Mapping[str, Any]) -> str:
    """Size, time and speed of a finished job, in one line."""
    metrics, output = job["metrics"], job.get("output") or {}
    seconds = metrics.get("processing_seconds") or 0
    frames = job["progress"]["frames_done"]
    rate = f", {frames / seconds:.1f} fps" if seconds else ""
    return (
        f"{output.get('width', '?')}×{output.get('height', '?')}, {frames} frames in {seconds:.1f} s{rate}; "
        f"skip ratio {metrics['skip_ratio']:.2f}, speedup {metrics['speedup']:.2f}"
    )
