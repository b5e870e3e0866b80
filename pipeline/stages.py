"""The three stages of the pipeline: decode, model, encode."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from media.encode.segment import SegmentWriter
from media.reader import Frame, VideoReader
from media.spec import OutputSpec
from media.types import Canvas
from model.engine.state import RecurrentState
from model.engine.upscaler import ChunkResult, Group, Upscaler, groups
from model.engine.work import Interrupted
from model.engine.yuv import YuvFormat
from pipeline.checkpoint import Checkpoints, Manifest
from pipeline.feed import ChunkFeed
from pipeline.parts import Part
from pipeline.prefetch import Abandoned, Prefetcher
from pipeline.progress import ProgressCounter
from pipeline.task import UpscaleTask


class Position(NamedTuple):
    """Where decoding begins."""

    after: int | None
    """PTS of the last frame to leave out; None: decoding begins at the start."""
    before: int | None
    """Number of frames to leave out, if the decoder can seek."""


def position_of(part: Part | None, done: Manifest) -> Position:
    """Where decoding begins: after the frames of the checkpoint, or at the start of the warm-up."""
    first = part.first if part is not None else 0
    if done.read_to is None and part is not None:
        return Position(part.after, part.start if part.clean and part.start else None)
    return Position(done.read_to, first + done.frames + len(done.pending) if done.clean else None)


def frames_left(task: UpscaleTask, done: Manifest) -> int | None:
    """Number of frames to decode; None: all frames to the end of the video."""
    part = task.part
    if part is None or part.frames is None:
        return None
    before = part.warm_up if done.read_to is None else -done.frames - len(done.pending)
    return before + part.frames + task.options.lookahead


@dataclass(frozen=True)
class ComingChunk:
    """One chunk in the model stage, with the position for resuming after the chunk."""

    number: int
    """The chunk's number for `ProgressCounter`."""
    feed: ChunkFeed
    """The upscaled frames, then the result."""
    pts: list[int]
    """PTS of the emitted frames."""
    pending: list[int] = field(repr=False)
    """PTS of the decoded frames that are not emitted yet."""
    read_to: int | None
    """PTS of the last decoded frame."""
    clean: bool
    """Whether the decoder can resume after that frame by seeking."""
    last: bool
    """Whether the chunk ends the video, or the part of the video."""
    warm_up: bool
    """Whether the frames come before the part, and are left out."""

    @property
    def result(self) -> ChunkResult:
        """The result, known after the last frame of the feed."""
        return self.feed.result


class DecodeStage:
    """Frames of the source after a checkpoint, to the end of the part. One thread iterates; another may read the times.

    Args:
        task: the video.
        manifest: the checkpoint.
        canvas: size and shape of all frames; by default the first frame's.
    """

    def __init__(self, task: UpscaleTask, manifest: Manifest, canvas: Canvas | None = None) -> None:
        self._task, self._manifest, self._canvas = task, manifest, canvas
        self._seconds = self._taken = 0.0
        self._reader: VideoReader | None = None
        self._abandoned = False
        self.warnings: tuple[str, ...] = ()
        """Warnings of the decoder, complete after the last frame."""

    def __iter__(self) -> Iterator[Frame]:
        task = self._task
        position = position_of(task.part, self._manifest)
        with VideoReader(
            task.source,
            start_after_pts=position.after,
            frames_before=position.before,
            canvas=self._canvas,
            fields=task.options.deinterlace == "field",
            limits=task.limits,
        ) as reader:
            self._reader = reader
            if self._abandoned:  # `abandon` may come while the reader opens
                return
            frames = iter(reader)
            for _ in count() if (left := frames_left(task, self._manifest)) is None else range(left):
                started = time.perf_counter()
                frame = next(frames, None)
                self._seconds += time.perf_counter() - started
                if frame is None:
                    self.warnings = tuple(reader.warnings)
                    break
                yield frame

    def abandon(self) -> None:
        """End the decoder's process, now or as soon as it runs. A thread that waits for a frame gets an error."""
        self._abandoned = True
        if self._reader is not None:
            self._reader.kill()

    def take_seconds(self) -> float:
        """Seconds of decoding since the last call."""
        now = self._seconds
        new, self._taken = now - self._taken, now
        return new


@dataclass(frozen=True)
class Stops:
    """How the caller ends a run before the end of the video."""

    stop: threading.Event
    """Set to end the run before the next chunk."""
    halt: threading.Event
    """Set to end the run between two steps of the network. The chunk in the network is dropped."""
    closed: threading.Event = field(default_factory=threading.Event)
    """Set when the caller takes no more events."""

    @property
    def before_chunk(self) -> bool:
        """Whether no further chunk may begin."""
        return self.stop.is_set() or self.at_once

    @property
    def at_once(self) -> bool:
        """Whether the chunk in the network may not go on."""
        return self.halt.is_set() or self.closed.is_set()


