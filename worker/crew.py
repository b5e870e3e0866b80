"""The parts of a job in the hands of its lead: files, table, and the helpers."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from jobs.errors import StoreUnavailable
from jobs.parts import DONE, OPEN, TAKEN, PartClaim, PartTable, Row
from jobs.schema import JobMetrics, JobState, Progress
from jobs.settings import Settings
from jobs.storage import Storage, part_id
from jobs.store import JobStore
from pipeline.events import Finished, PartDone
from pipeline.parts import Plan
from pipeline.splitting import is_complete, join
from pipeline.task import UpscaleTask
from worker.attempt import Attempt, stored
from worker.together import Together

T = TypeVar("T")

_LOOK: Final = 1.0
"""Seconds between two looks at the table, at least."""
_PAUSE: Final = 0.2
_CALL: Final = 10.0
"""Seconds between two calls for help. A worker that is idle, or unfit for the job, has taken the ticket."""


class Crew:
    """The parts of one job: files, table, and the helpers.

    Args:
        settings: the settings.
        store: the jobs.
        storage: the files.
        name: the worker's name.
        attempt: the lead's attempt at the job.
        made: the plan.
    """

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        storage: Storage,
        name: str,
        attempt: Attempt,
        made: Plan,
    ) -> None:
        self._lost_after, self._timeout = settings.worker_lost_seconds, store.job_timeout
        self._table, self._name, self._attempt, self._plan = PartTable(store.redis), name, attempt, made
        self._job, self._priority = attempt.job.id, attempt.job.options.priority
        self.files = storage.parts(self._job)
        self.together = Together(made)
        self._seen: dict[int, tuple[tuple[int, int], float]] = {}
        self._looked = self._called = 0.0
        self._reopened = False

    @property
    def _numbers(self) -> range:
        return range(1, len(self._plan.parts))

    def task(self, task: UpscaleTask, number: int) -> UpscaleTask:
        """The task of a part, in the folder of the whole job."""
        return part_task(task, self._plan, number)

    def open(self) -> None:
        """Open the table, and ask idle workers for help."""
        above = max(stored(self._attempt.lease, partial(self._begin, number)) for number in self._numbers)
        # The longest first: workers then end at about the same time.
        text, order = self._plan.model_dump_json(), sorted(self._numbers, key=self._plan.length, reverse=True)
        self._store(lambda: self._table.open(self._job, text, order, above=above))
        self._call(sum(row.state == OPEN for row in self._rows()))
        self._attempt.lease.update({"segments": self.together.segments()})

    def _begin(self, number: int) -> int:
        """Make room for the files of a part; return the highest token of earlier workers."""
        self.files.begin(part_id(number))
        return self.files.last_token(part_id(number))

    def progress(self, own: Progress) -> Progress:
        """Progress of the whole job; `own` is that of the lead's part."""
        return self.together.progress(own)

    def metrics(self, own: JobMetrics) -> JobMetrics:
        """Measurements of the whole job; `own` are those of the lead's part."""
        return self.together.metrics(own)

    def compute(self, number: int, run: Callable[[], Finished | PartDone | None]) -> bool:
        """Run the pipeline for a part; return False if the job stopped."""
        self.together.begin(number)
        outcome = run()
        if not isinstance(outcome, PartDone):
            return False
        self.together.end(outcome.progress, outcome.metrics)
        return True

    def next(self) -> PartClaim | None:
        """Claim the next part, or wait until helpers end; None if no part is left, or the job stops."""
        while self._attempt.lease.stop_reason is None:
            claim = self._store(lambda: self._table.claim(self._job, self._name, lead=True))
            if claim is not None:
                return claim
            rows = self.look()
            self._attempt.lease.note({"progress": self._attempt.shown(self.together.progress())})
            if rows is not None and all(row.state == DONE for row in rows):
                return None
            if rows is not None and len(rows) < len(self._numbers):
                self.open()  # Redis has lost the table
            time.sleep(_PAUSE)
        self._attempt.lease.note({"progress": self.together.progress().at_checkpoint()})  # helpers stop, too
        return None

    def look(self) -> list[Row] | None:
        """Read the table once a second, take parts from lost helpers, and report; None: no time to look yet."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return None
        if now - self._looked > self._lost_after / 2:
            self._seen.clear()  # this process was busy or stopped, and has missed heartbeats
        self._looked = now
        try:
            rows = self._rows()
            lost = [row for row in rows if self._is_lost(row, now) and self._table.take_back(self._job, row)]
            self._call_again(rows, now)
        except StoreUnavailable:
            self._seen.clear()
            return None
        for row in lost:
            self._attempt.log.warning("the worker of segment %d is lost", row.number)
        self._attempt.lease.note({"segments": self.together.segments()})
        return rows

    def take(self, number: int, token: int) -> Path:
        """The working folder of a part, with its checkpoint. Raises Fenced."""
        return stored(self._attempt.lease, lambda: self.files.take_work(part_id(number), token))

    def leave(self, claim: PartClaim, *, done: bool) -> None:
        """End the lead's claim on a part."""
        self.files.leave(part_id(claim.number))
        progress, metrics = self.together.checkpoint(claim.number)
        fields = {"progress": progress, "metrics": metrics}
        with suppress(StoreUnavailable):  # a successor finds the part done, or at its checkpoint
            self._table.release(claim, JobState.DONE if done else JobState.QUEUED, fields)

    def join(self, folder: Path) -> bool:
        """Take the files of all parts over, and join the parts. Raises Fenced.

        Returns False if files are missing, although the table calls all parts done. All parts are open again then, and
        a complete part costs no computation.
        """
        self._attempt.lease.update({"segments": self.together.segments()})
        try:
            folders = [self.take(number, self._store(self._table.token)) for number in self._numbers]
            joined = self._reopened or all(map(is_complete, folders))
            if joined:
                join(self._plan, folder, folders)
        finally:
            for number in self._numbers:
                self.files.leave(part_id(number))
        if not joined:
            self._attempt.log.warning("files of finished segments are missing; computing these segments again")
            self._reopened = True
            self._store(lambda: self._table.drop(self._job))
            self.open()
        return joined

    def _rows(self) -> list[Row]:
        rows = self._table.rows(self._job, len(self._plan.parts))
        self.together.see(rows)
        return rows

    def _is_lost(self, row: Row, now: float) -> bool:
        """Whether a helper's heartbeats have not changed for `worker_lost_seconds`."""
        if row.state != TAKEN or self.together.is_own(row.number):
            self._seen.pop(row.number, None)
            return False
        count, since = self._seen.setdefault(row.number, ((row.token, row.beat), now))
        if count != (row.token, row.beat):
            self._seen[row.number] = (row.token, row.beat), now
            self._attempt.lease.touch()
            return False
        return now - since >= self._lost_after

    def _call(self, count: int) -> None:
        self._called = time.monotonic()
        with suppress(StoreUnavailable):  # without tickets the lead computes all parts
            self._table.call(self._job, self._priority, count, timeout=self._timeout)

    def _call_again(self, rows: list[Row], now: float) -> None:
        """Call idle workers for parts that are still open, unless all workers are busy."""
        count = sum(row.state == OPEN for row in rows)
        if count and now - self._called >= _CALL and not self._table.is_calling(self._priority):
            self._call(count)

    def _store(self, call: Callable[[], T]) -> T:
        """Repeat a call until Redis answers, or the job has a reason to stop."""
        while True:
            try:
                return call()
            except StoreUnavailable:
                if self._attempt.lease.stop_reason is not None:
                    raise
                self._attempt.lease.touch()
                time.sleep(_PAUSE)


def part_task(task: UpscaleTask, made: Plan, number: int) -> UpscaleTask:
    """The task of a part of a video."""
    return replace(
        task,
        part=made.parts[number],
        chunk=made.chunk,
        encoder_threads=made.encoder_threads,
        identity=made.identity,
    )
