"""Lower bound of gRPC overhead: a minimal `grpc.aio` server around the model.

A request is the bytes of a frame, and the response the bytes of the upscaled frame: no formats, sessions, scheduler or
protobuf. `benchmarks.grpc_latency` starts the server as a process, and reads the port from its output.
"""

from __future__ import annotations

import argparse
import asyncio
import queue
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
from numpy.typing import NDArray

from model.engine.loading import load_model
from model.engine.memory import keep_freed_memory
from model.engine.state import RecurrentState
from model.engine.upscaler import Upscaler

_METHOD: Final = "/floor/Stream"
_SECONDS: Final = struct.Struct("<d")
_OPTIONS: Final = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass(frozen=True)
class Setup:
    """The model of a server, and the size of frames."""

    model: str = "tiny"
    device: str = "cpu"
    precision: str = "auto"
    threads: int = 1
    size: str = "320x180"

    @property
    def width(self) -> int:
        return int(self.size.partition("x")[0])

    @property
    def height(self) -> int:
        return int(self.size.partition("x")[2])

    def options(self) -> list[str]:
        """The setup as command-line options."""
        return [f"--{name}={value}" for name, value in asdict(self).items()]

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        """Add an option for each field."""
        for each in fields(Setup):
            parser.add_argument(f"--{each.name}", type=type(each.default), default=each.default)


class Floor:
    """A client of the minimal server, one frame at a time."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, _OPTIONS)
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._answers: Iterator[bytes] = self._channel.stream_stream(_METHOD)(iter(self._frames.get, None))

    def frame(self, frame: NDArray[np.uint8]) -> float:
        """Upscale a frame; returns the seconds of the round trip without the model."""
        begun = time.perf_counter()
        self._frames.put(frame.tobytes())
        answer = next(self._answers)
        return time.perf_counter() - begun - float(_SECONDS.unpack_from(answer)[0])

    def close(self) -> None:
        """End the stream and the connection."""
        self._frames.put(None)
        self._channel.close()


def load(setup: Setup) -> Upscaler:
    """The model of both servers."""
    return load_model(
        setup.model,
        weights_dir=Path("data/weights"),
        device=setup.device,
        precision=setup.precision,
        threads=setup.threads,
    )


@contextmanager
def floor(setup: Setup) -> Iterator[Floor]:
    """A client of the minimal server, which runs in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.grpc_floor", *setup.options()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        client = Floor(f"127.0.0.1:{process.stdout.readline().strip()}")
        try:
            yield client
        finally:
            client.close()
            process.terminate()


async def _serve(setup: Setup) -> None:
    width, height = setup.width, setup.height
    model = load(setup)
    state: RecurrentState | None = None

    def upscale(data: bytes) -> bytes:
        nonlocal state
        frame = np.frombuffer(bytearray(data), np.uint8).reshape(1, height, width, 3)
        begun = time.perf_counter()
        result = model.forward(frame, state, lookahead=0, last=False)
        state = result.state
        return b"".join((_SECONDS.pack(time.perf_counter() - begun), result.frames[0].data))

    with ThreadPoolExecutor(1) as pool:

        async def stream(frames: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
            async for data in frames:
                yield await asyncio.get_running_loop().run_in_executor(pool, upscale, data)

        service, method = _METHOD.strip("/").split("/")
        server = grpc.aio.server(options=_OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(stream)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(port, flush=True)
        await server.wait_for_termination()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Setup.add_options(parser)
    keep_freed_memory()
    asyncio.run(_serve(Setup(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