class _Groups:
    """The decoded frames in groups for the network, and the resulting chunks.

    The groups of a part have the borders of the whole video's groups, also in the warm-up.
    """

    def __init__(
        self,
        frames: Iterable[Frame],
        pending: list[int],
        task: UpscaleTask,
        stops: Stops,
        progress: ProgressCounter,
        *,
        resumed: bool,
        yuv: YuvFormat | None,
    ) -> None:
        part, chunk = task.part, task.frames_per_chunk
        self._warm_up = part.warm_up if part is not None and not resumed else 0
        self._bounded = part is not None and part.frames is not None
        # A state from a checkpoint already holds its look-ahead frames.
        first = 0 if resumed else task.options.lookahead - -self._warm_up % chunk
        self._groups = groups(frames, chunk, first)
        self._pending, self._lookahead = pending, task.options.lookahead
        self._stops, self._progress, self._yuv = stops, progress, yuv
        self._coming: deque[ComingChunk] = deque()
        self._read: deque[Group] = deque()
        """Groups that are read and not taken yet."""
        self._source = self._all()

    def __iter__(self) -> Iterator[Group]:
        while self._read or self._read_next():
            yield self._read.popleft()

    def coming(self) -> ComingChunk | None:
        """Return the oldest chunk without a result; None after the last. Reads a group if the network has none."""
        return self._coming[0] if self._coming or self._read_next() else None

    def computed(self, result: ChunkResult) -> None:
        """The network returns the result of the oldest chunk."""
        chunk = self._coming.popleft()
        self._progress.end_chunk(chunk.number)
        if chunk.warm_up:
            self._progress.leave_out(chunk.number)
        else:
            chunk.feed.finish(result)

    def drop(self) -> None:
        """The network returns no more results."""
        for chunk in self._coming:
            chunk.feed.drop()

    def _read_next(self) -> bool:
        """Read a group, if there is one."""
        group = next(self._source, None)
        if group is not None:
            self._read.append(group)
        return group is not None

    def _all(self) -> Iterator[Group]:
        for group, ended in self._groups:
            if self._stops.before_chunk or not group:
                return
            last = ended and not self._bounded
            times = [*self._pending, *(frame.pts for frame in group)]
            emitted = len(times) if last else max(len(times) - self._lookahead, 0)
            self._pending = times[emitted:]
            warm_up, feed, ends = self._warm_up > 0, ChunkFeed(), group[-1]
            self._warm_up -= emitted
            number = self._progress.begin_chunk(0 if warm_up else emitted)
            chunk = ComingChunk(number, feed, times[:emitted], self._pending, ends.pts, ends.clean, ended, warm_up)
            self._coming.append(chunk)
            rgb: Any = np.stack([frame.rgb for frame in group])
            group.clear()
            del ends
            yield Group(rgb, last, partial(self._observe, number), None if warm_up else feed.put, self._yuv)
            del rgb

    def _observe(self, number: int, fraction: float) -> None:
        self._progress.compute(number, fraction)
        if self._stops.at_once:
            raise Interrupted


def run_model(
    frames: Prefetcher[Frame],
    model: Upscaler,
    state: RecurrentState | None,
    pending: list[int],
    task: UpscaleTask,
    stops: Stops,
    progress: ProgressCounter,
    *,
    ahead: int,
    yuv: YuvFormat | None = None,
) -> Iterator[ComingChunk]:
    """Upscale frames chunk by chunk, and carry the recurrent state from chunk to chunk.

    Each chunk comes out before its frames are computed. The next call computes them.

    Args:
        frames: the decoded frames.
        model: the network.
        state: the state at the checkpoint; None at the start of the video.
        pending: PTS of the frames that the state holds as look-ahead.
        task: the video with its options.
        stops: end the iterator early.
        progress: follows the steps of the network.
        ahead: most chunks to begin before the current one is finished.
        yuv: format of the upscaled frames (`pipeline.yuv`); None: RGB.
    """
    options = task.options
    waiting = _Groups(frames, pending, task, stops, progress, resumed=state is not None, yuv=yuv)
    results = model.stream(waiting, state, lookahead=options.lookahead, routing=options.routing, ahead=ahead)
    del state
    try:
        with closing(results):
            while (chunk := waiting.coming()) is not None:
                if not chunk.warm_up:
                    yield chunk
                del chunk
                if stops.before_chunk:
                    return
                waiting.computed(next(results))
            for _ in results:
                pass  # no chunk is left: this raises the error with which reading ahead has ended
    except (Abandoned, Interrupted):
        return
    finally:
        waiting.drop()


def encode(
    chunk: ComingChunk, checkpoints: Checkpoints, number: int, spec: OutputSpec, *, pause: float
) -> Iterator[int]:
    """Write the segment of a chunk, each frame as soon as it is computed.

    Yields the number of frames written after each frame or delayed packet, and after each `pause` seconds without a
    frame. Raises Dropped if the network drops the chunk; no segment remains then.
    """
    with SegmentWriter(checkpoints.segment(number), spec) as writer:
        for frame in chunk.feed.polled(pause):
            if frame is not None:
                writer.write(frame, chunk.pts[writer.frames])
            del frame
            yield writer.frames
        for _ in writer.drain():
            yield writer.frames
