"""`skipvsr up`: API, gRPC server, worker and, where none is set, Redis, as one process tree that starts and stops."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

import httpx

from commands.addresses import address
from commands.embedded_redis import EmbeddedRedis, folder_of
from commands.errors import CommandError
from commands.processes import spawn, stop
from jobs.settings import Settings

EXAMPLE = Path(__file__).parents[1] / "examples" / "clip.mp4"
_POLL_SECONDS = 0.2
_STEADY_SECONDS = 60.0
"""A child that has run for so long before it ended was not broken from the start: its count of failures begins anew."""
_MOST_FAILURES = 3
"""So many in a row, before the service has been ready, and it can't be."""
_LONGEST_DELAY_SECONDS = 60.0
_STOP_MARGIN_SECONDS = 5.0
"""Beyond the time that the worker gives itself to put its work down."""


@dataclass
class Child:
    """A process that belongs to the service."""

    name: str
    argv: Sequence[str]
    fds: Sequence[int] = ()
    restart: bool = False
    """Start it again when it ends; else its end is the end of all."""
    ours: bool = True
    """Started and stopped here; else only watched."""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    due: float = field(default=0.0, repr=False)
    """When it is to be started (again), by the monotonic clock."""


class Interrupt:
    """Counts SIGINT and SIGTERM: the first asks for an orderly end, another for an immediate one."""

    def __init__(self) -> None:
        self.count = 0
        self._event = threading.Event()

    def wait(self, seconds: float) -> bool:
        """Sleep, at most until the first signal. Returns whether there was one."""
        return self._event.wait(seconds)

    @contextmanager
    def caught(self) -> Iterator[None]:
        """While this lasts, the signals are counted and have no other effect."""
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self._event.set()


class Supervisor:
    """Starts children, watches them, starts some again, and ends all of them."""

    def __init__(self, children: Sequence[Child], env: dict[str, str], stop_seconds: float) -> None:
        self.children = children
        self._env = env
        self._stop_seconds = stop_seconds
        self.was_ready = False
        """From then on what ends is started again, however often: jobs, not the installation, are what it dies of."""

    def poll(self) -> None:
        """Start what is due and look after what has ended. Raises CommandError when it cannot go on."""
        now = time.monotonic()
        for child in self.children:
            if child.process is None:
                if child.due <= now:
                    child.process = spawn(child.argv, env=self._env, pass_fds=child.fds)
                    child.started = now
            elif (status := child.process.poll()) is not None:
                stop(child.process, 0)  # with what it may have left in its process group
                child.process = None
                self._ended(child, _outcome(status), now)

    def stop(self, interrupt: Interrupt) -> None:
        """End the children that were started here: asked together, waited for, then killed."""
        running = [child.process for child in self.children if child.ours and child.process is not None]
        for process in running:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + self._stop_seconds
        while any(process.poll() is None for process in running):
            if interrupt.count > 1 or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        for process in running:
            stop(process, 0)

    def _ended(self, child: Child, outcome: str, now: float) -> None:
        if not child.restart:
            raise CommandError(f"the {child.name} {outcome}; stopping")
        if now - child.started > _STEADY_SECONDS:
            child.failures = 0
        child.failures += 1
        if child.failures >= _MOST_FAILURES and not self.was_ready:
            raise CommandError(f"the {child.name} {outcome}, {child.failures} times in a row; stopping")
        delay = min(2.0 ** (child.failures - 1), _LONGEST_DELAY_SECONDS)
        child.due = now + delay
        say(f"the {child.name} {outcome}; starting it again in {delay:.0f} s")


