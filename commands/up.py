"""`skipvsr up`: start and stop API, gRPC server, workers and embedded Redis as a single process tree."""

from __future__ import annotations

import os
import shlex
import time
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from commands.shared.command_line import WARNED, Command, read_settings

if TYPE_CHECKING:
    from commands.shared.devices import Device
    from commands.shared.embedded_redis import EmbeddedRedis
    from commands.shared.supervisor import Child
    from jobs.settings import Settings

EXAMPLE: Final = Path(__file__).parents[1] / "examples" / "clip.mp4"
_REPORT_SECONDS: Final = 30.0
"""Between reports before the service is ready."""


@click.command(cls=Command)
def command() -> int:
    """Start API, gRPC server, a worker for each GPU, and Redis; ^C stops."""
    return run(read_settings())


def run(settings: Settings) -> int:
    """Run the service until a signal. Raises CommandError if the service cannot start or cannot continue."""
    from commands.shared.addresses import address, listen
    from commands.shared.devices import devices
    from commands.shared.embedded_redis import EmbeddedRedis, folder_of
    from commands.shared.logs import NAMED
    from commands.shared.processes import prepare_server
    from commands.shared.supervisor import POLL_SECONDS, STOP_MARGIN_SECONDS, Interrupt, Supervisor, say

    prepare_server()
    interrupt = Interrupt()
    with ExitStack() as stack:
        stack.enter_context(interrupt.caught())
        listener = stack.enter_context(listen(settings.http_host, settings.http_port))
        url = f"http://{address(settings.http_host, listener.getsockname()[1])}"
        env = {**os.environ, "SKIPVSR_DATA_DIR": str(settings.data_dir.absolute()), WARNED: "1", NAMED: "1"}
        say(f"data folder: {env['SKIPVSR_DATA_DIR']}")
        grpc = find_spec("grpc") is not None
        if grpc:
            with listen(settings.grpc_host, settings.grpc_port, setting="SKIPVSR_GRPC"):
                pass  # fail before the first child starts
        redis = None
        if not settings.redis_url:
            # The children find the server and its password in the data folder, not in their environment.
            redis = stack.enter_context(EmbeddedRedis(folder_of(settings)))
        found = devices("all") if settings.device == "auto" else None  # a device in the settings gets one worker
        children = _children(listener.fileno(), redis, found, metrics_port=settings.worker_metrics_port, grpc=grpc)
        supervisor = Supervisor(children, env, settings.stop_grace_seconds + STOP_MARGIN_SECONDS)
        stack.callback(supervisor.stop, interrupt)
        ready = Readiness(url, settings)
        while not interrupt.wait(POLL_SECONDS):
            supervisor.poll()
            supervisor.was_ready = ready.check()
        say("stopping (^C again kills)")
    return 0


def _children(
    listener: int, redis: EmbeddedRedis | None, found: list[Device] | None, *, metrics_port: int, grpc: bool
) -> list[Child]:
    from commands.shared.devices import SKIPVSR, Device, worker_children
    from commands.shared.supervisor import Child

    children = [
        Child("API", [*SKIPVSR, "api", "--fd", str(listener)], fds=[listener], restart=True),
        *worker_children(found or [Device("", {})], metrics_port),
    ]
    if grpc:
        children.append(Child("gRPC server", [*SKIPVSR, "grpc"], restart=True))
    if redis is not None:
        children.append(Child("embedded Redis", [], process=redis.process, owned=False))
    return children


class Readiness:
    """Asks the API whether the service is ready, and prints the greeting, or every half minute the reason."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._url = url
        self._settings = settings
        self._ready = False
        self._next_report = time.monotonic() + _REPORT_SECONDS

    def check(self) -> bool:
        """Ask the API until the service is ready. Returns whether the service was ever ready."""
        from commands.shared.supervisor import say
        from service.api_key import ApiKeys

        if self._ready:
            return True
        reason = self._reason()
        if not reason:
            self._ready = True
            say(greeting(self._url, needs_key=ApiKeys(self._settings).required))
        elif time.monotonic() > self._next_report:
            self._next_report += _REPORT_SECONDS
            say(f"not ready yet: {reason}")
        return self._ready

    def _reason(self) -> str:
        import httpx

        try:
            answer = httpx.get(f"{self._url}/readyz", timeout=2, trust_env=False)
        except httpx.HTTPError as error:
            return f"the API does not answer ({error})"
        return "" if answer.status_code == httpx.codes.OK else answer.text


def greeting(url: str, *, needs_key: bool) -> str:
    """The message of a ready service, with a command to paste."""
    video = shlex.quote(str(EXAMPLE if EXAMPLE.is_file() else "video.mp4"))
    key = '-H "X-API-Key: $SKIPVSR_API_KEY" ' if needs_key else ""
    return (
        f"SkipVSR is ready: {url} (page), {url}/docs (API)\n\n"
        f"  curl {key}-F file=@{video} {url}/upscale\n\n"
        "^C stops the service."
    )
