"""A server with low limits for jobs, for the tests of a module. Modules about streams have servers of their own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from redis import Redis

from commands.shared.embedded_redis import EmbeddedRedis
from jobs.settings import Settings
from service.operations import Operations
from skipvsr_client.live import StreamClient
from tests.support.rpc_server import RpcServer, rpc_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[RpcServer]:
    settings = {
        "SKIPVSR_MAX_UPLOAD_BYTES": "200000",
        "SKIPVSR_UPLOAD_IDLE_SECONDS": "5",
        "SKIPVSR_GRPC_MAX_WATCHERS": "3",
        "SKIPVSR_MAX_UPLOADS": "3",
        "SKIPVSR_GRPC_MAX_DOWNLOADS": "2",
        "SKIPVSR_DOWNLOAD_IDLE_SECONDS": "5",
    }
    with rpc_server(tmp_path_factory.mktemp("rpc"), redis_server.url, **settings) as running:
        yield running


@pytest.fixture
def client(server: RpcServer, redis_url: str) -> Iterator[StreamClient]:
    """A client of the server, with no jobs: the server would list those again that lie in its data folder."""
    shutil.rmtree(server.data_dir / "jobs", ignore_errors=True)
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
    with server.client() as connected:
        yield connected


@pytest.fixture
def operations(server: RpcServer, redis_url: str) -> Iterator[Operations]:
    operations = Operations.from_settings(Settings(redis_url=redis_url, data_dir=server.data_dir))
    yield operations
    operations.store.redis.close()
