"""The process in which libav meets untrusted files: `python -m media.child`, started by `media.sandbox.process` only.

It reads one pickled request from standard input (its parent is trusted), locks itself up, and answers in lines of JSON
on standard output, which its parent does not trust. Frames go through shared memory, one slot each; for every slot that
the parent has emptied it sends one byte back. NumPy is not imported here: starting takes a tenth of a second.
"""

from __future__ import annotations

import json
import mmap
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from av.video.frame import VideoFrame

from media.errors import MediaError, OverLimit
from media.jailed.lockdown import allow_cpu, lock_up
from media.limits import Limits
from media.plain import SLOTS, to_plain

_IN, _OUT = 0, 1


def main() -> None:
    """Serve one request and end."""
    with os.fdopen(os.dup(_IN), "rb", buffering=0) as stdin:
        size = int.from_bytes(stdin.read(8), "little")
        request = pickle.loads(_exactly(stdin, size))  # noqa: S301  # the parent's
    limits: Limits = request["limits"]
    lock_up(memory_bytes=limits.max_decoder_bytes, writes_below=request.get("writes_below"))
    allow_cpu(limits.max_decoder_seconds)
    try:
        for line in _SERVICES[request["do"]](limits=limits, **request["arguments"]):
            say(line)
    except MediaError as error:
        setting = error.setting if isinstance(error, OverLimit) else None
        say({"error": type(error).__name__, "message": str(error), "setting": setting})
    except MemoryError:
        need = f"more memory than the {limits.max_decoder_bytes} bytes that SKIPVSR_MAX_DECODER_BYTES allows"
        say({"error": "OverLimit", "message": f"reading the video takes {need}", "setting": "max_decoder_bytes"})
    except OSError as error:
        say({"error": "OSError", "message": os.strerror(error.errno or 0), "errno": error.errno})


def say(message: dict[str, Any]) -> None:
    """Write one line to the parent."""
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(_OUT, data) :]


def _probe(path: Path, target: str, limits: Limits) -> Iterator[dict[str, Any]]:
    from media.jailed.inspect import inspect

    yield {"info": to_plain(inspect(path, limits, target))}


def _decode(
    path: Path, start_after_pts: int | None, frames_before: int | None, memory: int, limits: Limits
) -> Iterator[dict[str, Any]]:
    from media.jailed.decode import Decoder

    decoder = Decoder(path, limits, start_after_pts=start_after_pts, frames_before=frames_before)
    shared: mmap.mmap | None = None
    sent = 0
    for frame, pts, time_base in decoder.frames():
        allow_cpu(limits.max_decoder_seconds)
        if frame is None:
            yield {"skipped": pts}
            continue
        sample = 1 if frame.format.name == "rgb24" else 2
        size = frame.width * frame.height * 3 * sample
        if shared is None:
            yield {
                "width": frame.width,
                "height": frame.height,
                "bytes_per_sample": sample,
                "time_base": to_plain(time_base),
            }
            os.read(_IN, 1)  # the parent has sized the memory
            shared = mmap.mmap(memory, size * SLOTS)
        elif sent >= SLOTS:
            os.read(_IN, 1)  # a slot is free again
        slot = sent % SLOTS
        _copy(frame, memoryview(shared)[slot * size : (slot + 1) * size], 3 * sample * frame.width)
        sent += 1
        yield {"slot": slot, "pts": pts, "clean": decoder.clean}
    yield {"damage": to_plain(decoder.damage)}


def _assemble(limits: Limits, **arguments: Any) -> Iterator[dict[str, Any]]:
    from media.jailed.mux import join

    out: Path = arguments["out"]
    for closing in (steps := join(limits=limits, **arguments)):
        allow_cpu(limits.seconds_to_rewrite(out.stat().st_size) if closing else limits.max_decoder_seconds)
        yield {"closing": closing}
    yield {"warnings": steps.warnings}


_SERVICES: Final[dict[str, Callable[..., Iterator[dict[str, Any]]]]] = {
    "probe": _probe,
    "decode": _decode,
    "assemble": _assemble,
}


def _copy(frame: VideoFrame, into: memoryview, row: int) -> None:
    plane = frame.planes[0]
    data = memoryview(plane)
    if plane.line_size == row:
        into[:] = data[: len(into)]
        return
    for y in range(frame.height):
        into[y * row : (y + 1) * row] = data[y * plane.line_size : y * plane.line_size + row]


def _exactly(stream: Any, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = stream.read(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # a library's exit handlers have nothing to add
