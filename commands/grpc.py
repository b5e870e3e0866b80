"""`skipvsr grpc`: the gRPC server in this process."""

from __future__ import annotations

from functools import partial

import click

from commands.shared.command_line import Command, read_settings


@click.command(cls=Command)
def command() -> int:
    """Run the gRPC server."""
    from commands.shared import logs
    from commands.shared.addresses import warn_if_open
    from commands.shared.embedded_redis import connected
    from commands.shared.processes import prepare_server
    from service.rpc.server import run as serve

    settings = read_settings()
    logs.set_up(settings)
    settings = connected(settings)
    logs.name_data_folder(settings)
    prepare_server()
    warn_if_open(settings, settings.grpc_host, "the gRPC server")
    return serve(settings, say=partial(print, flush=True))
