"""A service, a clip, a client, and a proxy between them whose connections can break."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from commands.shared.embedded_redis import EmbeddedRedis
from jobs.settings import Settings
from skipvsr_client import Client
from tests.support.clips import make_clip
from tests.support.http_server import Service, serving
from tests.support.rpc_server import Proxy


@pytest.fixture(scope="module")
def service(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service without workers: those of other tests may still be announced."""
    with Redis.from_url(redis_server.url) as redis:
        redis.flushall()
    settings = Settings(redis_url=redis_server.url, data_dir=tmp_path_factory.mktemp("data"), http_port=0)
    with serving(settings) as running:
        yield running


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=4)


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.url, patience=20) as connected:
        yield connected


@pytest.fixture
def proxy(service: Service) -> Iterator[Proxy]:
    between = Proxy(service.port)
    yield between
    between.close()
