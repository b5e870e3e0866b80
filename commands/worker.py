"""`skipvsr worker`: one worker in this process."""

from __future__ import annotations

import click

from commands.shared.command_line import Command, read_settings


@click.command(cls=Command)
def command() -> int:
    """Run one worker."""
    from commands.shared import logs
    from commands.shared.embedded_redis import connected
    from commands.shared.processes import prepare_server
    from jobs import tracing
    from worker.main import main as work

    settings = read_settings().model_copy(
        update={"api_key": None, "webhook_secret": None}
    )  # a worker answers no request
    logs.set_up(settings)
    prepare_server()
    tracing.set_up(settings, "worker")
    settings = connected(settings)
    logs.name_data_folder(settings)
    return work(settings)
