"""The worker that has claimed a job lets idle workers compute parts of the video, and joins the parts.

The lead computes the first part in the job's own working folder, then every part that no helper has taken. A part that
a helper gives back open goes to any worker. A part of a lost helper, or of a helper that failed, is left to the lead:
an error in the video then ends the job as it ends any other job.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from jobs.errors import StoreUnavailable
from jobs.parts import PartClaim, PartTable
from jobs.presence import Presence
from jobs.settings import Settings
from jobs.storage import Storage, part_id
from jobs.store import JobStore
from model.engine.upscaler import Upscaler
from pipeline.events import Finished, PartDone
from pipeline.layout import MANIFEST, PLAN
from pipeline.parts import Plan
from pipeline.splitting import is_joined, plan
from pipeline.task import UpscaleTask
from pipeline.upscale import prepared
from worker.attempt import STARTED_AGAIN, Attempt, stored
from worker.crew import Crew

AUTO_CHUNKS: Final = 10
"""Fewest chunks of a part that nobody has asked for: a warm-up then costs a tenth of the part at most."""
AUTO_PARTS: Final = 3
"""Parts for each worker: with several parts, workers of unequal speed end at about the same time."""
MOST_PARTS: Final = 64


class Run(Protocol):
    """Runs the pipeline for a whole video or a part, and reports; None if the job stopped."""

    def __call__(
        self, task: UpscaleTask, model: Upscaler, attempt: Attempt, save: Callable[[], None]
    ) -> Finished | PartDone | None: ...


class Lead:
    """Processes the jobs that this worker has claimed, alone or with helpers.

    Args:
        settings: the settings.
        store: the jobs.
        storage: the files.
        name: the worker's name.
        run: runs the pipeline.
    """

    def __init__(self, settings: Settings, store: JobStore, storage: Storage, name: str, run: Run) -> None:
        self._settings, self._store, self._storage, self._name, self._run = settings, store, storage, name, run
        self._table, self._presence = PartTable(store.redis), Presence(store.redis)

    def upscale(self, task: UpscaleTask, model: Upscaler, attempt: Attempt) -> Finished | None:
        """Process a job; None if the job stopped."""
        made = self._plan(task, model, attempt)
        if attempt.lease.stop_reason is not None:
            return None
        if made is not None and not is_joined(task.folder):
            crew = Crew(self._settings, self._store, self._storage, self._name, attempt, made)
            if not self._parts(crew, task, model, attempt):
                return None
        finished = self._run(task, model, attempt, self._save(attempt, task.folder))
        assert not isinstance(finished, PartDone), "a task without a part ends with the result"
        return finished

    def end(self, job_id: str) -> None:
        """Forget the parts of a job that is done, failed or cancelled."""
        with suppress(StoreUnavailable):
            self._table.drop(job_id)

    def _save(self, attempt: Attempt, folder: Path) -> Callable[[], None]:
        return lambda: self._storage.save(attempt.job.id, folder)

    # The plan

    def _plan(self, task: UpscaleTask, model: Upscaler, attempt: Attempt) -> Plan | None:
        """The plan of an earlier attempt, or a new one; None for a job that this worker computes alone."""
        made = Plan.load(task.folder)
        if made is not None and self._fits(made, task, model, attempt):
            return made
        wanted = self._wanted(task, model, attempt)
        if wanted is None:
            return None
        count, least = wanted
        made = self._read(plan(task, model, count=count, least=least), attempt)
        if made is not None:
            made.save(task.folder)
            stored(attempt.lease, self._save(attempt, task.folder))  # before a helper begins
        return made

    @staticmethod
    def _read(steps: Generator[int, None, Plan | None], attempt: Attempt) -> Plan | None:
        """Run the scan, unless the job stops."""
        try:
            while attempt.lease.stop_reason is None:
                next(steps)
                attempt.lease.touch()
        except StopIteration as end:
            made: Plan | None = end.value
            return made
        finally:
            steps.close()
        return None

    def _fits(self, made: Plan, task: UpscaleTask, model: Upscaler, attempt: Attempt) -> bool:
        """Check that this worker computes the same as the plan's worker; removes the plan and all parts otherwise."""
        part = None if is_joined(task.folder) else made.parts[0]
        own = prepared(replace(task, part=part), model).identity.of_whole()
        differs = own.differs(made.identity, may_move=part is None)  # parts of two kinds of devices would alternate
        if differs is not None:
            attempt.warn(f"{STARTED_AGAIN} {differs}; the job started again.")
            for name in (PLAN, MANIFEST):
                (task.folder / name).unlink(missing_ok=True)
            self.end(attempt.job.id)  # before the files: helpers stop
            stored(attempt.lease, lambda: self._storage.remove_parts(attempt.job.id))
            attempt.lease.update({"segments": None})
        return differs is None

    def _wanted(self, task: UpscaleTask, model: Upscaler, attempt: Attempt) -> tuple[int, int] | None:
        """Number of parts, and fewest frames of a part; None: no parts."""
        choice = task.options.segments
        if choice != "auto":
            return None if choice in ("off", "1") else (int(choice), 0)
        facts, chunk = attempt.job.input, task.options.chunk
        frames = facts and (facts.frames or round((facts.duration_seconds or 0.0) * (facts.frame_rate or 0.0)))
        if not frames or frames < 2 * AUTO_CHUNKS * chunk:
            return None
        idle = self._idle(model)
        return (min(AUTO_PARTS * (1 + idle), MOST_PARTS), AUTO_CHUNKS * chunk) if idle > 0 else None

    def _idle(self, model: Upscaler) -> int:
        """Number of other idle workers with the model and a device of this kind, beyond the number of waiting jobs."""
        try:
            others = [each for each in self._presence.workers() if each.name != self._name and each.job is None]
            fit = [each for each in others if model.name in each.models and _kind(each.device) == model.device.type]
            return len(fit) - sum(self._store.depths().values())
        except StoreUnavailable:
            return 0

    # The parts

    def _parts(self, crew: Crew, task: UpscaleTask, model: Upscaler, attempt: Attempt) -> bool:
        """Compute all parts with the helpers, and join the parts; return False if the job stopped."""
        attempt.others = crew
        crew.open()
        save = self._save(attempt, task.folder)
        if not crew.compute(0, lambda: self._run(crew.task(task, 0), model, attempt, save)):
            return False
        joined = False
        while not joined:
            while (claim := crew.next()) is not None:
                if not self._part(crew, claim, task, model, attempt):
                    return False
            if attempt.lease.stop_reason is not None:
                return False
            joined = crew.join(task.folder)
        attempt.others = None
        return True

    def _part(self, crew: Crew, claim: PartClaim, task: UpscaleTask, model: Upscaler, attempt: Attempt) -> bool:
        """Compute a part other than the first; return False if the job stopped."""
        done = False
        try:
            folder = crew.take(claim.number, claim.token)
            own = replace(crew.task(task, claim.number), folder=folder)
            save = partial(crew.files.save, part_id(claim.number), folder)
            done = crew.compute(claim.number, lambda: self._run(own, model, attempt, save))
        finally:
            crew.leave(claim, done=done)
        return done


def _kind(device: str) -> str:
    """Kind of a device: `cuda` of `cuda:0`."""
    return device.partition(":")[0]
