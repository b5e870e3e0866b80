"""Live frames over gRPC: frames in, upscaled frames out. Broken connections are resumed.

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
from typing import TYPE_CHECKING, Any, Final, Self

import grpc

from skipvsr.v1 import upscaler_pb2 as pb
from skipvsr.v1 import upscaler_pb2_grpc, wire
from skipvsr_client.rpc_errors import from_rpc

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Frame = bytes | bytearray | memoryview | NDArray[np.uint8]
    Frames = Iterable[Frame | tuple[int, Frame]]

_ATTEMPTS: Final = 5
"""Consecutive failed connections after which a stream fails."""
_RETRYABLE: Final = (grpc.StatusCode.UNAVAILABLE,)


@dataclass(frozen=True)
class Answer:
    """An upscaled frame."""

    sequence: int
    pts: int
    data: bytes | memoryview
    """The frame in the output format."""
    width: int
    """Width of the upscaled frame in pixels."""
    height: int
    """Height of the upscaled frame in pixels."""
    rgb24: bool
    """Whether the output format is RGB24."""
    skip_ratio: float
    model_milliseconds: float
    server_milliseconds: float
    scene_start: bool
    key_frame: bool

    @property
    def rgb(self) -> NDArray[np.uint8] | None:
        """View of `data` as pixels [height, width, 3], if the output format is RGB24. Needs NumPy."""
        if not self.rgb24:
            return None
        import numpy as np

        return np.frombuffer(self.data, np.uint8).reshape(self.height, self.width, 3)


class StreamClient:
    """A connection to a server, shared by streams and job calls. Use it as a context manager."""

    def __init__(self, target: str, *, api_key: str | None = None, credentials: Any = None) -> None:
        """Create a client.

        Args:
            target: host:port.
            api_key: the server's API key, if it has one.
            credentials: result of `grpc.ssl_channel_credentials`; None disables TLS.
        """
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
        self.target = target
        self.metadata = (("x-api-key", api_key),) if api_key else ()
        self.upscaler = upscaler_pb2_grpc.UpscalerServiceStub(self._channel)
        """Generated stub. Pass `metadata` to its calls."""
        self.jobs = upscaler_pb2_grpc.JobServiceStub(self._channel)
        self.frames = wire.caller(self._channel)
        """`upscaler.Stream` without copies: also accepts `wire.FrameRequest`, and returns `wire.FrameResponse`."""

    def stream(
        self,
        frames: Frames,
        *,
        width: int,
        height: int,
        timeout: float | None = None,
        **config: Any,
    ) -> Stream:
        """Upscale frames. Nothing is sent until the returned stream is iterated.

        Args:
            frames: frames, or (pts, frame). A frame is an object with the buffer protocol: bytes in the input format,
                by default RGB24, or a uint8 array [H, W, 3].
            width: frame width in pixels.
            height: frame height in pixels.
            timeout: seconds for each connection; None for no limit.
            config: further fields of `StreamConfig`.
        """
        return Stream(self, iter(frames), pb.StreamConfig(width=width, height=height, **config), timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Its streams end."""
        self._channel.close()


