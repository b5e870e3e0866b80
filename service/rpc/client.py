"""A small client of the gRPC server: frames in, upscaled frames out, over connections that may break.

with StreamClient("localhost:50051") as client:
    with client.stream(frames, width=320, height=180, lookahead=2) as stream:
        for answer in stream:
            show(answer.rgb)
    print(stream.summary)
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import grpc
import numpy as np
from numpy.typing import NDArray

from service.rpc import wire
from skipvsr.v1 import upscaler_pb2 as pb
from skipvsr.v1 import upscaler_pb2_grpc

_ATTEMPTS: Final = 5
"""Connections in a row that may fail before the stream is given up."""
_RETRIED: Final = (grpc.StatusCode.UNAVAILABLE,)


@dataclass(frozen=True)
class Answer:
    """An upscaled frame."""

    sequence: int
    pts: int
    data: bytes | memoryview
    """The frame in the output's format."""
    rgb: NDArray[np.uint8] | None
    """[4 H, 4 W, 3] where the output is RGB24: the data, not a copy."""
    skip_ratio: float
    model_milliseconds: float
    server_milliseconds: float
    scene_start: bool
    key_frame: bool


class StreamClient:
    """A connection to a server. A context manager; streams and job calls share it.

    Args:
        target: host:port.
        api_key: the server's key, where it has one.
        credentials: of `grpc.ssl_channel_credentials`; None: no TLS.
    """

    def __init__(self, target: str, *, api_key: str | None = None, credentials: Any = None) -> None:
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.ping_timeout_ms", 10_000),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self._channel = (
            grpc.secure_channel(target, credentials, options)
            if credentials is not None
            else grpc.insecure_channel(target, options)
        )
        self.metadata = (("x-api-key", api_key),) if api_key else ()
        self.upscaler = upscaler_pb2_grpc.UpscalerServiceStub(self._channel)
        """The generated stub; its calls need `metadata`."""
        self.jobs = upscaler_pb2_grpc.JobServiceStub(self._channel)
        self.frames = wire.caller(self._channel)
        """`upscaler.Stream`, which takes `wire.FrameRequest` too, and whose answers' data is not copied."""

    def stream(
        self,
        frames: Iterable[NDArray[np.uint8] | bytes | tuple[int, NDArray[np.uint8] | bytes]],
        *,
        width: int,
        height: int,
        timeout: float | None = None,
        **config: Any,
    ) -> Stream:
        """Upscale frames: RGB arrays [H, W, 3] or bytes in the config's input format, each alone or as (pts, frame).

        `config` are further fields of `StreamConfig`. Nothing is sent before the result is iterated over.
        """
        return Stream(self, iter(frames), pb.StreamConfig(width=width, height=height, **config), timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; streams on it end."""
        self._channel.close()


class Stream:
    """One stream: iterate over it for the answers. A broken connection is resumed where the server still can.

    Raises grpc.RpcError where it can't go on; `code()` and `details()` say why.
    """

    def __init__(
        self, client: StreamClient, frames: Iterator[Any], config: pb.StreamConfig, timeout: float | None
    ) -> None:
        self._client, self._frames, self._timeout = client, frames, timeout
        self.config = config
        self.accepted: pb.StreamAccepted | None = None
        """What the server does; known once the first answer is there."""
        self.summary: pb.StreamSummary | None = None
        """Figures; known at the end."""
        self.resumptions = 0
        self._source = threading.Lock()
        """Held by the thread that takes frames: the one of a broken connection may still wait for one."""
        self._sent: deque[wire.FrameRequest] = deque()
        self._upcoming: Any = None
        self._next_sequence = 0
        self._exhausted = False
        self._received: int | None = None
        self._call: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def cancel(self) -> None:
        """End the stream now, wherever it is."""
        if self._call is not None:
            self._call.cancel()

    def __iter__(self) -> Iterator[Answer]:
        failures = 0
        while self.summary is None:
            before = self._received
            try:
                yield from self._connection()
            except grpc.RpcError as error:
                token = self.accepted.session_token if self.accepted else ""
                failures = failures + 1 if self._received == before else 1
                if error.code() not in _RETRIED or not token or failures > _ATTEMPTS:
                    raise
                self.resumptions += 1
                time.sleep(min(2.0, 0.1 * 2**failures))
                self.config.resume.session_token = token
                if self._received is not None:
                    self.config.resume.last_received = self._received

    def _connection(self) -> Iterator[Answer]:
        window, ended = _Window(), threading.Event()
        responses = self._client.frames(
            self._requests(window, ended), metadata=self._client.metadata, timeout=self._timeout
        )
        self._call = responses
        try:
            for response in responses:
                if isinstance(response, wire.FrameResponse):
                    self._received = response.frame.sequence
                    window.give_back()
                    yield self._answer(response)
                elif response.WhichOneof("message") == "config":
                    self.accepted = response.config
                    window.open(response.config)
                elif response.WhichOneof("message") == "summary":
                    self.summary = response.summary
        finally:
            ended.set()
            window.close()
            responses.cancel()

    def _requests(self, window: _Window, ended: threading.Event) -> Iterator[pb.StreamRequest | wire.FrameRequest]:
        yield pb.StreamRequest(config=self.config)
        accepted = window.accepted()
        if accepted is None:
            return
        after = accepted.resume_after if accepted.HasField("resume_after") else -1
        with self._source:
            again = [request for request in self._sent if request.frame.sequence > after]
        yield from again
        while window.take():
            with self._source:
                following = None if ended.is_set() else self._next_frame()
            if following is None:
                return
            yield following

    def _next_frame(self) -> wire.FrameRequest | None:
        if self._exhausted:
            return None
        assert self.accepted is not None
        if self.accepted.latency_frames == 0:
            # Each frame is answered at once, the last one like any other: a live source is not waited for.
            item = next(self._frames, None)
            self._exhausted = item is None
        else:
            if self._upcoming is None:
                self._upcoming = next(self._frames, None)
            item, self._upcoming = self._upcoming, next(self._frames, None)
            self._exhausted = self._upcoming is None
        if item is None:
            return None
        sequence, self._next_sequence = self._next_sequence, self._next_sequence + 1
        pts, data = item if isinstance(item, tuple) else (sequence, item)
        request = wire.FrameRequest(
            pb.InputFrame(sequence=sequence, pts=pts, end_of_stream=self._exhausted),
            data if isinstance(data, bytes) else data.tobytes(),  # the array is the caller's, who may fill it anew
        )
        if self.accepted.session_token:
            self._sent.append(request)
            # The server goes back no further than to a state before the last answer that arrived.
            while len(self._sent) > 2 * self.accepted.max_in_flight + 64:
                self._sent.popleft()
        return request

    def _answer(self, response: wire.FrameResponse) -> Answer:
        accepted, frame = self.accepted, response.frame
        assert accepted is not None
        rgb = None
        if accepted.effective.output.format == pb.FRAME_FORMAT_RGB24:
            rgb = np.frombuffer(response.data, np.uint8).reshape(accepted.output_height, accepted.output_width, 3)
        return Answer(
            sequence=frame.sequence,
            pts=frame.pts,
            data=response.data,
            rgb=rgb,
            skip_ratio=frame.skip_ratio,
            model_milliseconds=frame.model_milliseconds,
            server_milliseconds=frame.server_milliseconds,
            scene_start=frame.scene_start,
            key_frame=frame.key_frame,
        )


class _Window:
    """Bounds the frames that are on their way: one more is sent for each answer that came."""

    def __init__(self) -> None:
        self._accepted: pb.StreamAccepted | None = None
        self._ready = threading.Event()
        self._permits = threading.Semaphore(0)
        self._closed = False

    def open(self, accepted: pb.StreamAccepted) -> None:
        """The server's config is there, with the number of permits."""
        self._accepted = accepted
        for _ in range(accepted.max_in_flight):
            self._permits.release()
        self._ready.set()

    def accepted(self) -> pb.StreamAccepted | None:
        """The server's config, once it is there; None if the connection ended first."""
        self._ready.wait()
        return self._accepted

    def take(self) -> bool:
        """Wait for a permit; False if the connection has ended."""
        self._permits.acquire()
        return not self._closed

    def give_back(self) -> None:
        """An answer came."""
        self._permits.release()

    def close(self) -> None:
        """Let go whoever waits."""
        self._closed = True
        self._ready.set()
        self._permits.release()
