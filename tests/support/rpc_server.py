"""The gRPC server in its own process, and frames for its streams."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from model.engine.loading import load_model
from model.engine.upscaler import Upscaler, groups
from skipvsr_client.live import StreamClient
from tests.support.paths import ROOT
from tests.support.processes import wait_until


class RpcServer:
    """A running `skipvsr grpc`."""

    def __init__(
        self, folder: Path, redis_url: str, command: tuple[str, ...] = ("-m", "cli", "grpc"), **settings: str
    ) -> None:
        self.data_dir = folder / "data"
        self._log = folder / "grpc.log"
        env = {name: value for name, value in os.environ.items() if not name.startswith("SKIPVSR_")} | {
            "SKIPVSR_DATA_DIR": str(self.data_dir),
            "SKIPVSR_REDIS_URL": redis_url,
            "SKIPVSR_GRPC_PORT": "0",
            "SKIPVSR_MODEL": "tiny",
            "SKIPVSR_DEVICE": "cpu",
            "SKIPVSR_PRECISION": "fp32",
            "SKIPVSR_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            **settings,
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", *command], stdout=log, stderr=log, env=env, cwd=folder
            )
        wait_until(lambda: "is ready" in self.log or self.process.poll() is not None, 60, f"not ready: {self.log}")
        match = re.search(r"is ready: (\S+) ", self.log)
        assert match, self.log
        self.address = match[1]

    @property
    def log(self) -> str:
        """Output so far."""
        return self._log.read_text()

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def memory(self) -> int:
        """Return the resident memory in bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def files(self) -> int:
        """Return the number of open file descriptors."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def client(self, **options: object) -> StreamClient:
        return StreamClient(self.address, **options)  # type: ignore[arg-type]

    def stop(self, number: signal.Signals = signal.SIGKILL) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def rpc_server(
    folder: Path, redis_url: str, command: tuple[str, ...] = ("-m", "cli", "grpc"), **settings: str
) -> Iterator[RpcServer]:
    """Run a server during the block, and kill it at the end."""
    folder.mkdir(exist_ok=True)
    server = RpcServer(folder, redis_url, command, **settings)
    try:
        yield server
    finally:
        server.stop()


class Proxy:
    """A TCP proxy whose connections can fail. `cut` closes all connections; new ones work again.

    `silence` leaves the current connections open but passes no more bytes, like a pulled cable.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._silent: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def silence(self) -> None:
        self._silent.update(self._open)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self._threads:
            thread.join(60)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = socket.create_connection(("127.0.0.1", self._target))
                self._open += [here, there]
                for source, target in ((here, there), (there, here)):
                    thread = threading.Thread(target=self._pump, args=(source, target), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source not in self._silent:
                    target.sendall(data)
        for end in () if source in self._silent else (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()


def noise(count: int, *, width: int = 32, height: int = 24, seed: int = 0) -> list[np.ndarray]:
    """Return frames [H, W, 3] of random pixels, in which every mistake in order or layout shows."""
    random = np.random.default_rng(seed)
    return list(random.integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def tiny() -> Upscaler:
    """Load the same network as the server."""
    return load_model("tiny", weights_dir=Path("none"), device="cpu", precision="fp32", threads=1)


def expected(
    model: Upscaler, frames: list[np.ndarray], *, chunk: int = 1, lookahead: int = 0, routing: str = "off"
) -> list[np.ndarray]:
    """Upscale frames like `skipvsr upscale`."""
    state, out = None, []
    for group, last in groups(frames, chunk, lookahead):
        result = model.forward(np.stack(group), state, lookahead=lookahead, last=last, routing=routing)
        state = result.state
        out += list(result.frames)
    return out


def details(error: grpc.RpcError) -> dict[str, Message]:
    """Return the rich details of a status, by type name."""
    trailing = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    assert status.message == error.details()
    assert status.code == error.code().value[0]
    known = {"ErrorInfo", "BadRequest", "RetryInfo"}
    found = {}
    for packed in status.details:
        name = packed.TypeName().removeprefix("google.rpc.")
        assert name in known
        message = getattr(error_details_pb2, name)()
        assert packed.Unpack(message)
        found[name] = message
    return found
