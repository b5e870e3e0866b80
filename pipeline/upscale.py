"""From a file to its upscaled copy: decode → model → encode, each in its thread, a checkpoint after each chunk.

`upscale` is a generator, and knows neither Redis nor HTTP: whoever consumes it counts, shows and decides. Between two
events the consumer may close it, and nothing is lost but the chunk in work.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jobs.schema import JobMetrics, JobOptions, Progress
from jobs.storage import Fenced
from media.assemble import assemble
from media.encode.segment import SegmentWriter
from media.errors import UnusableVideo
from media.limits import DEFAULT_LIMITS, Limits
from media.probe import MediaInfo, probe
from media.reader import Frame, VideoReader
from media.spec import OutputSpec, output_spec
from model.engine.state import RecurrentState
from model.engine.upscaler import ChunkResult, Upscaler, groups
from model.routing import RoutingReport
from pipeline.checkpoint import CHUNKS_REMEMBERED, Checkpoints, Identity, Manifest, sha256_of
from pipeline.prefetch import Abandoned, Ahead


@dataclass(frozen=True)
class Order:
    """What is to be done."""

    source: Path
    folder: Path
    """Working folder: exists, is this job's alone, and may hold a checkpoint."""
    options: JobOptions
    limits: Limits = DEFAULT_LIMITS
    chunk: int | None = None
    """Frames a chunk, where memory allows fewer than the options say."""
    encoder: str = "software"
    """software, nvenc, vaapi or auto."""


@dataclass(frozen=True)
class Started:
    """The file has been looked at; the network comes next."""

    info: MediaInfo
    spec: OutputSpec
    progress: Progress
    resumed: bool
    """Whether a checkpoint is gone on from."""
    warnings: list[str]


@dataclass(frozen=True)
class ChunkDone:
    """A chunk is encoded and checkpointed."""

    number: int
    frames: int
    seconds: float
    """In the network."""
    progress: Progress
    metrics: JobMetrics
    stages: dict[str, float]
    """Seconds of this chunk in decoding, model and encoding."""
    reports: list[RoutingReport]
    """One for each of its frames."""


@dataclass(frozen=True)
class Stopped:
    """`stop` was set: what was in work is checkpointed, the rest remains to be done."""

    progress: Progress
    metrics: JobMetrics


@dataclass(frozen=True)
class Finished:
    """The result is complete at `path`, in the working folder; it remains to be published."""

    path: Path
    spec: OutputSpec
    progress: Progress
    metrics: JobMetrics
    warnings: list[str]


Event = Started | ChunkDone | Stopped | Finished


@dataclass
class _Clock:
    """Seconds spent in decoding: one thread adds, another takes what was added since it last did."""

    seconds: float = 0.0
    taken: float = 0.0
    warnings: tuple[str, ...] = ()

    def take(self) -> float:
        now = self.seconds
        new, self.taken = now - self.taken, now
        return new


@dataclass(frozen=True)
class _Chunk:
    """What the network made of one group of frames."""

    result: ChunkResult
    pts: list[int]
    """Of the emitted frames."""
    pending: list[int] = field(repr=False)
    read_to: int | None
    clean: bool
    last: bool
    seconds: float


def upscale(order: Order, model: Upscaler, *, stop: threading.Event | None = None) -> Generator[Event]:
    """Do an order; the events are `Started`, `ChunkDone` …, and `Finished` (or `Stopped`, if `stop` gets set).

    Raises MediaError, ModelError, OSError, and `Fenced` when the working folder has been taken away.
    """
    try:
        yield from _upscale(order, model, stop or threading.Event())
    except Exception as error:
        if not order.folder.exists():
            raise Fenced(order.folder.name) from error
        raise


def _upscale(order: Order, model: Upscaler, stop: threading.Event) -> Generator[Event]:
    options = order.options
    info = probe(order.source, order.limits, target=options.container)
    spec = output_spec(
        info,
        scale=options.scale,
        height=options.height,
        codec=options.codec,
        crf=options.crf,
        hardware=order.encoder,
        limits=order.limits,
    )
    checkpoints = Checkpoints(order.folder)
    identity = Identity(
        input_sha256=sha256_of(order.source),
        model=model.identity(options.routing),
        options=options,
        encoder=spec.encoder,
    )
    manifest, state, reason = checkpoints.load(identity)
    if reason:
        manifest.warnings.append(reason)
    tally = _Tally(info.video.frames, manifest.frames)
    yield Started(
        info,
        spec,
        tally.progress(manifest.frames),
        manifest.segments > 0,
        [*info.warnings, *spec.warnings, *manifest.warnings],
    )

    if not manifest.complete:
        clock = _Clock()
        chunk = order.chunk or options.chunk
        frames = Ahead(_decode(order, manifest, clock), depth=max(2, chunk), name="decode")
        chunks = Ahead(_infer(frames, model, state, manifest.pending, order, chunk, stop), depth=1, name="model")
        del state  # the model's thread has it; kept here it would stay in memory for the whole job
        with chunks, frames:  # chunks are closed last: they end when the frames do
            for done in chunks:
                before = manifest.metrics
                manifest = _encode(done, manifest, checkpoints, spec, clock)
                progress = tally.progress(manifest.frames, complete=manifest.complete)
                yield ChunkDone(
                    manifest.segments - 1,
                    len(done.pts),
                    done.seconds,
                    progress,
                    manifest.metrics,
                    _stages(before, manifest.metrics),
                    done.result.reports,
                )
                del done
        if not manifest.complete:
            if not stop.is_set():
                raise UnusableVideo("the video has no frames that can be decoded")
            yield Stopped(tally.progress(manifest.frames), manifest.metrics)
            return

    out = order.folder / f"result.{spec.container}"
    lost = assemble(checkpoints.segments(manifest), order.source, out, spec, limits=order.limits)
    warnings = list(dict.fromkeys([*info.warnings, *spec.warnings, *manifest.warnings, *lost]))
    yield Finished(out, spec, tally.progress(manifest.frames, complete=True), manifest.metrics, warnings)


