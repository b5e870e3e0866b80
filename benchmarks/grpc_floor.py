"""What gRPC itself takes: the shortest `grpc.aio` server around the model, to measure ours against.

It takes a frame's bytes and answers with the upscaled frame's: no formats, no sessions, no scheduler, no protobuf.
`benchmarks.grpc_latency` starts it, and reads its port from what it prints.
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
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
from numpy.typing import NDArray

from model.engine.memory import keep_freed_memory
from model.engine.state import RecurrentState
from model.engine.upscaler import Upscaler, load_model

_METHOD: Final = "/floor/Stream"
_SECONDS: Final = struct.Struct("<d")
_PASSED: Final = ("model", "device", "precision", "threads", "size")
_OPTIONS: Final = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Floor:
    """A client of that server: one frame at a time."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, _OPTIONS)
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._answers: Iterator[bytes] = self._channel.stream_stream(_METHOD)(iter(self._frames.get, None))

    def frame(self, frame: NDArray[np.uint8]) -> float:
        """Have a frame upscaled: the seconds that the round trip took beside the model."""
        begun = time.perf_counter()
        self._frames.put(frame.tobytes())
        answer = next(self._answers)
        return time.perf_counter() - begun - float(_SECONDS.unpack_from(answer)[0])

    def close(self) -> None:
        """End the stream and the connection."""
        self._frames.put(None)
        self._channel.close()


def load(args: argparse.Namespace) -> Upscaler:
    """The model that both servers run, for a process that has none of them."""
    return load_model(
        args.model,
        weights_dir=Path("data/weights"),
        device=args.device,
        precision=args.precision,
        threads=args.threads,
    )


@contextmanager
def floor(args: argparse.Namespace) -> Iterator[Floor]:
    """The server in a process of its own, and a client on it."""
    command = [sys.executable, "-m", "benchmarks.grpc_floor", *(f"--{name}={getattr(args, name)}" for name in _PASSED)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        client = Floor(f"127.0.0.1:{process.stdout.readline().strip()}")
        try:
            yield client
        finally:
            client.close()
            process.terminate()


async def _serve(args: argparse.Namespace) -> None:
    width, height = (int(side) for side in args.size.split("x"))
    model = load(args)
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
    for name in _PASSED:
        parser.add_argument(f"--{name}", required=True, type=int if name == "threads" else str)
    keep_freed_memory()
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
