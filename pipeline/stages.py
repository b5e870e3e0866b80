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
from pipeline.checkpoint import Checkpoints, Manifest
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
class ComputedChunk:
    """One chunk after the model stage, with the position for resuming after the chunk."""

    result: ChunkResult
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
        """End the decoder's process. A thread that waits for a frame gets an error."""
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


@dataclass(frozen=True)
class _Position:
    """Position of the decoder after a group of frames."""

    pending: list[int]
    """PTS of the frames that are not emitted yet."""
    read_to: int
    clean: bool
    last: bool
    dropped: bool
    """Whether the frames belong to the warm-up."""


class _Groups:
    """The decoded frames in groups for the network, with the decoder's position after each group.

    The groups of a part end where those of the whole video end, also in the warm-up.
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
    ) -> None:
        part, chunk = task.part, task.frames_per_chunk
        self._warm_up = part.warm_up if part is not None and not resumed else 0
        self._bounded = part is not None and part.frames is not None
        # A state from a checkpoint already holds its look-ahead frames.
        first = 0 if resumed else task.options.lookahead - -self._warm_up % chunk
        self._groups = groups(frames, chunk, first)
        self._pending, self._lookahead = pending, task.options.lookahead
        self._stops, self._progress = stops, progress
        self._begun: deque[tuple[int, list[int], _Position]] = deque()

    def __iter__(self) -> Iterator[Group]:
        for group, ended in self._groups:
            if self._stops.before_chunk or not group:
                return
            last = ended and not self._bounded
            times = [*self._pending, *(frame.pts for frame in group)]
            emitted = len(times) if last else max(len(times) - self._lookahead, 0)
            self._pending = times[emitted:]
            dropped = self._warm_up > 0
            self._warm_up -= emitted
            number = self._progress.begin_chunk(0 if dropped else emitted)
            position = _Position(self._pending, group[-1].pts, group[-1].clean, ended, dropped)
            self._begun.append((number, times[:emitted], position))
            rgb: Any = np.stack([frame.rgb for frame in group])
            group.clear()
            yield Group(rgb, last, partial(self._observe, number))
            del rgb

    def computed(self, result: ChunkResult) -> ComputedChunk | None:
        """Return the result of the oldest group that has none yet, with its position; None for the warm-up's."""
        number, pts, position = self._begun.popleft()
        self._progress.end_chunk(number)
        if position.dropped:
            self._progress.take(0)
            return None
        return ComputedChunk(result, pts, position.pending, position.read_to, position.clean, position.last)

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
) -> Iterator[ComputedChunk]:
    """Upscale frames chunk by chunk, and carry the recurrent state from chunk to chunk.

    Args:
        frames: the decoded frames.
        model: the network.
        state: the state at the checkpoint; None at the start of the video.
        pending: PTS of the frames that the state holds as look-ahead.
        task: the video with its options.
        stops: end the iterator early.
        progress: follows the steps of the network.
        ahead: most chunks to begin before the current one is finished.
    """
    options = task.options
    waiting = _Groups(frames, pending, task, stops, progress, resumed=state is not None)
    results = model.stream(waiting, state, lookahead=options.lookahead, routing=options.routing, ahead=ahead)
    del state
    try:
        with closing(results):
            for result in results:
                if (chunk := waiting.computed(result)) is not None:
                    yield chunk
                del result, chunk
                if stops.before_chunk:
                    return
    except (Abandoned, Interrupted):
        return


def encode(chunk: ComputedChunk, checkpoints: Checkpoints, number: int, spec: OutputSpec) -> Iterator[int]:
    """Write the segment of a chunk. Yields the number of frames written after each frame or delayed packet."""
    with SegmentWriter(checkpoints.segment(number), spec) as writer:
        for rgb, pts in zip(chunk.result.frames, chunk.pts, strict=True):
            writer.write(rgb, pts)
            yield writer.frames
        for _ in writer.drain():
            yield writer.frames
