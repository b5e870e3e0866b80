"""Compute planned chunks in two halves: flow and backward branch, then forward branch and HR frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from model.device import memory_errors
from model.engine.accounting import Accounting
from model.engine.calibration import StepTimes, Stopwatch
from model.engine.chunk import Chunk, ChunkResult
from model.engine.clock import Seconds
from model.engine.execute import ChunkRun, PreviousFrame, batched, last_frames, normalised
from model.engine.state import RecurrentState
from model.engine.strands import Executor, Steps, Strand, single
from model.engine.transfers import Download, Transfers
from model.engine.work import Observer, StepCosts, Work
from model.engine.yuv import to_yuv
from model.network.basicvsr import BasicVSR


@dataclass(frozen=True)
class Begun:
    """Chunks of one batch whose backward half has begun."""

    chunks: Sequence[Chunk]
    runs: list[ChunkRun]
    """One for each scene, filled by the backward half."""
    backward: Strand[None]
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

    def begin(self, chunks: Sequence[Chunk], executor: Executor, observer: Observer | None = None) -> Begun:
        """Begin the backward half of chunks with equal batch keys. Raises DeviceError if memory runs out.

        `observer` follows the steps of a single chunk, also in its forward half.
        """
        spent, times, runs = np.zeros(2), StepTimes(Stopwatch(self._device)), list[ChunkRun]()
        backward = Strand(self._backward(chunks, runs, times, observer), spent)
        begun = Begun(chunks, runs, backward, spent, times, observer)
        with memory_errors(self._device, chunks[0].stored.shape):
            executor.start(begun.backward)
        return begun

    def finish(
        self, begun: Begun, executor: Executor, states: Sequence[RecurrentState] | None = None
    ) -> Strand[list[ChunkResult]]:
        """Begin the forward half; the strand's value is the chunks' results. Raises DeviceError if memory runs out.

        `states` are the complete states before the chunks, by default those of the chunks.
        """
        chunks = begun.chunks
        if states is not None:
            moved = [state.to(self._device) for state in states]
            chunks = [replace(chunk, before=state) for chunk, state in zip(chunks, moved, strict=True)]
        forward = Strand(self._forward(chunks, begun.runs), begun.spent, begun.backward)
        results = Strand(single(partial(self._results, chunks, forward, begun)), np.zeros(2), forward)
        with memory_errors(self._device, chunks[0].stored.shape):
            executor.start(forward)
            if self._device.type == "cpu":
                executor.start(results)
        return results

    def wait(self, begun: Begun, results: Strand[list[ChunkResult]], executor: Executor) -> list[ChunkResult]:
        """Return the results. Raises DeviceError if memory ran out, or the error of a step."""
        with memory_errors(self._device, begun.chunks[0].stored.shape):
            if self._device.type != "cpu":  # the frames were on their way meanwhile
                executor.start(results)
            return executor.wait(results)

    def _backward(
        self, chunks: Sequence[Chunk], runs: list[ChunkRun], times: StepTimes, observer: Observer | None
    ) -> Steps[None]:
        """Run the backward half of each scene; several chunks run as a batch."""
        work = self._work(chunks[0], observer) if observer else None
        for scenes in zip(*(chunk.scenes for chunk in chunks), strict=True):
            first = scenes[0]
            lr = [batched([normalised(scene.folded[i]) for scene in scenes]) for i in range(len(first.folded))]
            before = last_frames([scene.before for scene in scenes], self._network.fold)
            network = first.gates.network if first.gates else self._network
            run = ChunkRun(network, lr, first.plan, before, first.frames.dtype, times, first.gates, work)
            runs.append(run)
            yield from run.backward_half()

    def _forward(self, chunks: Sequence[Chunk], runs: list[ChunkRun]) -> Steps[list[tuple[Download, RecurrentState]]]:
        """Run the forward half of each scene; return the HR frames of each chunk and the state after the chunk."""
        parts: list[list[Tensor]] = [[] for _ in chunks]
        feats: Sequence[Tensor | None] = [chunk.before.feat for chunk in chunks]
        hr = [chunk.before.hr for chunk in chunks]
        for index, run in enumerate(runs):
            continues = chunks[0].scenes[index].before.last is not None
            previous = PreviousFrame.of([chunk.before for chunk in chunks]) if continues else None
            frames, feat = yield from run.forward_half(previous)
            for part, new in zip(parts, frames, strict=True):
                part.append(new)
            feats, hr = [each.contiguous() for each in feat], [new[-1].clone() for new in frames]
        runs.clear()  # and with them the features of all frames
        states = [
            replace(chunk.planned_state, feat=feat, hr=last)
            for chunk, feat, last in zip(chunks, feats, hr, strict=True)
        ]
        return list(zip(map(self._frames, chunks, parts), states, strict=True))

    def _work(self, chunk: Chunk, observer: Observer) -> Work:
        """Return the work of a chunk, of which the observer is told."""
        total = 0.0
        for scene in chunk.scenes:
            h, w = scene.folded.shape[1:3]
            total += self._costs.of_plan(scene.plan, h, w, continues=scene.before.last is not None)
        return Work(self._costs, total, observer)

    def _frames(self, chunk: Chunk, parts: list[Tensor]) -> Download:
        """Return the frames of `ChunkResult`, given the HR frames of each scene."""
        _, h, w, _ = chunk.stored.shape
        scale = self._network.scale
        parts = parts or [chunk.stored.new_empty(0, h * scale, w * scale, 3)]
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        whole = whole[:, : h * scale, : w * scale].contiguous()
        return self._transfers.download(to_yuv(whole, chunk.yuv) if chunk.yuv else whole)

    def _results(
        self, chunks: Sequence[Chunk], forward: Strand[list[tuple[Download, RecurrentState]]], begun: Begun
    ) -> list[ChunkResult]:
        """Return the result of each chunk, with its reports."""
        share = begun.spent / len(chunks)
        results = []
        for chunk, (download, state) in zip(chunks, forward.value, strict=True):
            frames = download.frames()  # first: the times of a GPU are known after the last step
            cuts = [cut for cut in chunk.scene_cuts if cut < chunk.emit]
            reports = self._accounting.reports(chunk, share, begun.times, begun.observer)
            results.append(ChunkResult(frames, state, reports, cuts, len(chunks)))
        return results
