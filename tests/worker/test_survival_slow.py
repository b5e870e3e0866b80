"""Survival tests that take minutes each; `make test-slow` runs these."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from commands.shared.embedded_redis import EmbeddedRedis
from jobs import tickets
from jobs.schema import JobState
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.store import JobStore, connect
from tests.support.clips import make_clip
from tests.support.crew import ROOT, Worker, crew, ready, submit, wait_for, wait_for_frames
from tests.support.http_server import serving
from tests.support.processes import wait_until
from worker.janitor import Janitor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"heartbeat_seconds": 0.1, "worker_lost_seconds": 1.5, "janitor_seconds": 2, "min_free_gb": 0.0}
    )


def finished_twice(witness: Path) -> int:
    """Number of chunks that a network computed again."""
    ends = Counter(line.split()[2] for line in witness.read_text().splitlines() if " end " in line)
    return sum(count - 1 for count in ends.values())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["kill", "stop"])
def test_fifty_workers_killed_or_stopped_at_random_moments(
    quick: Settings, store: JobStore, storage: Storage, tmp_path: Path, number: signal.Signals
) -> None:
    """A job of 20 chunks, 50 times. Its worker is killed, or stopped for longer than its lease and then continued."""
    clip = make_clip(tmp_path / "clip.mp4", frames=80, width=64, height=48, sound=True)
    witness, rng, again, deaths = tmp_path / "witness", random.Random(7), [], 0
    command, environment = ("-m", "tests.support.witness"), {"WITNESS": str(witness)}
    with crew(quick, tmp_path, 2, command, **environment) as workers:
        whole_id = submit(store, storage, clip)
        wait_for(store, whole_id)
        whole = storage.result_path(whole_id).read_bytes()
        begun = time.monotonic()
        wait_for(store, submit(store, storage, clip))
        usual = time.monotonic() - begun
        for attempt in range(50):
            witness.unlink(missing_ok=True)
            job_id = submit(store, storage, clip)
            wait_until(lambda job_id=job_id: store.get(job_id).attempt > 0, 60, "the job was not claimed")
            time.sleep(rng.uniform(0, usual))
            name = store.get(job_id).worker or ""
            at = next(i for i, worker in enumerate(workers) if f"-{worker.process.pid}-" in name)
            workers[at].kill(number)
            job = wait_for(store, job_id, seconds=120)
            assert job.state is JobState.DONE
            assert storage.result_path(job_id).read_bytes() == whole
            before = storage.result_path(job_id).stat()
            deaths += job.deaths
            again.append(finished_twice(witness))
            if number == signal.SIGSTOP:
                workers[at].kill(signal.SIGCONT)
                time.sleep(0.3)
                after = storage.result_path(job_id).stat()
                assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns), "published once"
            else:
                workers[at].wait(60)
                workers[at] = Worker(quick, tmp_path / f"again-{attempt}.log", command, **environment)
                ready(workers[at])
    print(
        f"\n{number.name}: 50 of 50 done and byte-identical; {deaths} deaths; chunks finished again: {Counter(again)}"
    )
    if number == signal.SIGKILL:
        assert max(again) <= 1


def test_two_hundred_jobs_under_a_random_killer(
    quick: Settings, store: JobStore, storage: Storage, tmp_path: Path
) -> None:
    settings = quick.model_copy(update={"max_deaths": 10})
    clip = make_clip(tmp_path / "clip.mp4", frames=12)
    rng, over, kills = random.Random(11), threading.Event(), 0
    workers = [Worker(settings, tmp_path / f"{number}.log") for number in range(2)]

    def kill_at_random() -> None:
        nonlocal kills
        while not over.wait(rng.uniform(4, 10)):
            victim = rng.randrange(2)
            workers[victim].kill()
            workers[victim].wait(60)
            kills += 1
            workers[victim] = Worker(settings, tmp_path / f"killed-{kills}.log")

    killer = threading.Thread(target=kill_at_random)
    try:
        job_ids = [submit(store, storage, clip) for _ in range(200)]
        killer.start()
        wait_until(lambda: not store.ids(JobState.QUEUED, JobState.RUNNING), 1500, "some jobs have not ended")
    finally:
        over.set()
        killer.join(60)
        for worker in workers:
            worker.kill(signal.SIGTERM)
            worker.wait(60)
    assert store.counts()[JobState.DONE] == 200
    assert len({storage.result_path(job_id).read_bytes() for job_id in job_ids}) == 1
    assert tickets.waiting(store.redis) == []
    deaths = sum(store.get(job_id).deaths for job_id in job_ids)
    print(f"\n200 of 200 done and byte-identical; {kills} kills, {deaths} of them over a job")
    Janitor(settings, store, storage, now=lambda: datetime.now(UTC) + timedelta(minutes=1)).clean()
    ours = (b"rq:job:", b"rq:execution", b"rq:wip:", b"rq:queue:")
    assert [key for key in store.redis.scan_iter("rq:*") if key.startswith(ours)] == []
    assert {path.name for folder in storage.folders().values() for path in folder.iterdir()} == {"input", "result.mp4"}


def test_redis_silent_for_a_minute(quick: Settings, storage: Storage, tmp_path: Path) -> None:
    """Redis neither refuses nor closes connections, as behind a broken network."""
    clip = make_clip(tmp_path / "clip.mp4", frames=160, width=96, height=64, sound=True)
    with EmbeddedRedis(tmp_path / "redis") as server, connect(server.url) as client:
        settings = quick.model_copy(update={"redis_url": server.url})
        store = JobStore(client)
        with crew(settings, tmp_path, 2) as workers, serving(settings) as service:
            job_ids = [submit(store, storage, clip) for _ in range(4)]
            wait_for_frames(store, job_ids[0], 8)
            assert server.process is not None
            server.process.send_signal(signal.SIGSTOP)
            silent = time.monotonic()
            answer = service.client.get(f"/jobs/{job_ids[0]}", timeout=60)
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) > 0
            time.sleep(max(0.0, 60 - (time.monotonic() - silent)))
            server.process.send_signal(signal.SIGCONT)
            jobs = [wait_for(store, job_id, seconds=180) for job_id in job_ids]
            assert [(job.state, job.attempt, job.deaths) for job in jobs] == [(JobState.DONE, 1, 0)] * 4
            assert len({storage.result_path(job_id).read_bytes() for job_id in job_ids}) == 1
            assert all(worker.process.poll() is None for worker in workers)
            assert service.client.get(f"/jobs/{job_ids[0]}").status_code == 200


def test_a_full_disk_mid_job_and_at_publication(tmp_path: Path) -> None:
    """The test runs in its own mount namespace, which needs no privileges."""
    command = ["unshare", "-Urm", sys.executable, "-m", "tests.support.small_disk", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
