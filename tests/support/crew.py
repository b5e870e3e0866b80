"""Real worker processes, and jobs for the workers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.schema import Job, JobOptions, JobState, Progress
from jobs.settings import Settings
from jobs.storage import Storage, new_id
from jobs.store import JobStore
from tests.support.paths import ROOT
from tests.support.processes import wait_until


class Worker:
    """A worker process with its log in a file."""

    def __init__(self, settings: Settings, log: Path, command: tuple[str, ...] = ("-m", "worker"), **environment: str):
        self.log_path = log
        env = {name: value for name, value in os.environ.items() if not name.startswith("SKIPVSR_")}
        given = settings.model_dump(mode="json", exclude_unset=True)
        env |= {f"SKIPVSR_{name.upper()}": str(value) for name, value in given.items() if value is not None}
        env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}", **environment}
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, *command], cwd=log.parent, env=env, stderr=file, stdout=file, start_new_session=True
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self, seconds: float) -> int:
        return self.process.wait(seconds)


@contextmanager
def crew(
    settings: Settings, folder: Path, count: int = 1, command: tuple[str, ...] = ("-m", "worker"), **environment: str
) -> Iterator[list[Worker]]:
    """Start `count` workers and wait until all are ready; kill all at the end."""
    workers: list[Worker] = []
    try:
        workers += [
            Worker(settings, folder / f"worker-{number}.log", command, **environment) for number in range(count)
        ]
        for worker in workers:
            ready(worker)
        yield workers
    finally:
        for worker in workers:
            worker.kill(signal.SIGCONT)
            worker.kill()
            worker.process.wait(60)


@contextmanager
def held_crew(settings: Settings, folder: Path, *calls: int) -> Iterator[Worker]:
    """A worker whose network waits in the middle of some of its chunks, until somebody stops the job."""
    environment = {"HELD": str(folder / "held"), "HELD_CALLS": ",".join(map(str, calls))}
    with crew(settings, folder, command=("-m", "tests.support.held", "worker"), **environment) as (worker,):
        yield worker


def ready(worker: Worker) -> None:
    """Wait until a worker has loaded its network."""
    wait_until(lambda: " on cpu" in worker.log or worker.process.poll() is not None, 60, f"not ready: {worker.log}")
    assert worker.process.poll() is None, worker.log


def submit(store: JobStore, storage: Storage, clip: Path, **options: object) -> str:
    """Queue a job like the service; return its id."""
    job_id = new_id()
    storage.prepare()
    upload = storage.uploads / f"{job_id}.part"
    shutil.copyfile(clip, upload)
    storage.adopt(upload, job_id)
    chosen = JobOptions.model_validate({"model": "tiny", "chunk": 4, "lookahead": 2, **options})
    store.create(Job(id=job_id, filename=clip.name, options=chosen, progress=Progress()))
    return job_id


def wait_for(store: JobStore, job_id: str, *states: JobState, seconds: float = 60) -> Job:
    """Wait until a job is in one of the states, by default any final state; return the document."""
    wanted = states or tuple(state for state in JobState if state.final)
    wait_until(lambda: _has_state(store.get(job_id), wanted), seconds, f"not {' or '.join(wanted)}")
    return store.get(job_id)


def wait_for_frames(store: JobStore, job_id: str, frames: int, seconds: float = 60) -> None:
    """Wait until a number of a job's frames are checkpointed."""
    wait_until(lambda: _has_frames(store.get(job_id), frames), seconds, f"no {frames} frames")


def _has_state(job: Job, wanted: tuple[JobState, ...]) -> bool:
    assert job.state in wanted or not job.state.final, job
    return job.state in wanted


def _has_frames(job: Job, frames: int) -> bool:
    assert job.progress.frames_saved >= frames or not job.state.final, job
    return job.progress.frames_saved >= frames