def _decode(order: Order, done: Manifest, clock: _Clock) -> Iterator[Frame]:
    before = done.frames + len(done.pending) if done.clean else None
    with VideoReader(order.source, start_after_pts=done.read_to, frames_before=before, limits=order.limits) as reader:
        frames = iter(reader)
        while True:
            begun = time.perf_counter()
            frame = next(frames, None)
            clock.seconds += time.perf_counter() - begun
            if frame is None:
                break
            yield frame
        clock.warnings = reader.warnings


def _infer(
    frames: Ahead[Frame],
    model: Upscaler,
    state: RecurrentState | None,
    pending: list[int],
    order: Order,
    chunk: int,
    stop: threading.Event,
) -> Iterator[_Chunk]:
    lookahead = order.options.lookahead
    times, read_to, clean = deque(pending), None, False
    try:
        # A state that was taken up again holds its look-ahead frames already.
        for group, last in groups(frames, chunk, 0 if state is not None else lookahead):
            if stop.is_set() or not group:
                return
            times.extend(frame.pts for frame in group)
            read_to, clean = group[-1].pts, group[-1].clean
            rgb: Any = np.stack([frame.rgb for frame in group])
            group.clear()
            result = model.forward(rgb, state, lookahead=lookahead, last=last, routing=order.options.routing)
            state = None if last else result.state
            pts = [times.popleft() for _ in result.frames]
            yield _Chunk(result, pts, list(times), read_to, clean, last, result.seconds)
            del rgb, result
    except Abandoned:
        return


def _encode(done: _Chunk, before: Manifest, checkpoints: Checkpoints, spec: OutputSpec, clock: _Clock) -> Manifest:
    """Write a chunk's segment and make the checkpoint after it."""
    begun = time.perf_counter()
    with SegmentWriter(checkpoints.segment(before.segments), spec) as writer:
        for rgb, pts in zip(done.result.frames, done.pts, strict=True):
            writer.write(rgb, pts)
    reports = done.result.reports
    total = before.units_total + sum(report.units_total for report in reports)
    skipped = before.units_skipped + sum(report.units_left_out for report in reports)
    reused = before.units_reused + sum(report.units_reused for report in reports)
    dense_seconds = before.dense_seconds + done.result.dense_seconds
    model_seconds = before.metrics.model_seconds + done.seconds
    cuts = [*before.cuts, *(before.frames + cut for cut in done.result.cuts)]
    metrics = before.metrics.model_copy(
        update={
            "decode_seconds": before.metrics.decode_seconds + clock.take(),
            "model_seconds": model_seconds,
            "encode_seconds": before.metrics.encode_seconds + time.perf_counter() - begun,
            "chunk_seconds": [*before.metrics.chunk_seconds, done.seconds][-CHUNKS_REMEMBERED:],
            "cuts": cuts,
            "skip_ratio": skipped / total if total else 0.0,
            "reuse_ratio": reused / total if total else 0.0,
            "speedup": dense_seconds / model_seconds if model_seconds else 1.0,
        }
    )
    manifest = before.model_copy(
        update={
            "segments": before.segments + 1,
            "frames": before.frames + len(done.pts),
            "read_to": done.read_to,
            "clean": done.clean,
            "pending": done.pending,
            "complete": done.last,
            "units_total": total,
            "units_skipped": skipped,
            "units_reused": reused,
            "dense_seconds": dense_seconds,
            "cuts": cuts,
            "warnings": [*before.warnings, *clock.warnings] if done.last else before.warnings,
            "metrics": metrics,
        }
    )
    checkpoints.commit(manifest, done.result.state)
    return manifest


def _stages(before: JobMetrics, after: JobMetrics) -> dict[str, float]:
    """What one chunk added to each stage's seconds."""
    names = ("decode", "model", "encode")
    return {name: getattr(after, f"{name}_seconds") - getattr(before, f"{name}_seconds") for name in names}


class _Tally:
    """Counts frames against the time since this run started."""

    def __init__(self, total: int | None, done: int) -> None:
        self._total, self._before = total, done
        self._begun = time.perf_counter()

    def progress(self, done: int, *, complete: bool = False) -> Progress:
        elapsed = time.perf_counter() - self._begun
        fps = (done - self._before) / elapsed if done > self._before and elapsed > 0 else None
        total = done if complete or (self._total is not None and self._total < done) else self._total
        eta = (total - done) / fps if fps and total is not None else None
        return Progress(frames_done=done, frames_total=total, fps=fps, eta_seconds=eta)
