"""Starting the child process, waiting for its messages, and surviving its crashes."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from media import errors
from media.limits import Limits
from media.sandbox.protocol import Envelope, Failed, InvalidMessage, Message, MuxRequest, Request, from_line

_CHILD: Final = ("-m", "media.jailed.child")
"""Arguments of Python for the child process."""
# No settings, keys or tokens: the child does not need them, and a compromised child must not have them.
_KEPT_ENVIRONMENT: Final = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
_LINE_LIMIT: Final = 16 * 2**20
"""Bytes."""
_ERRORS: Final = {
    kind.__name__: kind
    for kind in (
        errors.UnsupportedFile,
        errors.CorruptHeader,
        errors.UnusableVideo,
        errors.NoFrames,
        errors.HeaderElsewhere,
        errors.DecoderCrashed,
        errors.Unwritable,
        errors.FrameMissing,
        errors.MediaError,
    )
}
_INVALID: Final = "The decoder sent invalid data; the file is probably malicious or corrupt."


class Sandbox:
    """One child process that serves one request. A context manager that leaves no process behind.

    Args:
        request: the request.
        limits: bounds of memory, CPU time and waiting time.
        reads: the files that the child may read.
        writes: the only file that the child may write, too. The file must exist. None: no file.
        share: file descriptors that the child inherits.
    """

    def __init__(
        self,
        request: Request,
        limits: Limits,
        *,
        reads: tuple[Path, ...] = (),
        writes: Path | None = None,
        share: tuple[int, ...] = (),
    ) -> None:
        self._limits = limits
        self._activity = "Writing the result" if isinstance(request, MuxRequest) else "Reading the video"
        self.patience = limits.max_decoder_seconds
        """Seconds to wait for the next message."""
        self._buffer = b""
        self._process = subprocess.Popen(  # noqa: S603  # constant arguments
            [sys.executable, *_CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pass_fds=share,
            cwd=Path(__file__).parents[2],
            env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
            | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        data = pickle.dumps(Envelope(request, limits, reads, writes))
        self.send(len(data).to_bytes(8, "little") + data)

    def send(self, data: bytes | memoryview) -> None:
        """Write to the child. If the child is dead, `messages` raises the error.

        Raises DecoderCrashed if the child reads nothing for `patience` seconds.
        """
        assert self._process.stdin is not None
        descriptor, rest = self._process.stdin.fileno(), memoryview(data)
        with contextlib.suppress(BrokenPipeError):
            while rest:
                if not _ready(descriptor, select.POLLOUT, self.patience):
                    self.close()
                    raise self._too_slow()
                rest = rest[os.write(descriptor, rest) :]

    def messages(self) -> Iterator[Message]:
        """Yield the child's messages until the child ends.

        Raises:
            MediaError: reported by the child.
            DecoderCrashed: the child died, sent invalid data, or sent nothing for `patience` seconds.
            OSError: reported by the child, for example a full disk.
        """
        while (line := self._line()) is not None:
            try:
                message = from_line(line)
            except InvalidMessage as error:
                raise errors.DecoderCrashed(_INVALID) from error
            if isinstance(message, Failed):
                raise _exception(message)
            yield message
        code = self._process.wait()
        if code != 0:
            raise errors.DecoderCrashed(self._cause_of_death(code))

    def _line(self) -> bytes | None:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + self.patience
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not _ready(descriptor, select.POLLIN, left):
                self.close()
                raise self._too_slow()
            part = os.read(descriptor, 65536)
            if not part:
                return None
            self._buffer += part
            if len(self._buffer) > _LINE_LIMIT:
                raise errors.DecoderCrashed(_INVALID)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _too_slow(self) -> errors.DecoderCrashed:
        return errors.DecoderCrashed(
            f"{self._activity} made no progress for {round(self.patience, 1):g} seconds (SKIPVSR_MAX_DECODER_SECONDS)."
        )

    def _cause_of_death(self, code: int) -> str:
        if -code == signal.SIGXCPU:
            return (
                f"{self._activity} took more than {self._limits.max_decoder_seconds:g} seconds of CPU time for one "
                "frame (SKIPVSR_MAX_DECODER_SECONDS)."
            )
        cause = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"The decoder crashed ({cause}); the file is probably corrupt."

    def kill(self) -> None:
        """Kill the child. A thread that waits for the child gets an error."""
        self._process.kill()

    def close(self) -> None:
        """Kill the child if it still runs, and wait for its end."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _ready(descriptor: int, event: int, seconds: float) -> bool:
    """Wait until a pipe can be used, or has no other end. Returns False after `seconds`."""
    poll = select.poll()  # select.select refuses descriptors above 1023, which a server has
    poll.register(descriptor, event)
    return bool(poll.poll(seconds * 1000))


def invalid_message() -> errors.DecoderCrashed:
    """Error for a valid message at the wrong time or of the wrong kind."""
    return errors.DecoderCrashed(_INVALID)


def _exception(message: Failed) -> Exception:
    if message.error == "OverLimit":
        return errors.OverLimit(message.text, str(message.setting))
    if message.error == "OSError" and message.errno is not None:
        return OSError(message.errno, message.text)
    return _ERRORS.get(message.error, errors.MediaError)(message.text)
