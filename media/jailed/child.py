"""Entry point of the child process: `python -m media.jailed.child`, started by `media.sandbox.process`.

The child reads a request from standard input, gives up its privileges, and writes messages to standard output. The
format is described in `media.sandbox.protocol`.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from io import RawIOBase
from typing import Final, TypeAlias, TypeVar

from media.errors import MediaError, OverLimit
from media.jailed.lockdown import allow_cpu, limit_memory, lock_down
from media.limits import Limits
from media.sandbox.protocol import (
    PACKET_HEADER,
    Decoded,
    DecodeRequest,
    Envelope,
    Failed,
    Jailed,
    JailRequest,
    LiveRequest,
    Message,
    MuxRequest,
    PreviewRequest,
    Probed,
    ProbeRequest,
    Request,
    to_line,
)

T = TypeVar("T")
Service: TypeAlias = Callable[[tuple[str, ...]], Iterator[Message]]
"""Serves a request. The argument: layers of the jail that the kernel does not enforce."""

_IN: Final = 0
_OUT: Final = 1


def main() -> None:
    """Serve one request."""
    envelope = _read_envelope()
    limits = envelope.limits
    limit_memory(getattr(limits, _memory_setting(envelope.request)))
    allow_cpu(limits.max_decoder_seconds)
    try:
        serve = _service(envelope.request, limits)
        missing = lock_down(reads=envelope.reads, writes=envelope.writes)
        for message in serve(missing):
            _send(message)
    except (MediaError, MemoryError, ImportError, OSError) as error:
        _send(_failure(error, limits, _memory_setting(envelope.request)))


def _read_envelope() -> Envelope:
    with os.fdopen(os.dup(_IN), "rb", buffering=0) as stdin:
        data = _exactly(stdin, int.from_bytes(stdin.read(8), "little"))
    envelope = pickle.loads(data)  # noqa: S301  # from the parent, which the child trusts
    assert isinstance(envelope, Envelope)
    return envelope


def _send(message: Message) -> None:
    data = to_line(message)
    while data:
        data = data[os.write(_OUT, data) :]


def _service(request: Request, limits: Limits) -> Service:
    """Import the code for a request.

    Each request needs a part of libav only. The imports precede the lock-down: afterwards, Python can't cache bytecode.
    """
    match request:
        case ProbeRequest():
            return _probing(request, limits)
        case DecodeRequest():
            return _decoding(request, limits)
        case MuxRequest():
            return _muxing(request, limits)
        case LiveRequest():
            return _living(request, limits)
        case PreviewRequest():
            return _previewing(request, limits)
        case JailRequest():
            return lambda missing: iter([Jailed(missing)])


def _probing(request: ProbeRequest, limits: Limits) -> Service:
    from media.jailed.inspect import inspect
    from media.jailed.partial import inspect_ends

    def serve(_: tuple[str, ...]) -> Iterator[Message]:
        path, target, fields, hole = request
        if hole is None:
            yield Probed(inspect(path, limits, target, fields=fields))
        else:
            yield Probed(inspect_ends(path, limits, target, fields=fields, hole=hole))

    return serve


def _decoding(request: DecodeRequest, limits: Limits) -> Service:
    from media.jailed.decode import Decoder
    from media.jailed.shared_frames import send_frames

    def serve(_: tuple[str, ...]) -> Iterator[Message]:
        decoder = Decoder(
            request.path,
            limits,
            start_after_pts=request.start_after_pts,
            frames_before=request.frames_before,
            fields=request.fields,
            canvas=request.canvas,
        )
        frames = _with_cpu_for_each(decoder.frames(), limits.max_decoder_seconds)
        yield from send_frames(frames, request.memory, wait_for_parent=lambda: os.read(_IN, 1))
        yield Decoded(decoder.ledger)

    return serve


def _muxing(request: MuxRequest, limits: Limits) -> Service:
    from media.jailed.mux import mux

    def serve(_: tuple[str, ...]) -> Iterator[Message]:
        yield from _with_cpu_for_each(mux(request, limits), limits.max_decoder_seconds)

    return serve


def _living(request: LiveRequest, limits: Limits) -> Service:
    from media.jailed.live import live_decoder
    from media.jailed.shared_frames import send_live_frames

    def serve(_: tuple[str, ...]) -> Iterator[Message]:
        decoder = live_decoder(request.coding)
        packets = _with_cpu_for_each(_packets(), limits.max_decoder_seconds)
        yield from send_live_frames(decoder, packets, request.memory, wait_for_parent=lambda: os.read(_IN, 1))

    return serve


def _previewing(request: PreviewRequest, limits: Limits) -> Service:
    from media.jailed.preview import preview
    from media.jailed.shared_frames import send_frames

    def serve(_: tuple[str, ...]) -> Iterator[Message]:
        yield from send_frames(preview(request, limits), request.memory, wait_for_parent=lambda: os.read(_IN, 1))

    return serve


def _packets() -> Iterator[tuple[bytes, int]]:
    """Yield (data, number) of each packet of the parent, until the parent's end."""
    with os.fdopen(os.dup(_IN), "rb", buffering=0) as stdin:
        while header := stdin.read(struct.calcsize(PACKET_HEADER)):
            number, size = struct.unpack(PACKET_HEADER, header)
            yield _exactly(stdin, size), number


def _exactly(stdin: RawIOBase, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = stdin.read(size - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def _with_cpu_for_each(items: Iterable[T], seconds: float) -> Iterator[T]:
    """Yield the items, and allow `seconds` of CPU time for the next one."""
    for item in items:
        allow_cpu(seconds)
        yield item


def _memory_setting(request: Request) -> str:
    return "max_probe_memory_bytes" if isinstance(request, ProbeRequest) else "max_decoder_bytes"


def _failure(error: Exception, limits: Limits, memory: str) -> Failed:
    match error:
        case OverLimit():
            return Failed("OverLimit", str(error), setting=error.setting)
        case MediaError():
            return Failed(type(error).__name__, str(error))
        case MemoryError() | ImportError():  # without memory, the loader of shared libraries raises ImportError
            text = (
                f"Reading the video needs more than {getattr(limits, memory)} bytes of memory "
                f"(SKIPVSR_{memory.upper()})."
            )
            return Failed("OverLimit", text, setting=memory)
        case _:
            number = error.errno if isinstance(error, OSError) else None
            return Failed("OSError", os.strerror(number or 0), errno=number)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # exit handlers of libraries have nothing to do here