def run(settings: Settings) -> int:
    """Run the service until a signal comes. Raises CommandError if it can't start or can't go on."""
    interrupt = Interrupt()
    with ExitStack() as stack:
        stack.enter_context(interrupt.caught())
        listener = stack.enter_context(listen(settings.http_host, settings.http_port))
        url = f"http://{address(settings.http_host, listener.getsockname()[1])}"
        env = {**os.environ, "SKIPVSR_DATA_DIR": str(settings.data_dir.absolute())}
        grpc = find_spec("grpc") is not None
        if grpc:
            with listen(settings.grpc_host, settings.grpc_port, what="SKIPVSR_GRPC"):
                pass  # free; known before anything is started
        redis = None
        if not settings.redis_url:
            redis = stack.enter_context(EmbeddedRedis(folder_of(settings)))
            env["SKIPVSR_REDIS_URL"] = redis.url
        children = _children(listener.fileno(), redis, grpc=grpc)
        supervisor = Supervisor(children, env, settings.stop_grace_seconds + _STOP_MARGIN_SECONDS)
        stack.callback(supervisor.stop, interrupt)
        ready = Readiness(url, settings)
        while not interrupt.wait(_POLL_SECONDS):
            supervisor.poll()
            supervisor.was_ready = ready.check()
        say("stopping (^C again: at once)")
    return 0


def _children(listener: int, redis: EmbeddedRedis | None, *, grpc: bool) -> list[Child]:
    # -P: a folder named like one of our packages, where the user happens to be, is not taken for it
    skipvsr = [sys.executable, "-P", "-m", "cli"]
    children = [
        Child("API", [*skipvsr, "api", "--fd", str(listener)], fds=[listener]),
        Child("worker", [*skipvsr, "worker"], restart=True),
    ]
    if grpc:
        children.append(Child("gRPC server", [*skipvsr, "grpc"], restart=True))
    if redis is not None:
        children.append(Child("embedded Redis", [], process=redis.process, ours=False))
    return children


class Readiness:
    """Asks the API whether all is up, and tells the user once it is, or every half minute why it isn't."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._url = url
        self._needs_key = settings.api_key is not None
        self._ready = False
        self._next_word = time.monotonic() + 30

    def check(self) -> bool:
        """Called again and again; does nothing any more once the service was ready. Returns whether it was."""
        if self._ready:
            return True
        reason = self._reason()
        if not reason:
            self._ready = True
            say(greeting(self._url, needs_key=self._needs_key))
        elif time.monotonic() > self._next_word:
            self._next_word += 30
            say(f"not ready yet: {reason}")
        return self._ready

    def _reason(self) -> str:
        try:
            answer = httpx.get(f"{self._url}/readyz", timeout=2, trust_env=False)
        except httpx.HTTPError as error:
            return f"the API does not answer ({error})"
        return "" if answer.status_code == httpx.codes.OK else answer.text


def greeting(url: str, *, needs_key: bool) -> str:
    """What is said when the service is ready, with a line to paste."""
    video = shlex.quote(str(EXAMPLE if EXAMPLE.is_file() else "video.mp4"))
    key = '-H "X-API-Key: $SKIPVSR_API_KEY" ' if needs_key else ""
    return (
        f"SkipVSR is ready: {url} (page), {url}/docs (API)\n\n"
        f"  curl {key}-F file=@{video} {url}/upscale\n\n"
        "^C stops it."
    )


@contextmanager
def listen(host: str, port: int, *, what: str = "SKIPVSR_HTTP") -> Iterator[socket.socket]:
    """A listening TCP socket; port 0: any free one. Raises CommandError where that can't be; `what` begins the names of
    the settings to change.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=512)
    except OSError as error:
        if isinstance(error, socket.gaierror):
            reason = f"{host!r} is no address of this machine ({what}_HOST)"
        elif error.errno == errno.EADDRINUSE:
            reason = f"port {port} is in use; stop what listens there, or choose another with {what}_PORT"
        else:
            reason = f"cannot listen on {host} port {port}: {error.strerror}"
        raise CommandError(reason) from None
    with listener:
        yield listener


def say(text: str) -> None:
    """Tell whoever started the service."""
    print(text, flush=True)


def _outcome(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
