"""The parts of a job in the hands of its lead: calls for help, and files that are missing at the end."""

from __future__ import annotations

import pytest

from jobs import lines
from jobs.keys import line_key
from jobs.lines import PARTS
from jobs.parts import OPEN, PartTable
from jobs.schema import Job, JobMetrics, JobOptions, JobState, Priority, Progress
from jobs.settings import Settings
from jobs.storage import Storage, new_id
from jobs.store import JobStore
from pipeline.events import Stopped
from tests.worker.test_together import PLAN
from worker import crew as crew_module
from worker.attempt import Attempt
from worker.crew import Crew
from worker.lease import Lease, StopReason


@pytest.fixture
def crew(settings: Settings, store: JobStore, storage: Storage) -> Crew:
    """A running job with three parts, of which two are open."""
    job = Job(id=new_id(), filename="a.mp4", options=JobOptions())
    storage.job_dir(job.id).mkdir(parents=True)
    store.create(job)
    claim = store.claim(job.id, "lead")
    assert claim is not None
    crew = Crew(settings, store, storage, "lead", Attempt(job, Lease(claim, lambda: None)), PLAN)
    crew.open()
    return crew


def states(store: JobStore, crew: Crew) -> list[str]:
    return [row.state for row in PartTable(store.redis).rows(crew._job, 3)]


def test_finished_parts_without_files_are_computed_again_once(store: JobStore, storage: Storage, crew: Crew) -> None:
    """Somebody has removed the parts' folders, and the table still calls the parts done."""
    table, folder = PartTable(store.redis), storage.job_dir(crew._job)
    for _ in (1, 2):
        claim = table.claim(crew._job, "helper")
        assert claim is not None
        table.release(claim, JobState.DONE)
    assert crew.next() is None
    assert not crew.join(folder)
    assert states(store, crew) == [OPEN, OPEN]
    with pytest.raises(FileNotFoundError):
        crew.join(folder)


def test_idle_workers_are_called_again_for_open_parts(
    store: JobStore, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unfit workers have taken the tickets, or a new worker has started since."""

    def waiting() -> int:
        return int(store.redis.zcard(line_key(Priority.NORMAL, PARTS)))

    monkeypatch.setattr(crew_module, "_LOOK", 0.0)
    assert waiting() == 2
    while lines.take(store.redis) is not None:
        pass
    crew.look()
    assert waiting() == 0, "too early"
    monkeypatch.setattr(crew_module, "_CALL", 0.0)
    crew.look()
    assert waiting() == 2
    crew.look()
    assert waiting() == 2, "all workers are busy"


def test_a_paused_job_counts_no_frames_that_helpers_lose(store: JobStore, crew: Crew) -> None:
    """The lead is paused while it waits for a helper, or during its own part."""
    table, attempt = PartTable(store.redis), crew._attempt
    claim = table.claim(crew._job, "helper")
    assert claim is not None
    table.heartbeat(claim, {"progress": Progress(frames_done=7, frames_saved=4)})
    crew.look()
    attempt.lease.request_stop(StopReason.PAUSE)
    assert crew.next() is None
    found = attempt.lease.take_fields()["progress"]
    assert (found.frames_done, found.frames_saved) == (4, 4)
    attempt.others = crew
    crew.together.begin(0)
    found = attempt.progress(Stopped(Progress(frames_done=8, frames_saved=8), JobMetrics()))
    assert (found.frames_done, found.frames_saved, found.frames_total) == (12, 12, 100)
