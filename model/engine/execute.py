"""Run a chunk by its plan: rectangles go through the network as crops, all other tiles reuse the neighbouring frame.

Dense execution is the plan with one crop per frame, the whole frame; no second code path exists. Chunks of several
streams run as one batch if all of their plans are dense.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from model.engine.bands import run_in_bands, tail_bands, tail_halo
from model.engine.calibration import Step, StepTimes, Stopwatch
from model.engine.clock import Clock
from model.engine.region_flow import RegionFlow, pair_flows, planned_flows
from model.engine.state import RecurrentState
from model.engine.strands import Fate, Inline, Steps, Strand, conditioned
from model.engine.work import Work
from model.gates.skipping import Skipper
from model.mask.plan import ChunkPlan
from model.mask.rectangles import Rectangle
from model.network.basicvsr import BasicVSR, Branch, TrunkFunction
from model.network.flow import Sampled, warp
from model.network.folding import fold_frames, padded
from model.network.output import write_pixels
from model.network.propagation import backward_steps, forward_steps

AHEAD = 2
"""Most frames between the forward branch and the upsampler."""
CropStep = Callable[[Rectangle, Sampled | None, Tensor | None, TrunkFunction], Tensor]
"""(crop, features of the neighbouring frame, flow, trunk) -> features of the crop."""


@dataclass(frozen=True)
class PreviousFrame:
    """The results at the frame before a chunk, for B streams."""

    feat: Tensor
    """[B, C, H, W] forward features."""
    hr: Sequence[Tensor]
    """[4 H, 4 W, 3] integers, one for each stream."""

    @classmethod
    def of(cls, states: Sequence[RecurrentState]) -> PreviousFrame | None:
        """Return the results in states; None at the start of a scene. Either all states have one, or none."""
        feats = [s.feat[None].contiguous(memory_format=torch.channels_last) for s in states if s.feat is not None]
        return cls(batched(feats), [s.hr for s in states if s.hr is not None]) if feats else None


def last_frames(states: Sequence[RecurrentState], fold: int) -> Tensor | None:
    """Return the LR frames before a chunk [B, 3 f f, H, W] in [0, 1]; None at the start of a scene."""
    lasts = [normalised(fold_frames(state.last, fold)) for state in states if state.last is not None]
    return batched(lasts) if lasts else None


def run_chunk(
    net: BasicVSR,
    frames: Sequence[Tensor],
    plan: ChunkPlan,
    states: Sequence[RecurrentState],
    dtype: torch.dtype,
    times: StepTimes | None = None,
    work: Work | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Run all parts of a `ChunkRun` in the calling thread; `states` are those before the chunk, if any.

    Returns the HR frames [T', 4 H, 4 W, 3] of each stream, integers of `dtype`, and the forward features
    [B, C, H, W] at the last emitted frame.
    """
    device = frames[0].device
    times = times or StepTimes(Stopwatch(device))
    run = ChunkRun(net, frames, plan, last_frames(states, net.fold), dtype, times, work=work)
    previous, executor, fate, spent = PreviousFrame.of(states), Inline(Clock(device)), Fate(), np.zeros(2)
    flow = Strand(run.flow(), spent, (0, 3), fate)
    backward = Strand(run.backward_branch(), spent, (0, 2), fate)
    forward = Strand(run.forward_branch(previous), spent, (0, 1), fate, [backward])
    output = Strand(run.hr_frames(previous), spent, (0, 0), fate)
    executor.start(flow, backward, forward, output)
    return executor.wait(output), executor.wait(forward)


