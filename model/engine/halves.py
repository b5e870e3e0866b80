"""Compute planned chunks in two halves: flow and backward branch, then forward branch and HR frames.

Each half is two strands that run side by side (`model.engine.strands`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from model.device import memory_errors
from model.engine.accounting import Accounting
from model.engine.calibration import StepTimes, Stopwatch
from model.engine.chunk import Chunk, ChunkResult, Receiver
from model.engine.clock import Seconds
from model.engine.execute import ChunkRun, PreviousFrame, batched, last_frames, normalised
from model.engine.state import RecurrentState
from model.engine.strands import Executor, Fate, Steps, Strand, single
from model.engine.transfers import Download, Transfers
from model.engine.work import Observer, StepCosts, Work
from model.engine.yuv import to_yuv
from model.network.basicvsr import BasicVSR

_FORWARD, _OUTPUT, _BACKWARD, _FLOW = range(4)
"""Order of a chunk's strands: the forward branch, a chain through all chunks, never waits for another step to end."""


@dataclass(frozen=True)
class Begun:
    """Chunks of a batch after the start of their backward half."""

    chunks: Sequence[Chunk]
    turn: int
    fate: Fate
    runs: list[ChunkRun]
    """One for each scene, filled by the backward half."""
    strands: Sequence[Strand[None]]
    """Flow and backward branch."""
    spent: Seconds
    """Time of both halves."""
    times: StepTimes
    """Times of the steps of both halves."""
    observer: Observer | None


