"""A real S3 server process (moto), and a proxy that cuts or slows the way to the server."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import SecretStr

from jobs.settings import Settings
from tests.support.processes import wait_until

BUCKET = "videos"


class S3Server:
    """A running server."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port, self._process = port, process

    @contextmanager
    def silent(self) -> Iterator[None]:
        """During the block, the server takes connections and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def settings(self, settings: Settings, data_dir: Path, port: int | None = None) -> Settings:
        """Settings of a machine with this data folder."""
        return settings.model_copy(
            update={
                "data_dir": data_dir,
                "storage": f"s3://{BUCKET}/some/place",
                "s3_endpoint": f"http://127.0.0.1:{port or self.port}",
                "s3_region": "us-east-1",
                "s3_access_key_id": "someone",
                "s3_secret_access_key": SecretStr("something"),
                "s3_retry_seconds": 1.0,
                "min_free_gb": 0.0,
            }
        )

    def empty(self) -> None:
        """Start with an empty bucket."""
        for method, path in (("POST", "moto-api/reset"), ("PUT", BUCKET)):
            request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", method=method)
            urllib.request.urlopen(request, timeout=10).read()


@contextmanager
def s3_server(log: Path) -> Iterator[S3Server]:
    """Run a server."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=file, stderr=file
        )
    try:
        wait_until(lambda: _answers(port) or process.poll() is not None, 60, "the S3 server did not start")
        assert process.poll() is None, log.read_text()
        yield S3Server(port, process)
    finally:
        process.kill()
        process.wait(10)


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Proxy:
    """A way to a server that can be cut and mended."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._down = threading.Event()
        self.refused = 0
        """Number of connections while the way was cut."""
        self.delay = 0.0
        """Seconds that each packet takes."""
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset all connections, also new ones."""
        self._down.set()
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let connections through again."""
        self._down.clear()

    def close(self) -> None:
        """End the proxy."""
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._down.is_set():
                    self.refused += 1
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._target))
                for ends in ((client, server), (server, client)):
                    self._open.add(ends[0])
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                time.sleep(self.delay)
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open.discard(source)
        source.close()


@contextmanager
def proxy(target: int) -> Iterator[Proxy]:
    """Run a proxy."""
    running = Proxy(target)
    try:
        yield running
    finally:
        running.close()
