"""A worker on a disk of 2 MB that fills up at different moments.

test_survival_slow.py runs this module in a mount namespace: `python -m tests.support.small_disk <folder>`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import run

import httpx

from commands.shared.embedded_redis import EmbeddedRedis
from jobs.schema import Job, JobState
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.store import JobStore, connect
from tests.support.clips import make_clip
from tests.support.crew import crew, submit, wait_for, wait_for_frames
from tests.support.http_server import serving
from tests.support.processes import wait_until


def fill(data: Path) -> Path:
    """Fill the disk with one file."""
    ballast = data / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return ballast


def assert_paused(job: Job) -> None:
    assert job.state is JobState.PAUSED, job
    assert job.error is not None
    assert job.error.status == 507, job
    print(f"paused after {job.progress.frames_done} frames: {job.error.detail}")


def main(folder: Path) -> None:
    data = folder / "small"
    data.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(data)], check=True)
    clip = make_clip(folder / "clip.mp4", frames=120, width=64, height=48, sound=True)
    with EmbeddedRedis(folder / "redis") as server, connect(server.url) as client:
        settings = Settings(
            _env_file=None,  # type: ignore[call-arg]
            redis_url=server.url,
            data_dir=data,
            device="cpu",
            precision="fp32",
            threads=1,
            model="tiny",
            heartbeat_seconds=0.1,
            min_free_gb=0.0,
        )
        store, storage = JobStore(client), Storage(data)
        with crew(settings, folder) as (worker,):
            whole_id = submit(store, storage, clip)
            wait_for(store, whole_id)
            whole = storage.result_path(whole_id).read_bytes()
            storage.remove(whole_id)

            # at upload
            with serving(settings) as service:
                ballast = fill(data)
                whole_form = httpx.Request("POST", service.url, files={"file": clip.read_bytes()})
                form_type = {"content-type": whole_form.headers["content-type"]}
                unannounced = iter([whole_form.read()])  # chunked: the size is unknown until the end
                for answer in (
                    service.post(clip),
                    service.client.post("/upscale", content=unannounced, headers=form_type),
                ):
                    assert answer.status_code == 507, answer.text
                    assert answer.headers["content-type"] == "application/problem+json"
                    print(f"upload refused: {answer.json()['detail']}")
                    assert list(storage.uploads.iterdir()) == []
                ballast.unlink()
                assert service.post(clip, model="tiny").status_code == 202, "the disk has room again"
                over = service.client.get("/jobs").json()["jobs"][0]["id"]
                wait_for(store, over)
                storage.remove(over)

            # before the start: the estimate exceeds the free space
            job_id = submit(store, storage, clip, crf=0)
            assert_paused(wait_for(store, job_id, JobState.PAUSED))
            store.request_cancel(job_id)
            storage.remove(job_id)

            # mid-job
            job_id = submit(store, storage, clip)
            wait_for_frames(store, job_id, 12)
            ballast = fill(data)
            assert_paused(wait_for(store, job_id, JobState.PAUSED))
            assert not storage.result_path(job_id).exists()
            ballast.unlink()
            store.resume(job_id)
            job = wait_for(store, job_id)
            assert job.state is JobState.DONE, job
            assert job.error is None
            assert storage.result_path(job_id).read_bytes() == whole
            assert f"job {job_id}: resumes" in worker.log
            storage.remove(job_id)

            # at the end: the segments fit, but the joined result does not
            job_id = submit(store, storage, clip)
            wait_for_frames(store, job_id, 96)
            store.request_pause(job_id)
            wait_until(lambda: store.get(job_id).state in (JobState.PAUSED, JobState.DONE), 60, "not paused")
            if store.get(job_id).state is JobState.PAUSED:
                ballast = fill(data)
                with ballast.open("r+b") as file:
                    file.truncate(ballast.stat().st_size - len(whole) // 2)
                store.resume(job_id)
                assert_paused(wait_for(store, job_id, JobState.PAUSED))
                ballast.unlink()
                store.resume(job_id)
                wait_for(store, job_id)
            assert storage.result_path(job_id).read_bytes() == whole

            storage.remove(job_id)

            # read-only
            job_id = submit(store, storage, clip)
            store.request_pause(job_id)
            wait_for(store, job_id, JobState.PAUSED)
            run(["mount", "-o", "remount,ro", str(data)], check=True)
            store.resume(job_id)
            wait_until(lambda: store.get(job_id).error is not None, 60, "the job has no error")
            assert_paused(wait_for(store, job_id, JobState.PAUSED))
            run(["mount", "-o", "remount,rw", str(data)], check=True)
            store.resume(job_id)
            wait_for(store, job_id)
            assert storage.result_path(job_id).read_bytes() == whole
            assert worker.process.poll() is None
    print("done")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
