"""The parent's side of `media.jailed`: start the child, feed it, wait no longer than allowed, survive its faults."""

from __future__ import annotations

import contextlib
import json
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
from typing import Any, Final, Self

from media import errors
from media.limits import Limits

# No settings, keys or tokens: the process has no use for them, and may fall into wrong hands.
_KEPT: Final = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
_LINE_LIMIT: Final = 16 * 2**20
_ERRORS: Final = {
    name: getattr(errors, name) for name in ("UnsupportedFile", "UnusableVideo", "DecoderCrashed", "MediaError")
}


class Sandbox:
    """One process that serves one request; a context manager that leaves no process behind.

    Args:
        do: what to do: probe, decode or assemble.
        arguments: for it; pickled.
        limits: memory, CPU and waiting time.
        writes_below: the only folder where it may write.
        share: file descriptors that it inherits.
    """

    def __init__(
        self,
        do: str,
        arguments: dict[str, Any],
        limits: Limits,
        *,
        writes_below: Path | None = None,
        share: tuple[int, ...] = (),
    ) -> None:
        self._limits = limits
        self._doing = "putting the result together" if do == "assemble" else "reading the video"
        self.patience = limits.max_decoder_seconds
        """Seconds that may pass until it says something."""
        self._buffer = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "media.jailed.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pass_fds=share,
            cwd=Path(__file__).parents[2],
            env={name: os.environ[name] for name in _KEPT if name in os.environ}
            | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        request = pickle.dumps({"do": do, "arguments": arguments, "limits": limits, "writes_below": writes_below})
        self.send(len(request).to_bytes(8, "little") + request)

    def send(self, data: bytes) -> None:
        """Write to the process; if it is gone, `messages` will say so."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(data)

    def messages(self) -> Iterator[dict[str, Any]]:
        """What it says, line by line, until it ends.

        Raises:
            MediaError: as the process reported; `DecoderCrashed` if it died or said nothing for too long.
            OSError: the system refused something (a full disk).
        """
        while (line := self._line()) is not None:
            try:
                message = json.loads(line)
            except ValueError as error:
                raise errors.DecoderCrashed("the process that reads the video talks nonsense") from error
            if not isinstance(message, dict):
                raise errors.DecoderCrashed("the process that reads the video talks nonsense")
            if "error" in message:
                raise _as_exception(message)
            yield message
        code = self._process.wait()
        if code != 0:
            raise errors.DecoderCrashed(self._cause(code))

    def _line(self) -> bytes | None:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + self.patience
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                self.close()
                limit = f"{round(self.patience, 1):g} seconds (SKIPVSR_MAX_DECODER_SECONDS)"
                raise errors.DecoderCrashed(f"{self._doing} made no progress for {limit}")
            part = os.read(descriptor, 65536)
            if not part:
                return None
            self._buffer += part
            if len(self._buffer) > _LINE_LIMIT:
                raise errors.DecoderCrashed("the process that reads the video talks nonsense")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _cause(self, code: int) -> str:
        if -code == signal.SIGXCPU:
            return f"{self._doing} took more than {self._limits.max_decoder_seconds:g} seconds of CPU for one frame"
        why = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"the process that reads the video died ({why}); the file is damaged in a way that libav can't bear"

    def close(self) -> None:
        """End the process, if it has not ended, and wait for it."""
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


def _as_exception(message: dict[str, Any]) -> Exception:
    text = str(message.get("message"))
    if message["error"] == "OverLimit":
        return errors.OverLimit(text, str(message.get("setting")))
    if message["error"] == "OSError" and isinstance(message.get("errno"), int):
        return OSError(message["errno"], text)
    kind: type[Exception] = _ERRORS.get(str(message["error"]), errors.MediaError)
    return kind(text)
