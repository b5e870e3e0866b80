"""`skipvsr api` as a process, with its memory, for tests that attack the API over sockets."""

from __future__ import annotations

import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from jobs.settings import Settings
from tests.support.processes import wait_until


@dataclass
class Api:
    """A running API."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self, timeout: float = 60) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def cpu_seconds(self) -> float:
        """CPU time of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def start_peak(self) -> int:
        """Start a new measurement of peak memory. Returns the memory now in MB."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.peak()

    def peak(self) -> int:
        """Peak memory in MB since the last `start_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) // 1024

    def files(self) -> int:
        """Limit of open files of the process."""
        limits = Path(f"/proc/{self.process.pid}/limits").read_text()
        return int(re.findall(r"Max open files\s+(\d+)", limits)[0])

    def status(self) -> int:
        return httpx.get(f"{self.url}/healthz", timeout=60).status_code


@contextmanager
def api(settings: Settings, *, files: tuple[int, int] | None = None, **more: str) -> Iterator[Api]:
    """Run the API on a free port during the block. `files`: soft and hard limit of its open files."""
    log = settings.data_dir.parent / "api.log"
    env = {name: value for name, value in os.environ.items() if not name.startswith("SKIPVSR_")}
    env |= {"SKIPVSR_REDIS_URL": str(settings.redis_url), "SKIPVSR_DATA_DIR": str(settings.data_dir)}
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener, log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cli", "api", "--fd", str(listener.fileno())],
            env=env | {f"SKIPVSR_{name.upper()}": value for name, value in more.items()},
            pass_fds=[listener.fileno()],
            stdout=output,
            stderr=output,
            preexec_fn=_limited(files),
            cwd=settings.data_dir,
        )
        running = Api(process, listener.getsockname()[1], log)
    try:
        wait_until(lambda: _answers(running), 60, f"the API did not start: {log.read_text()}")
        yield running
    finally:
        process.terminate()
        process.wait(60)


def _limited(files: tuple[int, int] | None) -> Callable[[], None] | None:
    return None if files is None else lambda: resource.setrlimit(resource.RLIMIT_NOFILE, files)


def _answers(running: Api) -> bool:
    assert running.process.poll() is None, running.log.read_text()
    try:
        return running.status() == 200
    except httpx.HTTPError:
        return False
