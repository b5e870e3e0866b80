"""Ports for servers that start later."""

from __future__ import annotations

import socket
from contextlib import suppress
from random import SystemRandom


def free_port() -> int:
    """A port that nobody uses. Linux gives programs that ask for any port, and clients, only ports from 32768 on."""
    while True:
        port = SystemRandom().randint(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
