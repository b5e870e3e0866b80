"""A real S3 server process (moto), and a proxy that cuts or slows the way to the server."""

from __future__ import annotations

import signal
import socket
import ssl
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
from tests.support.certificates import Certificate
from tests.support.ports import free_port
from tests.support.processes import wait_until

BUCKET = "videos"


PROGRAM = Path(__file__).with_name("versitygw")
_ANY_CERTIFICATE = ssl._create_unverified_context()


class S3Server:
    """A server, which keeps its objects over a kill.

    Args:
        folder: folder of the server's files.
        tls: certificate of the server; without one, the server speaks plain HTTP.
    """

    def __init__(self, folder: Path, tls: Certificate | None = None) -> None:
        self._folder, self._tls = folder, tls
        self.port = free_port()
        self.start()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server, with the objects of the last run."""
        self._folder.mkdir(parents=True, exist_ok=True)
        log = self._folder / "log"
        secure = ["--cert", str(self._tls.cert), "--key", str(self._tls.key)] if self._tls else []
        where = ["--port", f"127.0.0.1:{self.port}", "--health", "/health", "posix", str(self._folder)]
        with log.open("ab") as file:
            self._process = subprocess.Popen([sys.executable, PROGRAM, *secure, *where], stdout=file, stderr=file)
        wait_until(lambda: self._answers() or self._process.poll() is not None, 60, "the S3 server did not start")
        assert self._process.poll() is None, log.read_text()

    def kill(self) -> None:
        """Kill the server."""
        self._process.kill()
        self._process.wait(60)

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
                "s3_endpoint": self.url.replace(str(self.port), str(port or self.port)),
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
            request = urllib.request.Request(f"{self.url}/{path}", method=method)
            urllib.request.urlopen(request, timeout=60, context=_ANY_CERTIFICATE).read()

    def requests(self) -> list[str]:
        """Method and path of each request so far."""
        lines = (self._folder / "log").read_text().splitlines()
        return [f"{line.split()[5][1:]} {line.split()[6]}" for line in lines if " HTTP/1.1" in line]

    def _answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=1, context=_ANY_CERTIFICATE):
            return True
        return False


@contextmanager
def s3_server(folder: Path, tls: Certificate | None = None) -> Iterator[S3Server]:
    """Run a server."""
    server = S3Server(folder, tls)
    try:
        yield server
    finally:
        server.kill()


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