class ChunkRun:
    """The steps of one chunk, computed in the rectangles of its plan, in four parts.

    The parts can run side by side: each step tells the condition of the next step. Flow and backward branch need no
    results of the chunk before. Only the forward branch is a chain through all chunks.

    Args:
        net: the network.
        frames: [B, 3 f f, H, W] float32 in [0, 1] of B independent streams, look-ahead included. More than one stream
            needs a plan that `is_dense`, and no skipper.
        plan: the plan.
        before: the frame before the chunk [B, 3 f f, H, W]; None at the start of a scene.
        dtype: number format of the HR frames.
        times: measures the steps.
        skipper: gates for the crops.
        work: counts the steps.
    """

    def __init__(
        self,
        net: BasicVSR,
        frames: Sequence[Tensor],
        plan: ChunkPlan,
        before: Tensor | None,
        dtype: torch.dtype,
        times: StepTimes,
        skipper: Skipper | None = None,
        work: Work | None = None,
    ) -> None:
        self._net, self._frames, self._plan, self._before, self._skipper = net, frames, plan, before, skipper
        self._dtype, self._times, self._work = dtype, times, work
        self._count, _, self._h, self._w = frames[0].shape
        self._tasks = planned_flows(plan, self._h, self._w, continues=before is not None)
        self._awaited = {task.index for task in self._tasks}
        """Frames whose flow to the next frame is not known yet."""
        self._to_next: list[RegionFlow | None] = [None] * len(frames)
        self._to_previous: list[RegionFlow | None] = [None] * len(plan.forward)
        self._pixels: list[Tensor | None] = [None] * len(frames)
        self._backs: list[Tensor | None] = []
        self._due: deque[tuple[int, Tensor | None, Tensor | None]] = deque()
        """Frames to reconstruct, with the features of both branches."""
        self._hr: list[Tensor] = []

    def flow(self) -> Steps[None]:
        """Estimate the flow of each pair of frames, the last pair first."""
        for task, to_next, to_previous in pair_flows(self._net, self._frames, self._tasks, self._before, self._times):
            if to_next:
                self._to_next[task.index] = to_next
            if to_previous:
                self._to_previous[task.index + 1] = to_previous
            self._awaited.remove(task.index)
            if self._work:
                self._work.add(self._work.costs.flow * task.region.area * task.directions)
            yield None

    def backward_branch(self) -> Steps[None]:
        """Run the backward branch; each frame waits for the flow to the next frame."""
        count = len(self._frames)
        conditions = (partial(self._flows_known, index) for index in reversed(range(count)))
        self._backs = yield from conditioned(backward_steps(self, count, len(self._plan.forward)), conditions)

    def forward_branch(self, previous: PreviousFrame | None) -> Steps[Tensor]:
        """Run the forward branch after the backward branch, given the results at the frame before the chunk.

        A step waits while `AHEAD` frames are not reconstructed yet: their features take memory.
        Returns the features [B, C, H, W] at the last emitted frame.
        """
        steps = forward_steps(self, self._backs, previous.feat if previous else None)
        feat = yield from conditioned(steps, repeat(self._few_due))
        assert feat is not None
        return feat

    def hr_frames(
        self, previous: PreviousFrame | None, show: Callable[[Tensor], None] | None = None
    ) -> Steps[list[Tensor]]:
        """Reconstruct each frame after its forward step, given the results at the frame before the chunk.

        `show` receives each HR frame [4 H, 4 W, 3] of a single stream. Returns the HR frames [T', 4 H, 4 W, 3] of each
        stream, integers of `dtype`.
        """
        size = len(self._plan.forward), self._h * self._net.stride, self._w * self._net.stride, 3
        for index in range(size[0]):
            yield self.any_due
            if not index:
                device = self._frames[0].device
                self._hr = [torch.empty(size, dtype=self._dtype, device=device) for _ in range(self._count)]
            self._reconstruct(*self._due.popleft(), previous)
            if show:
                show(self._hr[0][index])
        return self._hr

    def backward(self, index: int, after: Tensor | None) -> Tensor | None:
        pixels = self._pixels[index] = self._net.pixels(self._frames[index])  # once, not once per branch and crop
        rests = index in self._plan.rests

        def step(crop: Rectangle, table: Sampled | None, flow: Tensor | None, trunk: TrunkFunction) -> Tensor:
            if rests and table is not None and flow is not None:
                return warp(table, flow, origin=(crop.y0, crop.x0))
            return self._net.backward_step(_cut(pixels, crop), table, flow, (crop.y0, crop.x0), trunk)

        feat = self._branch("backward", index, self._plan.backward[index], self._to_next[index], after, step)
        if self._work:
            self._work.add(self._work.costs.backward * _area(self._plan.backward_trunk(index)))
        return feat

    def forward(self, index: int, back: Tensor | None, before: Tensor | None) -> Tensor | None:
        pixels = self._pixels[index]
        assert pixels is not None

        def step(crop: Rectangle, table: Sampled | None, flow: Tensor | None, trunk: TrunkFunction) -> Tensor:
            assert back is not None, "the plan computes the backward features that a crop reads"
            origin = crop.y0, crop.x0
            return self._net.forward_step(_cut(pixels, crop), _cut(back, crop), table, flow, origin, trunk)

        return self._branch("forward", index, self._plan.forward[index], self._to_previous[index], before, step)

    def output(self, index: int, back: Tensor | None, feat: Tensor | None) -> None:
        self._due.append((index, back, feat))

    def _flows_known(self, index: int) -> bool:
        return index not in self._awaited

    def _few_due(self) -> bool:
        return len(self._due) < AHEAD

    def any_due(self) -> bool:
        """Check whether a frame waits for its reconstruction."""
        return bool(self._due)

    def _reconstruct(
        self, index: int, back: Tensor | None, feat: Tensor | None, previous: PreviousFrame | None
    ) -> None:
        whole = self._as_dense(self._plan.forward[index]) and not (self._skipper and self._skipper.gates_tail)
        with self._times.step("output", whole=whole):
            self._output(index, back, feat, previous)
        if self._work:
            self._work.add(self._work.costs.forward * _area(self._plan.forward[index]))

    def _output(self, index: int, back: Tensor | None, feat: Tensor | None, previous: PreviousFrame | None) -> None:
        rectangles = self._plan.forward[index]
        out = [stream[index] for stream in self._hr]
        if not _is_whole(rectangles, self._h, self._w):
            self._reuse_hr(index, out[0], previous)
        if not rectangles:
            return
        assert back is not None
        assert feat is not None
        around = padded(self._frames[index], self._net.fold)
        for rectangle in rectangles:
            parts: Sequence[Rectangle] = (rectangle,)
            if self._skipper:
                parts = self._skipper.tail(index, around, back, feat, rectangle, out[0])
            for band in (band for part in parts for band in tail_bands(self._net, part, self._count)):
                _reconstruct(self._net, around, back, feat, band, out)

    def _branch(
        self,
        branch: Branch,
        index: int,
        rectangles: Sequence[Rectangle],
        flow: RegionFlow | None,
        feat: Tensor | None,
        step: CropStep,
    ) -> Tensor | None:
        """Compute the features of a branch in the rectangles; elsewhere reuse `feat` of the neighbouring frame."""
        if not rectangles:
            if self._skipper:
                self._skipper.end_frame(branch)
            return feat
        aligned = feat is not None and flow is not None and not (branch == "backward" and index in self._plan.rests)
        with self._times.step("alignment", whole=aligned and self._as_dense(rectangles)) as alignment:
            return self._computed(branch, index, rectangles, flow, feat, step, alignment)

    def _computed(
        self,
        branch: Branch,
        index: int,
        rectangles: Sequence[Rectangle],
        flow: RegionFlow | None,
        feat: Tensor | None,
        step: CropStep,
        alignment: Step,
    ) -> Tensor:
        """Return `feat` with the branch's features in the rectangles; the trunk runs within the step `alignment`."""
        table = self._net.sampled(feat) if feat is not None else None  # once, not once per crop
        crops = []
        for rectangle in rectangles:
            outer = rectangle.grown(self._plan.halo, self._h, self._w)
            trunk = self._trunk(branch, index, outer, alignment)
            crop = step(outer, table, flow.inside(outer) if flow else None, trunk)
            crops.append(_cut(crop, rectangle.within(outer)))
        if self._skipper:
            self._skipper.end_frame(branch)
        return _pasted(feat, rectangles, crops, self._h, self._w)

    def _trunk(self, branch: Branch, index: int, crop: Rectangle, alignment: Step) -> TrunkFunction:
        """Return the trunk of a branch for a crop, measured as a step of its own."""
        gates = self._skipper
        plain: TrunkFunction = self._net.trunk(branch)
        if not self._net.accelerated:
            plain = partial(run_in_bands, self._net.trunk(branch))
        run = gates.trunk(branch, index, crop) if gates else plain
        whole = self._as_dense([crop]) and not (gates and gates.gates(branch, crop))

        def measured(x: Tensor) -> Tensor:
            with self._times.step(branch, whole=whole, within=alignment):
                return run(x)

        return measured

    def _as_dense(self, rectangles: Sequence[Rectangle]) -> bool:
        """Check whether the dense network runs the same rectangles, of one stream."""
        return self._count == 1 and _is_whole(rectangles, self._h, self._w)

    def _reuse_hr(self, index: int, out: Tensor, previous: PreviousFrame | None) -> None:
        """Copy the HR frame before into `out` [4 H, 4 W, 3], if any."""
        if index:
            out.copy_(self._hr[0][index - 1])
        elif previous:
            out.copy_(previous.hr[0])


