"""Addresses of this machine's servers: listen addresses of servers, and the addresses for clients."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING

from commands.shared.errors import CommandError

if TYPE_CHECKING:
    from jobs.settings import Settings

log = logging.getLogger(__name__)


def address(host: str, port: int) -> str:
    """`host:port` of a server that listens on `host`, for a client on the same machine."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (compared, not bound)
    return f"[{here}]:{port}" if ":" in here else f"{here}:{port}"


def warn_if_open(settings: Settings, host: str, server: str) -> None:
    """Log a warning if a server without an API key listens beyond this machine."""
    if is_open(settings, host):
        log.warning(
            "%s listens on %s without SKIPVSR_API_KEY, and `skipvsr keys` lists no key: whoever reaches the port can "
            "use the server",
            server,
            host,
        )


def is_open(settings: Settings, host: str) -> bool:
    """Whether a server on `host` listens beyond this machine and needs no API key."""
    from service.api_key import ApiKeys

    return host != "localhost" and not _is_loopback(host) and not ApiKeys(settings).required


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


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
            reason = f"port {port} is in use; stop the program on this port, or set {setting}_PORT"
        else:
            reason = f"cannot listen on {host} port {port}: {error.strerror}"
        raise CommandError(reason) from None
    with listener:
        yield listener
