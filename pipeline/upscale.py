"""From a video file to its upscaled copy: decode → model → encode, with a checkpoint after each chunk.

Each stage runs in its own thread, so the stages overlap in time: while the caller's thread encodes a chunk, another
thread computes the next chunk, and a third thread decodes frames ahead.

    for event in upscale(task, model):
        print(event.progress)

`upscale` is a generator that knows neither Redis nor HTTP. A caller that closes the generator between two events loses
only the chunk in work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from dataclasses import replace

from jobs.storage import Fenced
from media.assemble import assemble
from media.errors import UnusableVideo
from media.probe import probe
from media.spec import output_spec
from model.engine.budget import longest_chunk, needed_bytes
from model.engine.state import RecurrentState
from model.engine.upscaler import Upscaler
from pipeline.accounting import ProgressCounter, after_chunk, stage_seconds
from pipeline.checkpoint import Checkpoints, Identity, sha256_of
from pipeline.events import ChunkDone, Event, Finished, Started, Stopped
from pipeline.prefetch import Prefetcher
from pipeline.stages import ComputedChunk, DecodeStage, encode, run_model
from pipeline.task import UpscaleTask


def upscale(task: UpscaleTask, model: Upscaler, *, stop: threading.Event | None = None) -> Generator[Event]:
    """Upscale a video, from its last checkpoint if there is one.

    Raises MediaError, ModelError, OSError, and `Fenced` if another worker has taken the working folder.

    Args:
        task: the video.
        model: the network.
        stop: set by the caller to stop before the next chunk.

    Yields:
        `Started`, then `ChunkDone` per chunk, then `Finished`; or `Stopped` if the caller sets `stop`.
    """
    try:
        yield from _Run(task, model, stop or threading.Event()).events()
    except Exception as error:
        if not task.folder.exists():
            raise Fenced(task.folder.name) from error
        raise


class _Run:
    """One run of the pipeline, from the last checkpoint to the end of the video."""

    def __init__(self, task: UpscaleTask, model: Upscaler, stop: threading.Event) -> None:
        self._task, self._model, self._stop = task, model, stop
        options = task.options
        fields = options.deinterlace == "field"
        self._info = probe(task.source, task.limits, target=options.container, fields=fields)
        self._spec = output_spec(
            self._info,
            scale=options.scale,
            height=options.height,
            model_scale=model.scale,
            codec=options.codec,
            crf=options.crf,
            hardware=task.encoder,
            limits=task.limits,
        )
        self._checkpoints = Checkpoints(task.folder)
        identity = Identity(
            input_sha256=sha256_of(task.source),
            model=model.identity(options.routing),
            options=options,
            encoder=self._spec.encoder,
        )
        self._manifest, self._state, unused = self._checkpoints.load(identity)
        if unused:
            self._manifest.warnings.append(unused)
        self._fit_chunk()
        self._progress = ProgressCounter(self._info.video.output_frames, self._manifest.frames)

    def _fit_chunk(self) -> None:
        """Shorten the chunks to the memory there is. A resumed job keeps its chunks, and so the bytes of its result."""
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

    def events(self) -> Generator[Event]:
        """Run, and yield the events."""
        done = self._manifest.frames
        yield Started(self._info, self._spec, self._progress.at(done), self._manifest.segments > 0, self._warnings())
        if not self._manifest.complete:
            yield from self._chunks()
        if self._manifest.complete:
            yield self._finish()
        elif self._stop.is_set():
            yield Stopped(self._progress.at(self._manifest.frames), self._manifest.metrics)
        else:
            raise UnusableVideo("the video has no frames that can be decoded")

    def _chunks(self) -> Generator[ChunkDone]:
        """Decode, upscale and encode chunk by chunk."""
        task = self._task
        decoder = DecodeStage(task, self._manifest, self._info.video.canvas)
        frames = Prefetcher(decoder, depth=max(2, task.frames_per_chunk), name="decode")
        chunks = Prefetcher(
            run_model(frames, self._model, self._take_state(), self._manifest.pending, task, self._stop),
            depth=1,
            name="model",
        )
        with chunks, frames:  # closes the frames first, which ends the chunks
            for chunk in chunks:
                yield self._encode(chunk, decoder)
                del chunk

    def _take_state(self) -> RecurrentState | None:
        """Hand the state over to the model's thread; a second reference would keep the memory for the whole run."""
        state, self._state = self._state, None
        return state

    def _encode(self, chunk: ComputedChunk, decoder: DecodeStage) -> ChunkDone:
        """Write a chunk's segment, and commit the checkpoint after the chunk."""
        before, started = self._manifest, time.perf_counter()
        encode(chunk, self._checkpoints, before.segments, self._spec)
        self._manifest = after_chunk(
            before,
            chunk,
            decode_seconds=decoder.take_seconds(),
            encode_seconds=time.perf_counter() - started,
            warnings=decoder.warnings,
        )
        self._checkpoints.commit(self._manifest, chunk.result.state)
        return ChunkDone(
            before.segments,
            len(chunk.pts),
            chunk.result.seconds,
            self._progress.at(self._manifest.frames, complete=self._manifest.complete),
            self._manifest.metrics,
            stage_seconds(before.metrics, self._manifest.metrics),
            chunk.result.reports,
        )

    def _finish(self) -> Finished:
        """Join the segments, and copy the source's other tracks."""
        manifest, spec, task = self._manifest, self._spec, self._task
        out = task.folder / f"result.{spec.container}"
        done = assemble(self._checkpoints.segments(manifest), task.source, out, spec, limits=task.limits)
        progress = self._progress.at(manifest.frames, complete=True)
        warnings = list(dict.fromkeys([*self._warnings(), *done.warnings]))
        return Finished(out, spec, progress, manifest.metrics, warnings, done.frame_rate)

    def _warnings(self) -> list[str]:
        return [*self._info.warnings, *self._spec.warnings, *self._manifest.warnings]
