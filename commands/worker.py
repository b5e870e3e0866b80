"""`skipvsr worker`: one worker in this process, or one process for each of several devices."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from commands.shared.command_line import WARNED, Command, read_settings

if TYPE_CHECKING:
    from commands.shared.devices import Device
    from jobs.settings import Settings


@click.command(cls=Command)
@click.option(
    "--devices",
    "wanted",
    metavar="LIST",
    help="A worker for each device: all, cpu, or numbers of GPUs such as 0,2 (default: a worker on SKIPVSR_DEVICE)",
)
def command(wanted: str | None) -> int:
    """Run a worker, or a worker for each device."""
    from commands.shared import logs
    from commands.shared.devices import devices
    from commands.shared.embedded_redis import connected
    from commands.shared.processes import prepare_server
    from jobs import tracing
    from worker.main import main as work

    settings = read_settings().model_copy(
        update={"api_key": None, "webhook_secret": None}
    )  # a worker answers no request
    if wanted is not None:
        return supervise(settings, devices(wanted))
    logs.set_up(settings)
    prepare_server()
    tracing.set_up(settings, "worker")
    settings = connected(settings)
    logs.name_data_folder(settings)
    return work(settings)


def supervise(settings: Settings, found: list[Device]) -> int:
    """Run a worker for each device until a signal. Raises CommandError if the workers cannot start."""
    from commands.shared.devices import worker_children
    from commands.shared.processes import prepare_server
    from commands.shared.supervisor import POLL_SECONDS, STOP_MARGIN_SECONDS, Interrupt, Supervisor, say

    prepare_server()
    interrupt = Interrupt()
    children = worker_children(found, settings.worker_metrics_port)
    supervisor = Supervisor(children, {**os.environ, WARNED: "1"}, settings.stop_grace_seconds + STOP_MARGIN_SECONDS)
    with interrupt.caught():
        try:
            while not interrupt.wait(POLL_SECONDS):
                supervisor.poll()
                supervisor.was_ready |= supervisor.steady
            say("stopping (^C again kills)")
        finally:
            supervisor.stop(interrupt)
    return 0
