"""Commands that change jobs on a server: one operation on each job named."""

from __future__ import annotations

import sys

import click

from commands.shared.command_line import Command
from commands.shared.errors import CommandError
from commands.shared.service import JobId, activity_of, connected, server_options


def operation(name: str, summary: str) -> click.Command:
    """The command `skipvsr NAME JOB...`, whose help is `summary`."""

    @click.command(cls=Command, name=name, help=summary)
    @click.argument(
        "jobs", type=JobId(), nargs=-1, required=True, metavar="JOB...", help="Ids, or the first characters"
    )
    @server_options
    def command(jobs: tuple[str, ...], server: str | None, api_key: str | None) -> int:
        status = 0
        with connected(server, api_key) as service:
            for beginning in jobs:
                try:
                    job = service.change(service.find(beginning), name)
                except CommandError as error:
                    print(f"skipvsr: {beginning}: {error}", file=sys.stderr)
                    status = 1
                else:
                    print(f"{job['id']}  {activity_of(job)}  {job['filename']}")
        return status

    return command
