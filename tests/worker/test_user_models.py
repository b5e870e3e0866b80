"""Jobs with user models: a worker serves a new, replaced or removed file without a restart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.schema import JobState
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.store import JobStore
from service.operations import Operations
from tests.support.clips import make_clip
from tests.support.crew import crew, held_crew, submit, wait_for, wait_for_frames
from tests.support.processes import wait_until
from tests.support.user_models import TINY, write_model


@pytest.mark.slow
def test_a_worker_serves_new_replaced_and_removed_files(
    settings: Settings, store: JobStore, storage: Storage, weights_folder: Path, tmp_path: Path
) -> None:
    quick = settings.model_copy(update={"heartbeat_seconds": 0.1, "min_free_gb": 0.0, "weights_dir": weights_folder})
    operations = Operations.from_settings(quick)
    write_model(weights_folder, "Bad")
    clip = make_clip(tmp_path / "clip.mp4", frames=6)
    with crew(quick, tmp_path) as (worker,):
        wait_until(lambda: "tiny" in operations.models(), 60, "the worker is not there")
        assert "mine" not in operations.models()
        assert "Bad.safetensors is not used" in worker.log
        write_model(weights_folder)
        wait_until(lambda: "mine" in operations.models(), 60, "mine is not there")
        operations.check_model("mine")
        job = wait_for(store, submit(store, storage, clip, model="mine"))
        assert (job.state, job.model) == (JobState.DONE, "mine")
        first = storage.result_path(job.id).read_bytes()
        write_model(weights_folder, seed=1)
        job = wait_for(store, submit(store, storage, clip, model="mine"))
        assert storage.result_path(job.id).read_bytes() != first
        (weights_folder / "mine.safetensors").unlink()
        job = wait_for(store, submit(store, storage, clip, model="mine"))
        assert job.state is JobState.FAILED
        detail = job.error.detail if job.error else ""
        assert "The worker that claimed the job lacks the model: unknown model 'mine'; use one of: small" in detail
        assert f"(user models are files in {weights_folder})" in detail
        wait_until(lambda: "mine" not in operations.models(), 60, "mine is still there")
        assert wait_for(store, submit(store, storage, clip)).state is JobState.DONE
        assert worker.log.count("Bad.safetensors is not used") == 1


def test_the_model_follows_from_the_size_and_the_size_from_the_model(
    settings: Settings, store: JobStore, storage: Storage, weights_folder: Path, tmp_path: Path
) -> None:
    quick = settings.model_copy(
        update={"heartbeat_seconds": 0.1, "min_free_gb": 0.0, "weights_dir": weights_folder, "model": "auto"}
    )
    operations = Operations.from_settings(quick)
    write_model(weights_folder, "double", config=replace(TINY, scale=2))
    clip = make_clip(tmp_path / "clip.mp4", frames=4, width=34, height=26)
    with crew(quick, tmp_path):
        wait_until(lambda: "double" in operations.models(), 60, "the worker is not there")
        scales = [operations.scale_of(name) for name in ("double", "small-x2", "small", "auto", "none")]
        assert scales == [2, 2, 4, 4, None]
        for options, model, height in (
            ({"model": "auto", "scale": 2}, "small-x2", 52),
            ({"model": "auto", "scale": 3}, "small", 78),
            ({"model": "double"}, "double", 52),
        ):
            job = wait_for(store, submit(store, storage, clip, **options))
            assert (job.state, job.model) == (JobState.DONE, model)
            assert job.output is not None
            assert job.output.height == height


@pytest.mark.slow
def test_a_replaced_model_restarts_a_paused_job(
    settings: Settings, store: JobStore, storage: Storage, weights_folder: Path, tmp_path: Path
) -> None:
    quick = settings.model_copy(update={"heartbeat_seconds": 0.1, "min_free_gb": 0.0, "weights_dir": weights_folder})
    write_model(weights_folder)
    clip = make_clip(tmp_path / "clip.mp4", frames=24)
    with held_crew(quick, tmp_path, 3):
        job_id = submit(store, storage, clip, model="mine")
        wait_for_frames(store, job_id, 8)
        store.request_pause(job_id)
        assert wait_for(store, job_id, JobState.PAUSED).progress.frames_done == 8
        write_model(weights_folder, seed=1)
        store.resume(job_id)
        job = wait_for(store, job_id)
        whole = wait_for(store, submit(store, storage, clip, model="mine"))
    assert "The checkpoint belongs to another model; the job started again." in job.warnings
    assert storage.result_path(job_id).read_bytes() == storage.result_path(whole.id).read_bytes()
