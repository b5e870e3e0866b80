"""Account for time and work: one `RoutingReport` for each emitted frame."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from model.engine.calibration import DenseTimes, StepCounts, StepTimes, Stopwatch
from model.engine.chunk import Chunk
from model.engine.clock import Clock, Seconds
from model.engine.execute import normalised, run_chunk
from model.engine.state import RecurrentState
from model.engine.work import Interrupted, Observer, Work
from model.faults import memory_ran_out
from model.gates.skipping import Skipper
from model.mask.plan import ChunkPlan, dense_plan
from model.network.basicvsr import BasicVSR
from model.network.folding import fold_frames
from model.routing import RoutingReport


class Accounting:
    """Reports the time and the work of chunks, and compares both with the dense network."""

    def __init__(self, network: BasicVSR, device: torch.device, clock: Clock) -> None:
        self._network, self._device, self._clock = network, device, clock
        self._dense_times = DenseTimes(network)

    def reports(
        self, chunk: Chunk, computing: Seconds, times: StepTimes, observer: Observer | None = None
    ) -> list[RoutingReport]:
        """Return a report for each emitted frame; `computing` is the time without planning.

        `times` are those of the chunk's steps. `observer` follows the dense network if no step gives the dense time.
        """
        self._dense_times.add(_size(chunk.stored), times)
        if not chunk.emit:
            return []
        seconds, busy = (chunk.planning + computing).tolist()
        dense = seconds * self._dense_share(chunk, busy, float(computing[1]), times, observer)
        each = seconds / chunk.emit, dense / chunk.emit
        blocks = self._network.config.blocks
        return [report for scene in chunk.scenes for report in _scene_reports(scene.plan, scene.gates, blocks, *each)]

    def _dense_share(
        self, chunk: Chunk, busy: float, network: float, times: StepTimes, observer: Observer | None
    ) -> float:
        """Return the dense network's time for a chunk over the chunk's own computing time `busy`.

        `network` is the computing time without planning.
        """
        if chunk.batch_key is not None:  # everything was computed: the dense time is the own time without planning
            return network / busy if any(scene.plan.halo for scene in chunk.scenes) else 1.0
        if not any(scene.plan.halo or scene.plan.rests or scene.gates for scene in chunk.scenes):
            return 1.0
        size = _size(chunk.stored)
        if not self._dense_times.known(size):  # nothing ran on a whole frame in this process: a resumed job
            try:
                self.run_dense(chunk.stored[:2], min(len(chunk.stored), 2), None, observer=observer)
            except (RuntimeError, Interrupted) as error:
                if not (isinstance(error, Interrupted) or memory_ran_out(error)):
                    raise
                return 1.0  # the frames exist already: report no speedup instead
        counts = StepCounts()
        for scene in chunk.scenes:
            counts += StepCounts.of(len(scene.frames), scene.emit, continues=scene.before.last is not None)
        return (network - times.routed() + self._dense_times.seconds(size, counts)) / busy

    def run_dense(
        self, frames: Tensor, emit: int, before: RecurrentState | None, *, observer: Observer | None = None
    ) -> float:
        """Run the dense network over frames [T, H, W, 3] and return the computing time; keep the times of its steps."""
        begun = self._clock.computing()
        folded, states = fold_frames(frames, self._network.fold), [before] if before else []
        plan = dense_plan(folded, emit)
        work = Work.finished(observer) if observer else None
        times = StepTimes(Stopwatch(self._device))
        lr = [normalised(frame) for frame in folded]
        run_chunk(self._network, lr, plan, states, frames.dtype, times, work)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._dense_times.add(_size(frames), times)
        return (self._clock.computing() - begun) * self._clock.threads()


def _size(frames: Tensor) -> tuple[object, ...]:
    """Return what frames [T, H, W, 3] with the same dense time have in common."""
    return (*frames.shape[1:3], frames.dtype)


def _scene_reports(
    plan: ChunkPlan, gates: Skipper | None, blocks: int, seconds: float, dense: float
) -> list[RoutingReport]:
    """Report the frames of one scene. The emitted frames share the work of the look-ahead frames equally."""
    emit, tiles = len(plan.forward), plan.tiles[0] * plan.tiles[1]
    behind = [plan.painted(rectangles) for rectangles in plan.backward]
    backward = [int(mask.sum()) for mask in behind]
    forward_share = gates.shares["forward"] if gates else [0.0] * emit
    backward_share = gates.shares["backward"][::-1] if gates else [0.0] * len(backward)
    backward_share = [1.0 if i in plan.rests else share for i, share in enumerate(backward_share)]
    backward_skipped = [n * share for n, share in zip(backward, backward_share, strict=True)]
    beyond, beyond_run = (len(backward) - emit) * tiles / emit, sum(backward[emit:]) / emit
    beyond_skipped = sum(backward_skipped[emit:]) / emit
    reports = []
    for i, rectangles in enumerate(plan.forward):
        ahead = plan.painted(rectangles)
        forward = int(ahead.sum())
        total, met = blocks * (2 * tiles + beyond), blocks * (forward + backward[i] + beyond_run)
        run = ahead * (1 - forward_share[i]) + behind[i] * (1 - backward_share[i])
        reports.append(
            RoutingReport(
                units_total=round(total),
                units_reused=round(total - met),
                units_skipped=round(blocks * (forward * forward_share[i] + backward_skipped[i] + beyond_skipped)),
                tiles_reused=tiles - forward,
                seconds=seconds,
                dense_seconds=dense,
                left_out=(1 - run / 2).astype(np.float32),
            )
        )
    return reports
