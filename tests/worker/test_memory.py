"""A worker's memory does not depend on the length of the video."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis

from jobs.schema import JobState
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.store import JobStore
from tests.support.clips import make_clip
from tests.support.crew import crew, submit, wait_for


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_thousand_frames_take_no_more_memory_than_two_hundred(
    settings: Settings, redis: Redis, data_dir: Path, tmp_path: Path
) -> None:
    store, storage = JobStore(redis), Storage(data_dir)
    peaks = {}
    for frames in (200, 2000):
        clip = make_clip(tmp_path / f"{frames}.mp4", frames=frames, width=96, height=64, sound=True)
        (tmp_path / str(frames)).mkdir()
        with crew(settings, tmp_path / str(frames)) as (worker,):
            job = wait_for(store, submit(store, storage, clip, chunk=24, lookahead=4), seconds=900)
            assert job.state is JobState.DONE
            assert job.progress.frames_done == frames
            status = Path(f"/proc/{worker.process.pid}/status").read_text()
        peaks[frames] = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(f"\npeak RSS of the worker: {peaks[200]:.0f} MiB at 200 frames, {peaks[2000]:.0f} MiB at 2000")
    assert peaks[2000] <= 1.1 * peaks[200]
