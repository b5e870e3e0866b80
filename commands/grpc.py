"""`skipvsr grpc`: the gRPC server in this process."""

from __future__ import annotations

from functools import partial

import click

from commands.shared.command_line import Command, read_settings


@click.command(cls=Command)
def command() -> int:
    """Run the gRPC server."""
    from commands.shared import logs
    from commands.shared.embedded_redis import connected
    from commands.shared.processes import allow_many_files
    from service.rpc.server import run as serve

    settings = read_settings()
    logs.set_up(settings)
    allow_many_files()
    return serve(connected(settings), say=partial(print, flush=True))
