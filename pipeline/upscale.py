"""From a video file to its upscaled copy: decode → model → encode, with a checkpoint after each chunk.

Each stage runs in its own thread, and the stages overlap in time: the caller's thread encodes each frame as soon as
another thread has computed it, and a third thread decodes frames ahead.

    for event in upscale(task, model):
        print(event.progress)

`upscale` is a generator that knows neither Redis nor HTTP. Events come several times a second. Closing the generator
between two events loses only the chunks in work, and waits for at most one step of the network.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import replace
from typing import Final, NamedTuple

from jobs.figures import FiguresWriter
from jobs.storage import Fenced
from media.assemble import Assembled, assembling
from media.encode.encoders import job_threads
from media.errors import UnusableVideo
from media.spec import output_spec
from media.types import Canvas
from model.engine.budget import halves_beside, longest_chunk, needed_bytes
from model.engine.state import RecurrentState
from model.engine.upscaler import ChunkResult, Upscaler
from pipeline.accounting import after_chunk, encoding_share, stage_seconds
from pipeline.checkpoint import Checkpoints, Identity, sha256_of
from pipeline.encoder import encoder_of_job
from pipeline.events import ChunkDone, Event, Finished, PartDone, Started, Stopped, Working
from pipeline.feed import Dropped
from pipeline.figures import chunk_figures, facts, packed
from pipeline.parts import Unfit
from pipeline.prefetch import Prefetcher
from pipeline.progress import ProgressCounter
from pipeline.source import probe_source
from pipeline.stages import ComingChunk, DecodeStage, Stops, encode, run_model
from pipeline.task import UpscaleTask
from pipeline.yuv import device_format

_PAUSE: Final = 0.25
"""Seconds between two events."""


def upscale(
    task: UpscaleTask,
    model: Upscaler,
    *,
    stop: threading.Event | None = None,
    halt: threading.Event | None = None,
) -> Generator[Event]:
    """Upscale a video, from its last checkpoint if there is one.

    Raises MediaError, ModelError, OSError, and `Fenced` if another worker has taken the working folder.

    Args:
        task: the video.
        model: the network.
        stop: set by the caller to stop before the next chunk.
        halt: set by the caller to stop between two steps of the network. The chunk in the network is dropped; a
            computed chunk is saved.

    Yields:
        `Started`, then `Working` and `ChunkDone` in turn, then `Finished`, or `PartDone` for a part of the video; or
        `Stopped` after `stop` or `halt`.
    """
    stops = Stops(stop or threading.Event(), halt or threading.Event())
    try:
        yield from _Run(task, model, stops).events()
    except Exception as error:
        if not task.folder.exists():
            raise Fenced(task.folder.name) from error
        raise


class Prepared(NamedTuple):
    """What is known of a run before the first chunk."""

    identity: Identity
    canvas: Canvas
    chunk: int
    encoder_threads: int
    warnings: list[str]
    """The reasons why the run differs from the options."""


def prepared(task: UpscaleTask, model: Upscaler) -> Prepared:
    """Probe a video, and make the choices of `upscale`. Raises the same errors."""
    return _Run(task, model, Stops(threading.Event(), threading.Event())).prepared


class _Run:
    """One run of the pipeline, from the last checkpoint to the end of the video."""

    def __init__(self, task: UpscaleTask, model: Upscaler, stops: Stops) -> None:
        self._task, self._model, self._stops = task, model, stops
        options = task.options
        self._info = task.info or probe_source(task.source, options, task.limits)
        self._spec = output_spec(
            self._info,
            scale=options.scale,
            height=options.height,
            model_scale=task.natural or model.scale,
            codec=options.codec,
            crf=options.crf,
            hardware=encoder_of_job(task.encoder, model.device, task.folder, task.identity),
            limits=task.limits,
        )
        self._checkpoints = Checkpoints(task.folder)
        self._identity = Identity(
            input_sha256=sha256_of(task.source),
            model=model.identity(options.routing),
            weights=model.weights,
            place=model.place,
            options=options,
            encoder=self._spec.encoder,
            part=task.part.name if task.part is not None else "",
        )
        if task.identity is not None and (differs := self._identity.of_whole().differs(task.identity)):
            raise Unfit(f"this worker has another {differs} than the worker that has planned the job")
        self._manifest, self._state, unused = self._checkpoints.load(self._identity)
        if unused:
            self._manifest.warnings.append(unused)
        self._take_over(self._identity)
        self._fit_chunk()
        self._choose_threads()
        self._figures = self._open_figures()
        self._checkpointed_at = time.perf_counter()
        self._progress = ProgressCounter(self._frames_total(), self._manifest.frames)

    @property
    def prepared(self) -> Prepared:
        """What is known before the first chunk."""
        manifest, chunk, canvas = self._manifest, self._task.frames_per_chunk, self._info.video.canvas
        return Prepared(self._identity, canvas, chunk, manifest.encoder_threads, manifest.warnings)

    def _frames_total(self) -> int | None:
        """Number of frames to compute; None if the file does not state the number."""
        total, part = self._info.video.output_frames, self._task.part
        if part is None:
            return total
        return total - part.first if part.frames is None and total is not None else part.frames

    def _take_over(self, identity: Identity) -> None:
        """Go on with a checkpoint of another kind of device or another number format. Finished chunks stay."""
        manifest = self._manifest
        if self._state is None or not identity.moved_from(manifest.identity):
            return
        self._state = self._model.adopt(self._state)
        manifest.warnings.append(
            f"The first {manifest.frames} frames were computed on another device ({manifest.identity.place}) than the "
            f"following ones ({identity.place}). The results of both differ by rounding."
        )
        manifest.identity = identity

    def _fit_chunk(self) -> None:
        """Shorten the chunks to the free memory. A resumed job keeps its chunks: the result's bytes do not change."""
        task, video = self._task, self._info.video
        if self._manifest.segments == 0 and task.chunk is None:
            lookahead, wanted = task.options.lookahead, task.options.chunk
            sample_bytes = 2 if video.bit_depth > 8 else 1
            budget = task.max_model_bytes
            pixels = video.width * video.height
            fits = max(
                1, longest_chunk(self._model, pixels, wanted, lookahead, sample_bytes=sample_bytes, budget=budget)
            )
            if fits < wanted:
                self._manifest.chunk = fits
                needed = needed_bytes(self._model, pixels, wanted + lookahead, sample_bytes=sample_bytes)
                self._manifest.warnings.append(
                    f"Chunks of {wanted} frames need about {needed / 1e9:.1f} GB of memory, and the worker has less "
                    f"(SKIPVSR_MAX_MODEL_BYTES): the job uses chunks of {fits} frames."
                )
        shorter = [chunk for chunk in (task.chunk, self._manifest.chunk) if chunk]
        self._task = replace(task, chunk=min(shorter, default=None))

    def _choose_threads(self) -> None:
        """Choose the threads of the encoder for this machine. A resumed job keeps its threads and bytes."""
        if self._manifest.segments == 0:
            cores, shared = len(os.sched_getaffinity(0)), self._model.device.type == "cpu"
            self._manifest.encoder_threads = self._task.encoder_threads or job_threads(cores, shared=shared)
        self._spec = replace(self._spec, threads=self._manifest.encoder_threads)

    def _chunks_ahead(self) -> int:
        """Return for how many next chunks in the network the memory suffices."""
        task, video = self._task, self._info.video
        return halves_beside(
            self._model,
            video.width * video.height,
            task.frames_per_chunk + task.options.lookahead,
            sample_bytes=2 if video.bit_depth > 8 else 1,
            budget=task.max_model_bytes,
        )

    def _open_figures(self) -> FiguresWriter | None:
        """The writer of the chunks' figures; None if no chunk is left, because the figures may be published."""
        manifest = self._manifest
        if manifest.complete:
            return None
        shared = facts(self._model, self._info, self._spec, resumed=manifest.segments > 0)
        writer = FiguresWriter(self._task.folder, shared, manifest.segments)
        if writer.chunks < manifest.segments:
            lost = "The figures of the first chunks are lost: report and skip map begin later."
            manifest.warnings = list(dict.fromkeys([*manifest.warnings, lost]))
        return writer

    def events(self) -> Generator[Event]:
        """Run, and yield the events."""
        resumed = self._manifest.segments > 0
        yield Started(self._info, self._spec, self._progress.at_checkpoint(), resumed, self._warnings())
        if not self._manifest.complete:
            yield from self._chunks()
        if self._manifest.complete and self._task.part is not None:
            yield PartDone(self._progress.at_checkpoint(complete=True), self._manifest.metrics)
        elif self._manifest.complete and (finished := (yield from self._finish())) is not None:
            yield finished
        elif self._manifest.complete or self._stops.before_chunk:
            yield Stopped(self._progress.at_checkpoint(), self._manifest.metrics)
        else:
            raise UnusableVideo("the video has no frames that can be decoded")

    def _chunks(self) -> Generator[Working | ChunkDone]:
        """Decode, upscale and encode chunk by chunk."""
        task = self._task
        decoder = DecodeStage(task, self._manifest, self._info.video.canvas)
        frames = Prefetcher(decoder, depth=max(2, task.frames_per_chunk), name="decode")
        coming = run_model(
            frames,
            self._model,
            self._take_state(),
            self._manifest.pending,
            task,
            self._stops,
            self._progress,
            ahead=self._chunks_ahead(),
            yuv=device_format(self._model, self._spec, self._info.video.width, self._info.video.height),
        )
        chunks = Prefetcher(coming, depth=2, name="model")  # one is encoded while the next is computed

        def abandon() -> None:
            """End the decoder if the run is halted. The model's thread may wait for a frame."""
            if self._stops.halt.is_set():
                frames.abandon()  # first: the decoder's death is no error then
                decoder.abandon()

        with chunks, frames:  # closes the frames first, which ends the chunks
            try:
                for chunk in chunks.polled(_PAUSE):
                    if chunk is None:
                        yield self._working()
                        abandon()
                        continue
                    with suppress(Dropped):
                        for event in self._encode(chunk, decoder):
                            yield event
                            abandon()
                    del chunk
            finally:
                self._stops.closed.set()
                decoder.abandon()

    def _take_state(self) -> RecurrentState | None:
        """Hand the state over to the model's thread; a second reference would keep the memory for the whole run."""
        state, self._state = self._state, None
        return state

    def _working(self) -> Working:
        return Working(self._progress.now(), self._progress.seconds_to_checkpoint())

    def _encode(self, chunk: ComingChunk, decoder: DecodeStage) -> Generator[Working | ChunkDone]:
        """Write a chunk's segment, and commit the checkpoint after the chunk. Raises Dropped."""
        before, started = self._manifest, time.perf_counter()
        shown = started
        for written in encode(chunk, self._checkpoints, before.segments, self._spec, pause=_PAUSE):
            self._progress.write(written)
            if (now := time.perf_counter()) - shown >= _PAUSE:
                shown = now
                yield self._working()
        self._manifest = manifest = after_chunk(
            before,
            chunk,
            decode_seconds=decoder.take_seconds(),
            encode_seconds=time.perf_counter() - started - chunk.feed.waited,
            warnings=decoder.warnings,
        )
        self._add_figures(before.frames + (self._task.part.first if self._task.part else 0), chunk.result)
        self._checkpoints.commit(manifest, chunk.result.state)
        self._progress.save(manifest.frames, encoding=encoding_share(manifest.metrics))
        yield ChunkDone(
            before.segments,
            len(chunk.pts),
            chunk.result.seconds,
            self._progress.at_checkpoint(complete=True) if manifest.complete else self._progress.now(),
            manifest.metrics,
            stage_seconds(before.metrics, manifest.metrics),
            chunk.result.reports,
        )

    def _add_figures(self, first: int, result: ChunkResult) -> None:
        """Store the figures of a chunk. After an interruption, a chunk computed again replaces its figures."""
        assert self._figures is not None
        now = time.perf_counter()
        shape, fold = self._figures.shape, self._model.config.fold
        self._figures.add(
            chunk_figures(first, result, now - self._checkpointed_at),
            [packed(report, shape, fold) for report in result.reports],
        )
        self._checkpointed_at = now

    def _finish(self) -> Generator[Working, None, Finished | None]:
        """Join the segments, and copy the source's other tracks; return None if the caller halts the run."""
        manifest, spec, task = self._manifest, self._spec, self._task
        out = task.folder / f"result.{spec.container}"
        progress = self._progress.at_checkpoint(complete=True)
        steps = assembling(self._checkpoints.segments(manifest), task.source, out, spec, limits=task.limits)
        with closing(steps):
            while True:
                try:
                    next(steps)
                except StopIteration as end:
                    done: Assembled = end.value
                    break
                if self._stops.halt.is_set():
                    return None
                yield Working(progress, None)
        warnings = list(dict.fromkeys([*self._warnings(), *done.warnings]))
        return Finished(out, spec, progress, manifest.metrics, warnings, done.frame_rate)

    def _warnings(self) -> list[str]:
        return [*self._info.warnings, *self._spec.warnings, *self._manifest.warnings]