class Halves:
    """Computes the halves of chunks with one network on a device."""

    def __init__(self, network: BasicVSR, device: torch.device, accounting: Accounting) -> None:
        self._network, self._device, self._accounting = network, device, accounting
        self._costs, self._transfers = StepCosts.of(network), Transfers(device)

    def begin(
        self,
        chunks: Sequence[Chunk],
        executor: Executor,
        *,
        turn: int = 0,
        used: Callable[[], float] = float,
        observer: Observer | None = None,
        in_turn: bool = False,
    ) -> Begun:
        """Begin the backward half of chunks with equal batch keys.

        An executor with several chunks prefers the stream that has `used` the least time, then a lower `turn`.
        `observer` follows the steps of a single chunk, also in its forward half. `in_turn`: the strands of the chunks
        take turns. Each step gets all cores if no other chunk is in work.
        """
        fate, spent, times = Fate(used, in_turn=in_turn), np.zeros(2), StepTimes(Stopwatch(self._device))
        runs: list[ChunkRun] = []
        flow = Strand(self._flow(chunks, runs, times, observer), spent, (turn, _FLOW), fate)
        backward = Strand(self._backward(len(chunks[0].scenes), runs), spent, (turn, _BACKWARD), fate)
        executor.start(flow, backward)
        return Begun(chunks, turn, fate, runs, (flow, backward), spent, times, observer)

    def finish(
        self,
        begun: Begun,
        executor: Executor,
        states: Sequence[RecurrentState] | None = None,
        receiver: Receiver | None = None,
    ) -> Strand[list[ChunkResult]]:
        """Begin the forward half; the strand's value is the chunks' results.

        `states` are the complete states before the chunks, by default those of the chunks. `receiver` gets the HR
        frames of a single chunk one by one.
        """
        chunks = begun.chunks
        if states is not None:
            moved = [state.to(self._device) for state in states]
            chunks = [replace(chunk, before=state) for chunk, state in zip(chunks, moved, strict=True)]
        turn, fate, runs, spent = begun.turn, begun.fate, begun.runs, begun.spent
        before = begun.strands
        forward = Strand(self._forward(chunks, runs), spent, (turn, _FORWARD), fate, before, heavy=True)
        due = partial(_any_due, runs)
        frames = Strand(self._hr_frames(chunks, runs, receiver), spent, (turn, _OUTPUT), fate, before, condition=due)
        collect = single(partial(self._results, chunks, forward, frames, begun))
        # The frames of an accelerator are on their way while the host begins the next chunk.
        late = (turn, _OUTPUT) if self._device.type == "cpu" else (turn + 1, _FLOW + 1)
        results = Strand(collect, np.zeros(2), late, fate, [forward, frames])
        executor.start(forward, frames, results)
        return results

    def wait(self, begun: Begun, results: Strand[list[ChunkResult]], executor: Executor) -> list[ChunkResult]:
        """Return the results. Raises DeviceError if memory ran out, or the error of a step."""
        with memory_errors(self._device, begun.chunks[0].stored.shape):
            return executor.wait(results)

    def _flow(
        self, chunks: Sequence[Chunk], runs: list[ChunkRun], times: StepTimes, observer: Observer | None
    ) -> Steps[None]:
        """Prepare each scene, and estimate its flow; several chunks run as a batch."""
        work = self._work(chunks[0], observer) if observer else None
        for scenes in zip(*(chunk.scenes for chunk in chunks), strict=True):
            first = scenes[0]
            lr = [batched([normalised(scene.folded[i]) for scene in scenes]) for i in range(len(first.folded))]
            before = last_frames([scene.before for scene in scenes], self._network.fold)
            network = first.gates.network if first.gates else self._network
            run = ChunkRun(network, lr, first.plan, before, first.frames.dtype, times, first.gates, work)
            runs.append(run)
            yield None
            yield from run.flow()

    def _backward(self, scenes: int, runs: list[ChunkRun]) -> Steps[None]:
        """Run the backward branch of each scene."""
        for index in range(scenes):
            yield partial(_has, runs, index)
            yield from runs[index].backward_branch()

    def _forward(self, chunks: Sequence[Chunk], runs: list[ChunkRun]) -> Steps[Sequence[Tensor | None]]:
        """Run the forward branch of each scene; return the features of each chunk at the last emitted frame."""
        feats: Sequence[Tensor | None] = [chunk.before.feat for chunk in chunks]
        for index, run in enumerate(runs):
            feat = yield from run.forward_branch(_previous(chunks, index))
            feats = [each.contiguous() for each in feat]
        return feats

    def _hr_frames(
        self, chunks: Sequence[Chunk], runs: list[ChunkRun], receiver: Receiver | None
    ) -> Steps[list[tuple[Tensor | None, Download]]]:
        """Reconstruct each scene; return for each chunk the last HR frame, and all frames on their way to the host."""
        parts: list[list[Tensor]] = [[] for _ in chunks]
        one_by_one = receiver and self._device.type == "cpu" and not chunks[0].yuv
        show = partial(self._show, chunks[0], receiver) if receiver and one_by_one else None
        for index, run in enumerate(runs):
            frames = yield from run.hr_frames(_previous(chunks, index), show)
            for part, new in zip(parts, frames, strict=True):
                part.append(new)
        lasts = [part[-1][-1].clone() if part else chunk.before.hr for chunk, part in zip(chunks, parts, strict=True)]
        return list(zip(lasts, map(self._frames, chunks, parts), strict=True))

    def _work(self, chunk: Chunk, observer: Observer) -> Work:
        """Return the work of a chunk, of which the observer is told."""
        total = 0.0
        for scene in chunk.scenes:
            h, w = scene.folded.shape[1:3]
            total += self._costs.of_plan(scene.plan, h, w, continues=scene.before.last is not None)
        return Work(self._costs, total, observer)

    def _show(self, chunk: Chunk, receiver: Receiver, frame: Tensor) -> None:
        """Give an HR frame [4 h, 4 w, 3] to a receiver."""
        _, h, w, _ = chunk.stored.shape
        receiver(frame[: h * self._network.scale, : w * self._network.scale].numpy())

    def _frames(self, chunk: Chunk, parts: list[Tensor]) -> Download:
        """Return the frames of `ChunkResult`, given the HR frames of each scene."""
        _, h, w, _ = chunk.stored.shape
        scale = self._network.scale
        parts = parts or [chunk.stored.new_empty(0, h * scale, w * scale, 3)]
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        whole = whole[:, : h * scale, : w * scale].contiguous()
        return self._transfers.download(to_yuv(whole, chunk.yuv) if chunk.yuv else whole)

    def _results(
        self,
        chunks: Sequence[Chunk],
        forward: Strand[Sequence[Tensor | None]],
        frames: Strand[list[tuple[Tensor | None, Download]]],
        begun: Begun,
    ) -> list[ChunkResult]:
        """Return the result of each chunk, with its reports."""
        begun.runs.clear()  # and with them the features of all frames
        share = begun.spent / len(chunks)
        results = []
        for chunk, feat, (hr, download) in zip(chunks, forward.value, frames.value, strict=True):
            whole = download.frames()  # first: the times of a GPU's steps are known after the last step
            state = replace(chunk.planned_state, feat=feat, hr=hr)
            cuts = [cut for cut in chunk.scene_cuts if cut < chunk.emit]
            reports = self._accounting.reports(chunk, share, begun.times, begun.observer)
            results.append(ChunkResult(whole, state, reports, cuts, len(chunks)))
        return results


def _previous(chunks: Sequence[Chunk], scene: int) -> PreviousFrame | None:
    """Return the results at the frame before a scene; None at the start of a scene."""
    continues = chunks[0].scenes[scene].before.last is not None
    return PreviousFrame.of([chunk.before for chunk in chunks]) if continues else None


def _any_due(runs: Sequence[ChunkRun]) -> bool:
    """Check whether the upsampler has something to do: the first frame of the first scene, or nothing at all."""
    return not runs or runs[0].any_due()


def _has(items: Sized, index: int) -> bool:
    return len(items) > index
