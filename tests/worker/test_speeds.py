"""What a worker measures, and its estimates for later jobs."""

from __future__ import annotations

from pathlib import Path

import redis as redis_client

from jobs.errors import StoreUnavailable
from jobs.presence import Presence
from jobs.schema import JobOptions
from jobs.settings import Settings
from jobs.speed import Measurement, Work
from jobs.speed_records import RedisSpeeds, SpeedFile
from jobs.storage import Storage
from jobs.store import JobStore
from service.admission import admit
from service.operations import Operations
from tests.support.clips import make_clip
from tests.support.crew import crew, submit, wait_for
from tests.support.processes import wait_until
from worker.speeds import WorkerSpeeds


def test_a_worker_calibrates_and_then_measures(
    settings: Settings, store: JobStore, storage: Storage, redis: redis_client.Redis, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=8)
    options = JobOptions(model="tiny", chunk=4, lookahead=2)
    with crew(settings, tmp_path):
        wait_until(lambda: Presence(redis).workers(), 60, "no announcement")
        (worker,) = Presence(redis).workers()
        speeds = RedisSpeeds(redis)
        wait_until(lambda: speeds.table(worker.machine).rates is not None, 60, "no calibration")
        rates = speeds.table(worker.machine).rates
        assert rates is not None
        assert {"tiny", "small"} <= rates.network.keys()
        assert rates.network["tiny"] < rates.network["small"]
        admission = admit(clip, options, settings, 4)
        first = Operations(store, storage).estimates.of(admission)
        assert first is not None
        assert first.basis == "calibrated"
        done = wait_for(store, submit(store, storage, clip))
        (cell,) = speeds.table(worker.machine).cells
        assert (cell.model, cell.routing, cell.codec, cell.pixels) == ("tiny", "balanced", "h264", 32 * 24)
        second = Operations(store, storage).estimates.of(admission)
        assert second is not None
        assert second.basis == "measured"
        took = done.metrics.processing_seconds
        assert took is not None
        assert second.seconds_low / 20 <= took <= 20 * second.seconds_high  # on a busy machine
        assert done.output is not None
        assert done.output.size_bytes is not None
        assert abs(second.bytes - done.output.size_bytes) < 0.2 * done.output.size_bytes


class NoRedis(SpeedFile):
    """Counts the attempts."""

    attempts = 0

    def add(self, machine: str, measurement: Measurement) -> None:
        self.attempts += 1
        raise StoreUnavailable("Redis does not answer")


def test_a_job_does_not_wait_for_redis_again_and_again(tmp_path: Path) -> None:
    records = NoRedis(tmp_path / "speeds.json")
    speeds = WorkerSpeeds(records, "here")
    for _ in range(3):
        speeds.add(Measurement(Work("tiny", "off", "h264", 768, 12_288), 4, 1.0))
    assert records.attempts == 1
