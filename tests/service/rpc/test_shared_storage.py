"""The gRPC server on a bucket: uploads, downloads, removal, outages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from commands.shared.embedded_redis import EmbeddedRedis
from jobs.object_storage import ObjectStorage
from jobs.settings import Settings
from service.operations import Operations
from skipvsr.v1 import upscaler_pb2 as pb
from skipvsr_client.live import StreamClient
from tests.support.clips import make_clip
from tests.support.rpc_jobs import finish, upload
from tests.support.rpc_server import RpcServer, details, rpc_server
from tests.support.s3_server import Proxy, S3Server, proxy, s3_server


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        running.empty()
        yield running


@pytest.fixture(scope="module")
def way(bucket: S3Server) -> Iterator[Proxy]:
    with proxy(bucket.port) as running:
        yield running


@pytest.fixture(scope="module")
def server(
    bucket: S3Server, way: Proxy, tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis
) -> Iterator[RpcServer]:
    settings = bucket.settings(Settings(), Path(), way.port)
    assert settings.s3_secret_access_key is not None
    secret = settings.s3_secret_access_key.get_secret_value()
    names = ("storage", "s3_endpoint", "s3_region", "s3_access_key_id", "s3_retry_seconds", "min_free_gb")
    given = {f"SKIPVSR_{name.upper()}": str(getattr(settings, name)) for name in names}
    folder = tmp_path_factory.mktemp("rpc")
    with rpc_server(folder, redis_server.url, SKIPVSR_S3_SECRET_ACCESS_KEY=secret, **given) as running:
        yield running


@pytest.fixture
def client(server: RpcServer, redis_url: str) -> Iterator[StreamClient]:
    with server.client() as connected:
        yield connected


@pytest.fixture
def elsewhere(bucket: S3Server, redis_url: str, tmp_path: Path) -> Iterator[Operations]:
    """Store and files as another machine sees them."""
    settings = bucket.settings(Settings(redis_url=redis_url), tmp_path / "elsewhere")
    operations = Operations.from_settings(settings)
    operations.storage.prepare()
    yield operations
    operations.store.redis.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=6).read_bytes()


def bytes_of(answers: Iterator[pb.DownloadResultResponse]) -> bytes:
    _, *parts = answers
    return b"".join(part.data for part in parts)


def test_upload_and_download_leave_nothing_on_the_server(
    client: StreamClient, server: RpcServer, elsewhere: Operations, data: bytes
) -> None:
    job_id = client.jobs.CreateJob(upload(data, len(data)), timeout=60).job.id
    assert bytes_of(client.jobs.DownloadInput(pb.DownloadInputRequest(job_id=job_id), timeout=60)) == data
    result = bytes(range(256)) * 20_000  # more than one block
    watched: list[int] = []
    watch = threading.Thread(
        target=lambda: watched.extend(
            answer.job.state for answer in client.jobs.WatchJob(pb.WatchJobRequest(job_id=job_id), timeout=60)
        )
    )
    watch.start()
    finish(elsewhere, job_id, result)
    watch.join(60)
    assert watched[-1] == pb.JOB_STATE_DONE
    first, *_ = client.jobs.DownloadResult(pb.DownloadResultRequest(job_id=job_id), timeout=60)
    assert first.file.size_bytes == len(result)
    for offset in (0, 4_200_000):
        wanted = pb.DownloadResultRequest(job_id=job_id, offset=offset)
        assert bytes_of(client.jobs.DownloadResult(wanted, timeout=60)) == result[offset:]
    assert not [path for path in server.data_dir.rglob("*") if path.is_file() and job_id in str(path)]
    assert not list((server.data_dir / "uploads").iterdir())
    client.jobs.DeleteJob(pb.DeleteJobRequest(job_id=job_id), timeout=60)
    assert isinstance(elsewhere.storage, ObjectStorage)
    assert job_id not in elsewhere.storage.job_ids()


def test_an_outage_is_unavailable_and_passes(
    client: StreamClient, elsewhere: Operations, way: Proxy, data: bytes
) -> None:
    job_id = client.jobs.CreateJob(upload(data), timeout=60).job.id
    finish(elsewhere, job_id, b"the result")
    wanted = pb.DownloadResultRequest(job_id=job_id)
    way.cut()
    for call in (
        lambda: client.jobs.CreateJob(upload(data), timeout=60),
        lambda: list(client.jobs.DownloadResult(wanted, timeout=60)),
        lambda: client.jobs.DeleteJob(pb.DeleteJobRequest(job_id=job_id), timeout=60),
    ):
        with pytest.raises(grpc.RpcError) as away:
            call()
        assert away.value.code() is grpc.StatusCode.UNAVAILABLE
        assert details(away.value)["ErrorInfo"].reason == "STORAGE_UNAVAILABLE"
    assert client.jobs.GetJob(pb.GetJobRequest(job_id=job_id), timeout=60).job.state == pb.JOB_STATE_DONE
    way.mend()
    assert bytes_of(client.jobs.DownloadResult(wanted, timeout=60)) == b"the result"
    client.jobs.CreateJob(upload(data), timeout=60)
