"""`skipvsr api`: the HTTP API in this process."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from commands.shared.command_line import Command, option, read_settings

if TYPE_CHECKING:
    from jobs.settings import Settings


@click.command(cls=Command)
@option("--fd", type=int, metavar="N", help="File descriptor of a listening socket to serve on")
def command(fd: int | None) -> int:
    """Run the HTTP API."""
    from commands.shared import logs
    from jobs import tracing

    settings = read_settings()
    logs.set_up(settings)
    tracing.set_up(settings, "api")
    return run(settings, inherited=fd)


def run(settings: Settings, *, inherited: int | None = None) -> int:
    """Serve until a stop signal, on the settings' address or on the listening socket `inherited`.

    Raises CommandError.
    """
    import uvicorn

    from commands.shared import logs
    from commands.shared.addresses import listen, warn_if_open
    from commands.shared.embedded_redis import connected
    from commands.shared.processes import prepare_server
    from service.http.app import create_app
    from service.http.connections import server_config

    settings = connected(settings)
    logs.name_data_folder(settings)
    prepare_server()
    warn_if_open(settings, settings.http_host, "the API")

    with ExitStack() as stack:
        if inherited is None:
            listener = stack.enter_context(listen(settings.http_host, settings.http_port))
        else:
            listener = stack.enter_context(socket.socket(fileno=inherited))
        server = uvicorn.Server(server_config(create_app(settings), settings))
        server.run(sockets=[listener])
        return 0 if server.started else 1