def _reconstruct(
    net: BasicVSR, lr: Tensor, back: Tensor, feat: Tensor, rectangle: Rectangle, out: Sequence[Tensor]
) -> None:
    """Write the HR pixels of a rectangle into each `out` [4 H, 4 W, 3]. `lr` has one feature pixel around the frame."""
    h, w = feat.shape[-2:]
    outer = rectangle.grown(tail_halo(net), h, w)
    inner = rectangle.within(outer)
    residual = net.residual(_cut(back, outer), _cut(feat, outer), inner.y0, outer.height - inner.y1)
    residual = residual[..., inner.scaled(residual.shape[-1] // outer.width).columns]
    around = lr[..., rectangle.y0 : rectangle.y1 + 2, rectangle.x0 : rectangle.x1 + 2]
    hr = rectangle.scaled(net.stride)
    for index, frame in enumerate(out):
        part = slice(index, index + 1)
        write_pixels(frame[hr.rows, hr.columns], around[part], residual[part], whole=net.accelerated)


def is_dense(plan: ChunkPlan, h: int, w: int) -> bool:
    """Check whether a plan computes everything, as a batch requires: a dense plan, or a change of the whole frame."""
    return not plan.rests and all(_is_whole(rectangles, h, w) for rectangles in (*plan.backward, *plan.forward))


def normalised(frame: Tensor) -> Tensor:
    """Convert [H, W, C] integers to [1, C, H, W] float32 in [0, 1], channels last in memory."""
    peak = 255.0 if frame.dtype == torch.uint8 else 65535.0
    return frame[None].float().div_(peak).permute(0, 3, 1, 2)


def batched(items: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors [1, ...] to [B, ...]; a single tensor is not copied."""
    return items[0] if len(items) == 1 else torch.cat(list(items))


def _pasted(base: Tensor | None, rectangles: Sequence[Rectangle], crops: Sequence[Tensor], h: int, w: int) -> Tensor:
    """Return a copy of `base`, or of zeros, with the crops in their rectangles."""
    if _is_whole(rectangles, h, w):
        return crops[0]
    if base is None:
        base = crops[0].new_zeros(*crops[0].shape[:2], h, w)
    pasted = base.to(crops[0].dtype).clone(memory_format=torch.channels_last)
    for rectangle, crop in zip(rectangles, crops, strict=True):
        pasted[..., rectangle.rows, rectangle.columns] = crop
    return pasted


def _area(rectangles: Sequence[Rectangle]) -> int:
    return sum(rectangle.area for rectangle in rectangles)


def _cut(x: Tensor, rectangle: Rectangle) -> Tensor:
    return x[..., rectangle.rows, rectangle.columns]


def _is_whole(rectangles: Sequence[Rectangle], h: int, w: int) -> bool:
    return len(rectangles) == 1 and rectangles[0].area == h * w
