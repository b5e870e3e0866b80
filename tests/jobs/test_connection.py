"""Clients of a Redis behind TLS with an ACL user, and of one that Sentinels name."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis import Redis

from jobs.errors import StoreUnavailable
from jobs.schema import Job, JobOptions, JobState
from jobs.settings import Settings
from jobs.storage import Storage, new_id
from jobs.store import JobStore
from jobs.store.changes import Changes
from jobs.store.connection import connect
from tests.support.certificates import Authority
from tests.support.clips import make_clip
from tests.support.crew import crew, submit, wait_for
from tests.support.paths import ROOT
from tests.support.processes import wait_until
from tests.support.redis_servers import behind_tls, failover, server


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=40)


def rights() -> list[str]:
    """Rights of the ACL user in the documentation."""
    text = (ROOT / "docs" / "scaling.md").read_text()
    (line,) = [line for line in text.splitlines() if line.strip().startswith("ACL SETUSER skipvsr")]
    return line.split()[3:]


async def last_change(url: str) -> int:
    changes = Changes(url)
    try:
        async with changes.subscribed():
            return await changes.last()
    finally:
        await changes.close()


def test_a_job_over_tls_with_a_restricted_user(settings: Settings, tmp_path: Path, clip: Path) -> None:
    authority = Authority(tmp_path)
    own, known = authority.server(), authority.client()
    with server(tmp_path / "redis", "--save", "") as (port, _), behind_tls(port, own, authority.ca.cert) as secure:
        with Redis(port=port) as administrator:
            administrator.execute_command("ACL", "SETUSER", "skipvsr", *(r.replace("PASSWORD", "s3") for r in rights()))
            administrator.execute_command("ACL", "SETUSER", "default", "off")
        safe = settings.model_copy(
            update={
                "redis_url": f"rediss://skipvsr:s3@127.0.0.1:{secure}",
                "redis_tls_ca": authority.ca.cert,
                "redis_tls_cert": known.cert,
                "redis_tls_key": known.key,
            }
        )
        store, storage = JobStore.from_settings(safe), Storage(safe.data_dir)
        with crew(safe, tmp_path) as (worker,):
            job = wait_for(store, submit(store, storage, clip))
            assert job.state is JobState.DONE, worker.log
            assert "NOPERM" not in worker.log
        assert asyncio.run(last_change(str(safe.redis_address))) > 0
        for wrong in ({"redis_tls_cert": None, "redis_tls_key": None}, {"redis_tls_ca": None}):
            with pytest.raises(StoreUnavailable):
                JobStore.from_settings(safe.model_copy(update=wrong)).ping()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # redis-py drops connections on failover
def test_clients_follow_the_sentinels(tmp_path: Path) -> None:
    with failover(tmp_path) as (url, process):
        store = JobStore.from_settings(Settings(redis_url=url))
        job = Job(id=new_id(), filename="clip.mp4", options=JobOptions())
        store.create(job)
        before = asyncio.run(last_change(url))
        store.redis.wait(1, 5000)
        process.kill()

        def paused() -> bool:
            try:
                return store.request_pause(job.id) is JobState.PAUSED
            except StoreUnavailable:
                return False

        wait_until(paused, 60, "the clients do not find the new server")
        assert asyncio.run(last_change(url)) > before
        store.redis.close()


def test_a_closed_client_leaves_no_connection_to_a_sentinel(tmp_path: Path) -> None:
    with failover(tmp_path) as (url, _), Redis(port=urlsplit(url).port or 0) as sentinel:

        def connections() -> int:
            return len(sentinel.client_list())

        before = connections()
        opened = connect(url)
        opened.ping()
        assert connections() > before
        opened.close()
        wait_until(lambda: connections() == before, 60, "a connection to the Sentinel is left")


@pytest.mark.slow
def test_a_failover_mid_job_loses_nothing(settings: Settings, tmp_path: Path, clip: Path) -> None:
    with failover(tmp_path / "servers") as (url, process):
        quick = settings.model_copy(update={"redis_url": url, "worker_lost_seconds": 8.0, "heartbeat_seconds": 0.2})
        store, storage = JobStore.from_settings(quick), Storage(quick.data_dir)
        with crew(quick, tmp_path, 2) as workers:
            ids = [submit(store, storage, clip) for _ in range(4)]
            wait_for(store, ids[0], JobState.RUNNING, JobState.DONE)
            process.kill()

            def done() -> bool:
                try:
                    return {store.get(job_id).state for job_id in ids} == {JobState.DONE}
                except StoreUnavailable:
                    return False

            wait_until(done, 90, "".join(worker.log for worker in workers))
            assert len({storage.result_path(job_id).read_bytes() for job_id in ids}) == 1
            assert all(worker.process.poll() is None for worker in workers)
