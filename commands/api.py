"""`skipvsr api`: the HTTP API in this process."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import uvicorn

from commands.embedded_redis import connected
from commands.up import listen
from jobs.settings import Settings
from service.http.app import create_app

_STOP_SECONDS = 5
"""Time that open connections have to end (downloads, event streams) when the API is asked to."""


def run(settings: Settings, *, inherited: int | None = None) -> int:
    """Serve until a signal comes, on the settings' address or on a listening socket that the parent has opened."""
    with ExitStack() as stack:
        if inherited is None:
            listener = stack.enter_context(listen(settings.http_host, settings.http_port))
        else:
            listener = stack.enter_context(socket.socket(fileno=inherited))
        config = uvicorn.Config(
            create_app(connected(settings)),
            timeout_graceful_shutdown=_STOP_SECONDS,
            server_header=False,
            log_config=None,
            access_log=False,  # the service writes its own
        )
        server = uvicorn.Server(config)
        server.run(sockets=[listener])
        return 0 if server.started else 1
