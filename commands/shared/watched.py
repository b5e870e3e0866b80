"""A watched folder: each new video is upscaled once the file is complete, and again after a change.

At each change and every half minute, the command reads the folder. Events of the kernel only shorten the wait; network
drives send no events. The ledger in the folder of the results lists the finished videos.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event
from typing import Any, Final, Protocol

from commands.shared.batch import Report, message_of
from commands.shared.errors import explained, only_this_file
from commands.shared.files import Item, fitting, longer, videos
from commands.shared.ledger import Entry, Ledger, Version
from commands.shared.naming import renamed
from commands.shared.settling import Settling

_RESCAN_SECONDS: Final = 30.0
_RETRY_SECONDS: Final = 60.0
"""After trouble that all files share: a full disk, a server that does not answer."""
_TICK_MILLISECONDS: Final = 1000


class Upscaler(Protocol):
    """Upscales one file of a watched folder."""

    def start(self, item: Item, known: str | None) -> str | None:
        """Begin; returns the job of a server, if one does the work. `known` is the job of an earlier run."""

    def finish(self, item: Item, job: str | None) -> dict[str, Any]:
        """Write the result; returns the report."""


class WatchedFolder:
    """Upscales the videos of a folder into another folder.

    Args:
        source: the watched folder. Nothing in it is changed.
        ledger: the ledger of the folder of the results.
        options: options of the jobs.
        upscaler: does the work.
        report: reports the outcomes.
        settling: tells which files are complete.
    """

    def __init__(
        self,
        source: Path,
        ledger: Ledger,
        options: Mapping[str, Any],
        upscaler: Upscaler,
        report: Report,
        settling: Settling,
    ) -> None:
        self._source = source
        self._ledger = ledger
        self._options = options
        self._upscaler = upscaler
        self._report = report
        self._settling = settling
        self._trouble = ""
        self._waiting = False

    def run(self, stop: Event, *, once: bool) -> None:
        """Watch until `stop`; with `once`, until every file is done. Raises the first shared trouble with `once`."""
        due = 0.0
        for changed in self._wake_ups(stop):
            if changed or time.monotonic() >= due:
                due = time.monotonic() + self._round(once=once)
                if once and not self._waiting:
                    return

    def _round(self, *, once: bool) -> float:
        """Upscale all complete files; returns the seconds until the next look at the folder."""
        try:
            self._waiting = self.scan()
        except Exception as error:
            if once or explained(error) is None:
                raise
            self._tell(message_of(error))
            return _RETRY_SECONDS
        self._trouble = ""
        return min(self._settling.seconds, _RESCAN_SECONDS) if self._waiting else _RESCAN_SECONDS

    def scan(self) -> bool:
        """Upscale each complete file once; returns whether a file is still incomplete. Raises shared trouble."""
        waiting = False
        for path in videos(self._source, without=self._ledger.folder):
            try:
                version = Version.of(path)
            except OSError:  # the file has just been removed
                continue
            place = path.relative_to(self._source)
            entry = self._ledger.entry(place)
            if self._is_finished(place, version, entry):
                continue
            if self._settling.is_settled(path, version):
                self._upscale(path, place, version, entry)
            else:
                waiting = True
        return waiting

    def _is_finished(self, place: Path, version: Version, entry: Entry | None) -> bool:
        if entry is None:
            return self._keep(place, version)
        exists = (self._ledger.folder / entry.output).exists()
        if entry.outcome == "kept" and exists:
            return True
        return entry.version == version and (entry.outcome == "failed" or (entry.outcome == "done" and exists))

    def _keep(self, place: Path, version: Version) -> bool:
        """Record a result that exists without an entry: another program's, or that of a lost ledger."""
        item = self._item(place, None)
        if not item.target.exists():
            return False
        output = item.target.relative_to(self._ledger.folder).as_posix()
        self._ledger.write(place, Entry(version=version, outcome="kept", output=output))
        self._report.skipped(item)
        return True

    def _upscale(self, path: Path, place: Path, version: Version, entry: Entry | None) -> None:
        item = self._item(place, entry)
        output = item.target.relative_to(self._ledger.folder).as_posix()
        known = entry.job if entry and entry.outcome == "submitted" and entry.version == version else None
        try:
            item.target.parent.mkdir(parents=True, exist_ok=True)
            job = self._upscaler.start(item, known)
            if job is not None:
                self._ledger.write(place, Entry(version=version, outcome="submitted", output=output, job=job))
            report = self._upscaler.finish(item, job)
        except Exception as error:
            if explained(error) is not None and not only_this_file(error):
                raise
            self._ledger.write(place, Entry(version=version, outcome="failed", output=output, error=message_of(error)))
            self._report.failed(item, error)
        else:
            self._ledger.write(place, Entry(version=version, outcome="done", output=output))
            self._report.done(item, report)

    def _item(self, place: Path, entry: Entry | None) -> Item:
        """The file with its result: same subfolder, and the same name or a longer name if the name is taken."""
        source = self._source / place
        options = fitting(source, self._options)
        folder = self._ledger.folder
        if entry is not None:
            return Item(source, folder / entry.output, options)
        output = renamed(place, options.container)
        if self._ledger.owner(output) not in (None, place):
            output = longer(output, place)
        return Item(source, folder / output, options)

    def _tell(self, trouble: str) -> None:
        """Print a trouble only once, until the trouble ends or changes."""
        if trouble != self._trouble:
            print(f"skipvsr: {trouble}; trying again every {_RETRY_SECONDS:.0f} s", file=sys.stderr, flush=True)
        self._trouble = trouble

    def _wake_ups(self, stop: Event) -> Iterator[bool]:
        """True at once and at each change in the folder, False about every second; without end until `stop`."""
        yield True
        try:
            from watchfiles import watch

            for changes in watch(
                self._source,
                watch_filter=None,
                stop_event=stop,
                rust_timeout=_TICK_MILLISECONDS,
                yield_on_timeout=True,
                ignore_permission_denied=True,
            ):
                yield bool(changes)
        except (ImportError, OSError, RuntimeError):  # not installed, or the kernel has no watches left
            pass
        while not stop.wait(_TICK_MILLISECONDS / 1000):
            yield False
