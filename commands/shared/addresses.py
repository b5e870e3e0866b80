"""Addresses of this machine's servers: where a server listens, and where a client finds it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from commands.shared.errors import CommandError


def address(host: str, port: int) -> str:
    """`host:port` of a server that listens on `host`, for a client on the same machine."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (compared, not bound)
    return f"[{here}]:{port}" if ":" in here else f"{here}:{port}"


@contextmanager
def listen(host: str, port: int, *, setting: str = "SKIPVSR_HTTP") -> Iterator[socket.socket]:
    """A listening TCP socket; port 0 means any free port.

    Raises CommandError if the address is taken or unknown; `setting` begins the names of the settings to change.
    """
    try:
        family, _, _, _, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(found[:2], family=family, backlog=512)
    except OSError as error:
        if isinstance(error, socket.gaierror):
            reason = f"{host!r} is not an address of this machine ({setting}_HOST)"
        elif error.errno == errno.EADDRINUSE:
            reason = f"port {port} is in use; stop the program that listens there, or set {setting}_PORT"
        else:
            reason = f"cannot listen on {host} port {port}: {error.strerror}"
        raise CommandError(reason) from None
    with listener:
        yield listener
