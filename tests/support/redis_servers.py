"""Redis as people run it: a server and its replica with a Sentinel, and a server behind TLS."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from redis import Redis

from commands.shared.embedded_redis import redis_binary
from tests.support.certificates import Certificate
from tests.support.ports import free_port
from tests.support.processes import wait_until


@contextmanager
def server(folder: Path, *options: str, port: int = 0) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A Redis server on a port of 127.0.0.1; yields port and process."""
    folder.mkdir(parents=True)
    port = port or free_port()
    command = [redis_binary(), *options, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    log = (folder / "log").open("wb")
    process = subprocess.Popen([*command, "--daemonize", "no"], stdout=log, stderr=log)
    try:
        wait_until(lambda: answers(port), 60, (folder / "log").read_text())
        yield port, process
    finally:
        process.kill()
        process.wait(60)
        log.close()


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 60) as connection:
        connection.sendall(b"PING\r\n")
        return bool(connection.recv(64))
    return False


@contextmanager
def failover(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server with a replica and a Sentinel; yields their URL, and the server's process to kill."""
    durable = ("--appendonly", "yes", "--save", "", "--repl-diskless-sync-delay", "0")
    with (
        server(folder / "first", *durable) as (first, process),
        server(folder / "second", *durable, "--replicaof", f"127.0.0.1 {first}") as (second, _),
    ):
        config = folder / "sentinel.conf"
        config.write_text(
            f"sentinel monitor main 127.0.0.1 {first} 1\n"
            "sentinel down-after-milliseconds main 1500\n"
            "sentinel failover-timeout main 3000\n"
        )
        with server(folder / "sentinel", str(config), "--sentinel") as (watch, _), Redis(port=watch) as sentinel:
            with Redis(port=second) as replica:
                wait_until(lambda: replica.info("replication")["master_link_status"] == "up", 60, "no replica")
            wait_until(lambda: len(sentinel.sentinel_slaves("main")) == 1, 60, "the Sentinel sees no replica")
            yield f"redis+sentinel://127.0.0.1:{watch}/main", process


@contextmanager
def behind_tls(port: int, own: Certificate, ca: Path) -> Iterator[int]:
    """A TLS port before a server's plain one; clients must present a certificate of the CA."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ca))
    context.load_cert_chain(own.cert, own.key)
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, context, port), daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with suppress(OSError):
        while True:
            plain, _ = listener.accept()
            threading.Thread(target=_serve, args=(plain, context, port), daemon=True).start()


def _serve(plain: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with (
        suppress(OSError),
        context.wrap_socket(plain, server_side=True) as secure,
        socket.create_connection(("127.0.0.1", port)) as inner,
    ):
        back = threading.Thread(target=_copy, args=(inner, secure), daemon=True)
        back.start()
        _copy(secure, inner)
        back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