class Stream:
    """One stream. Iterate for the answers; broken connections are resumed while the server keeps the session.

    Iteration raises Refused or ConnectionFailed if the stream fails. The cause of the error is a grpc.RpcError.
    """

    def __init__(
        self, client: StreamClient, frames: Iterator[Any], config: pb.StreamConfig, timeout: float | None
    ) -> None:
        self._client, self._frames, self._timeout = client, frames, timeout
        self.config = config
        self.accepted: pb.StreamAccepted | None = None
        """The effective configuration, available from the first answer on."""
        self.summary: pb.StreamSummary | None = None
        """The stream's figures, available at the end."""
        self.resumptions = 0
        self._frames_lock = threading.Lock()
        """Guards `_frames`: the thread of a broken connection may still wait for a frame."""
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
        """Cancel the stream."""
        if self._call is not None:
            self._call.cancel()

    def __iter__(self) -> Iterator[Answer]:
        failures = 0
        while self.summary is None:
            before = self._received
            try:
                yield from self._connection()
            except grpc.RpcError as error:
                failures = failures + 1 if self._received == before else 1
                if error.code() not in _RETRYABLE or not self._token or failures > _ATTEMPTS:
                    raise from_rpc(error, self._client.target) from error
                time.sleep(min(2.0, 0.1 * 2**failures))
                self._prepare_resumption()

    @property
    def _token(self) -> str:
        """The session's token; empty before the first connection, and for streams that cannot be resumed."""
        return self.accepted.session_token if self.accepted else ""

    def _prepare_resumption(self) -> None:
        self.resumptions += 1
        self.config.resume.session_token = self._token
        if self._received is not None:
            self.config.resume.last_received = self._received

    def _connection(self) -> Iterator[Answer]:
        """Run one connection. Yields its answers."""
        window, ended = _Window(), threading.Event()
        responses = self._client.frames(
            self._requests(window, ended), metadata=self._client.metadata, timeout=self._timeout
        )
        self._call = responses
        try:
            for response in responses:
                if isinstance(response, wire.FrameResponse):
                    self._received = response.frame.sequence
                    window.release()
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
        with self._frames_lock:
            unanswered = [request for request in self._sent if request.frame.sequence > after]
        yield from unanswered
        while window.acquire():
            with self._frames_lock:
                following = None if ended.is_set() else self._next_frame()
            if following is None:
                return
            yield following

    def _next_frame(self) -> wire.FrameRequest | None:
        """Take the next frame from the source and number it. Returns None at the end of the source."""
        assert self.accepted is not None
        item = None if self._exhausted else self._next_item(self.accepted)
        if item is None:
            return None
        sequence, self._next_sequence = self._next_sequence, self._next_sequence + 1
        pts, data = item if isinstance(item, tuple) else (sequence, item)
        request = wire.FrameRequest(
            pb.InputFrame(sequence=sequence, pts=pts, end_of_stream=self._exhausted),
            data if isinstance(data, bytes) else memoryview(data).tobytes(),  # the caller may reuse the array
        )
        if self.accepted.session_token:
            self._sent.append(request)
            # The server resumes from a state shortly before the last answer, so older frames are not needed.
            while len(self._sent) > 2 * self.accepted.max_in_flight + 64:
                self._sent.popleft()
        return request

    def _next_item(self, accepted: pb.StreamAccepted) -> Any:
        if accepted.latency_frames == 0:
            # Every frame is answered at once, so a live source is never asked for a frame in advance.
            item = next(self._frames, None)
            self._exhausted = item is None
            return item
        if self._upcoming is None:
            self._upcoming = next(self._frames, None)
        item, self._upcoming = self._upcoming, next(self._frames, None)
        self._exhausted = self._upcoming is None
        return item

    def _answer(self, response: wire.FrameResponse) -> Answer:
        accepted, frame = self.accepted, response.frame
        assert accepted is not None
        return Answer(
            sequence=frame.sequence,
            pts=frame.pts,
            data=response.data,
            width=accepted.output_width,
            height=accepted.output_height,
            rgb24=accepted.effective.output.format == pb.FRAME_FORMAT_RGB24,
            skip_ratio=frame.skip_ratio,
            model_milliseconds=frame.model_milliseconds,
            server_milliseconds=frame.server_milliseconds,
            scene_start=frame.scene_start,
            key_frame=frame.key_frame,
        )


class _Window:
    """Limits the frames in flight. Each answer permits one more frame."""

    def __init__(self) -> None:
        self._accepted: pb.StreamAccepted | None = None
        self._ready = threading.Event()
        self._permits = threading.Semaphore(0)
        self._closed = False

    def open(self, accepted: pb.StreamAccepted) -> None:
        """Store the server's config and release its number of permits."""
        self._accepted = accepted
        for _ in range(accepted.max_in_flight):
            self._permits.release()
        self._ready.set()

    def accepted(self) -> pb.StreamAccepted | None:
        """Wait for the server's config. Returns None if the connection ended first."""
        self._ready.wait()
        return self._accepted

    def acquire(self) -> bool:
        """Wait for a permit. Returns False if the connection has ended."""
        self._permits.acquire()
        return not self._closed

    def release(self) -> None:
        """Add a permit, because an answer arrived."""
        self._permits.release()

    def close(self) -> None:
        """Wake all waiting threads. The connection has ended."""
        self._closed = True
        self._ready.set()
        self._permits.release()
