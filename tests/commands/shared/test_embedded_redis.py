"""The embedded Redis: persistent, exclusive to its folder, and stopped with its parent."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from commands.shared.embedded_redis import EmbeddedRedis, connected
from commands.shared.errors import CommandError
from jobs.settings import Settings
from tests.support.processes import alive, wait_until

PARENT = """
import sys, time
from pathlib import Path
from commands.shared.embedded_redis import EmbeddedRedis
with EmbeddedRedis(Path(sys.argv[1])) as server:
    print(server.process.pid, flush=True)
    time.sleep(60)
"""


def test_values_survive_a_restart(tmp_path: Path) -> None:
    for expected in (None, b"kept"):
        with EmbeddedRedis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
            assert client.get("word") == expected
            client.set("word", "kept")
        assert server.process is not None
        assert server.process.poll() is not None


def test_a_folder_has_one_server(tmp_path: Path) -> None:
    with (
        EmbeddedRedis(tmp_path / "redis"),
        pytest.raises(CommandError, match=f"another `skipvsr up` is using {tmp_path}"),
        EmbeddedRedis(tmp_path / "redis"),
    ):
        pass
    with EmbeddedRedis(tmp_path / "redis"):
        pass  # the lock is free again


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / ("x" * 120)) as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()
        assert server.socket.parent.stat().st_mode & 0o777 == 0o700


def test_the_server_dies_with_its_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not alive(server), 60, f"process {server} is still there")


def test_nobody_gets_in_without_the_password(data_dir: Path) -> None:
    """Attack: a program with access to the socket, but not to the file, asks for a job."""
    with EmbeddedRedis(data_dir / "redis") as server:
        assert server.process is not None
        for url in (f"unix://{server.socket}", f"unix://:guess@{server.socket}"):
            with redis.Redis.from_url(url) as stranger, pytest.raises(redis.AuthenticationError):
                stranger.rpush("rq:queue:skipvsr-normal", "hostile")
        secret = redis.connection.parse_url(server.url)["password"]
        assert len(secret) == 64
        for name in ("password", "redis.conf"):
            assert (data_dir / "redis" / name).stat().st_mode & 0o777 == 0o600
        assert secret.encode() not in Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
    with EmbeddedRedis(data_dir / "redis") as again:
        assert again.url == server.url
    with EmbeddedRedis(data_dir / "other") as other:
        assert secret not in other.url


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    journal = tmp_path / "appendonlydir"
    journal.mkdir()
    (journal / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(CommandError, match=r"did not start: Invalid AOF manifest"), EmbeddedRedis(tmp_path):
        pass


def test_commands_find_the_running_server(data_dir: Path) -> None:
    settings = Settings(data_dir=data_dir)
    with pytest.raises(CommandError, match="no Redis: set SKIPVSR_REDIS_URL"):
        connected(settings)
    with EmbeddedRedis(data_dir / "redis") as server:
        assert connected(settings).redis_url == server.url
    assert connected(settings.model_copy(update={"redis_url": "redis://elsewhere"})).redis_url == "redis://elsewhere"
