"""What tests share: a real Redis, started once a session and flushed for each test; a data folder; settings."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_client

from commands.shared.embedded_redis import EmbeddedRedis
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.store import JobStore
from tests.support import watchdog
from tests.support.media import children, open_files
from tests.support.processes import alive, forbid_realtime, kill_tree, own_children, wait_until

# As every `skipvsr` command: else torch's threads here spin while a worker that a test started needs the cores. (Read
# when torch is first imported, which nothing above does.)
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# The networks of tests are so small that a second thread costs more than its share: the tests of model/ took 2.6 times
# the CPU time. Commands set the number of their own threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Whatever hangs is named and ends. ^C works in the processes of tests, also if the tests run in the background."""
    watchdog.install(config)
    forbid_realtime()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with few long tests come first, so that no process of pytest-xdist waits for another at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(("tests/worker/", "tests/commands/")))


@pytest.fixture(autouse=True)
def _all_processes_end() -> Iterator[None]:
    """A test ends the processes that it starts. Left ones are killed, and fail the test."""
    before = own_children()
    yield
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not any(map(alive, own_children() - before)), 30, "")
    left = [line for pid in own_children() - before if alive(pid) for line in kill_tree(pid)]
    assert not left, f"the test left processes: {left}"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """No setting of whoever runs the tests reaches them, neither from the environment nor from a `.env`."""
    for name in list(os.environ):
        if name.startswith("SKIPVSR_"):
            monkeypatch.delenv(name)
    monkeypatch.setitem(Settings.model_config, "env_file", None)


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """A command that is run in this process sends the log to what is its error stream now, and closed later."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = [h for h in root.handlers if h in handlers] + [h for h in handlers if h not in root.handlers]
    root.setLevel(level)


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    """A command that is run in this process sets the number of torch's threads, which the next test shall not have."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture
def nothing_left_behind() -> Iterator[None]:
    """A test that reads files leaves no process of a reader, and no file open."""
    files = open_files()
    yield
    assert children() == []
    assert open_files() <= files


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """The session's Redis, the same that `skipvsr up` starts."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis"), persist=False) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """URL of an empty Redis."""
    with redis_client.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def redis(redis_url: str) -> Iterator[redis_client.Redis]:
    """Client of an empty Redis; bytes in, bytes out."""
    with redis_client.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty data folder."""
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.fixture
def settings(redis_url: str, data_dir: Path) -> Settings:
    """Settings of a service on this machine's CPU with the tiny network; `model_copy(update=…)` for others."""
    return Settings(
        redis_url=redis_url, data_dir=data_dir, http_port=0, device="cpu", precision="fp32", threads=1, model="tiny"
    )


@pytest.fixture
def store(redis: redis_client.Redis) -> JobStore:
    return JobStore(redis)


@pytest.fixture
def storage(data_dir: Path) -> Storage:
    return Storage(data_dir)


@pytest.fixture
def weights_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty weights folder; commands in this process use it, on one CPU thread."""
    monkeypatch.setenv("SKIPVSR_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setenv("SKIPVSR_DEVICE", "cpu")
    monkeypatch.setenv("SKIPVSR_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"
