"""`skipvsr up` as a process: ready, at work, stopped without a trace, and restarts of dead children."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import alive, children, kill_tree, wait_until


class Up:
    """A running `skipvsr up`; `said` is its output so far."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.log = data_dir / "up.log"
        env = {name: value for name, value in os.environ.items() if not name.startswith("SKIPVSR_")} | {
            "SKIPVSR_DATA_DIR": str(data_dir),
            "SKIPVSR_HTTP_PORT": "0",
            "SKIPVSR_GRPC_PORT": "0",
            "SKIPVSR_MODEL": "tiny",
            "SKIPVSR_DEVICE": "cpu",
            "SKIPVSR_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            **settings,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "cli", "up"], stdout=log, stderr=log, env=env, cwd=data_dir
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def url(self) -> str:
        match = re.search(r"SkipVSR is ready: (http://\S+) ", self.said)
        assert match, self.said
        return match[1]

    def wait_for(self, text: str, seconds: float = 150) -> None:
        wait_until(
            lambda: text in self.said or self.process.poll() is not None, seconds, f"{text!r} was not said: {self.said}"
        )
        assert text in self.said, self.said

    def get(self, path: str) -> dict[str, object]:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            document = json.load(answer)
        assert isinstance(document, dict)
        return document

    def child(self, name: str) -> int:
        """Process id of the child with `name` in its command line."""
        found = [pid for pid in children(self.process.pid) if name in _command_line(pid)]
        assert len(found) == 1, [_command_line(pid) for pid in children(self.process.pid)]
        return found[0]


def _command_line(pid: int) -> str:
    """Command line of a process; empty if the process has just ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@contextmanager
def running(data_dir: Path) -> Iterator[Up]:
    """A service that is ready. No process is left after the block."""
    service = Up(data_dir)
    try:
        service.wait_for("SkipVSR is ready")
        yield service
    finally:
        tree = [service.process.pid, *children(service.process.pid)]
        service.process.terminate()
        try:
            service.process.wait(60)
            wait_until(lambda: not any(alive(pid) for pid in tree), 60, "processes were left")
        except BaseException:
            kill_tree(*tree)
            raise


@pytest.fixture
def up(data_dir: Path) -> Iterator[Up]:
    """A service for one test."""
    with running(data_dir) as service:
        yield service


def test_a_life(up: Up, tmp_path: Path) -> None:
    """A used port gives one line, a dead worker restarts, the printed command works, ^C leaves no process."""
    (tmp_path / "second").mkdir()
    port = up.url.rpartition(":")[2]
    second = Up(tmp_path / "second", SKIPVSR_HTTP_PORT=port)
    assert second.process.wait(60) == 1
    assert second.said == (f"skipvsr: port {port} is in use; stop the program on this port, or set SKIPVSR_HTTP_PORT\n")

    os.kill(up.child("cli worker"), signal.SIGKILL)
    up.wait_for("the worker was ended by SIGKILL; restarting in 1 s")
    wait_until(lambda: any("cli worker" in _command_line(pid) for pid in children(up.process.pid)), 60, up.said)

    line = next(line for line in up.said.splitlines() if line.startswith("  curl"))
    done = subprocess.run([*shlex.split(line), "--silent"], capture_output=True, text=True, check=True)
    job = json.loads(done.stdout)
    wait_until(lambda: up.get(f"/jobs/{job['id']}")["state"] == "done", 120, up.said)

    tree = [up.process.pid, *children(up.process.pid)]
    assert len(tree) >= 5
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0
    assert not any(alive(pid) for pid in tree)
    assert "Traceback" not in up.said
    assert "Redis does not answer" not in up.said, "Redis was stopped before the worker"


def test_dead_processes_return_and_a_killed_service_leaves_none(up: Up) -> None:
    """A video may kill three workers in a row before its job fails (SKIPVSR_MAX_DEATHS)."""
    modes = {name: (up.log.parent / name).stat().st_mode & 0o777 for name in ("jobs", "uploads", "redis")}
    assert modes == dict.fromkeys(modes, 0o700), "data folders are private"
    os.kill(up.child("cli api"), signal.SIGKILL)
    up.wait_for("the API was ended by SIGKILL; restarting in 1 s")
    assert up.get("/healthz"), "the API has the same port"
    for seconds in (1, 2, 4):
        wait_until(lambda: any("cli worker" in _command_line(pid) for pid in children(up.process.pid)), 60, up.said)
        os.kill(up.child("cli worker"), signal.SIGKILL)
        up.wait_for(f"the worker was ended by SIGKILL; restarting in {seconds} s")
    assert up.get("/healthz")

    tree = children(up.process.pid)
    up.process.kill()
    up.process.wait(60)
    wait_until(lambda: not any(alive(pid) for pid in tree), 60, up.said)


@pytest.mark.parametrize(("child", "name"), [("redis-server", "embedded Redis")])
def test_the_service_ends_with_redis(up: Up, child: str, name: str) -> None:
    tree = [up.process.pid, *children(up.process.pid)]
    os.kill(up.child(child), signal.SIGKILL)
    assert up.process.wait(60) == 1
    assert up.said.splitlines()[-1] == f"skipvsr: the {name} was ended by SIGKILL; stopping"
    assert not any(alive(pid) for pid in tree)


@pytest.mark.slow
def test_a_worker_that_cannot_start_is_given_up(data_dir: Path) -> None:
    service = Up(data_dir, SKIPVSR_MODEL="nonsense")
    assert service.process.wait(240) == 1
    assert "unknown model 'nonsense'" in service.said
    assert re.search(r"skipvsr: the (worker|gRPC server) ended with status 1, 3 times in a row; stopping", service.said)
