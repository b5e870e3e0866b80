"""Optical flow of a chunk, computed only in planned regions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from model.engine.calibration import StepTimes
from model.mask.plan import ChunkPlan
from model.mask.rectangles import Rectangle
from model.network.basicvsr import BasicVSR
from model.network.flow import Pyramid

FLOW_MARGIN, FLOW_GRID = 16, 32
"""Feature pixels that a flow region is larger on each side, and the multiple that it is aligned to: the coarsest pixel
of the flow pyramid."""


@dataclass(frozen=True)
class RegionFlow:
    """Flow [B, 2, h, w] of a region of the frame."""

    region: Rectangle
    flow: Tensor

    def inside(self, rectangle: Rectangle) -> Tensor:
        """Return the flow of a rectangle within the region."""
        inner = rectangle.within(self.region)
        return self.flow[..., inner.rows, inner.columns]


@dataclass(frozen=True)
class FlowTask:
    """The flow between frame `index` of a chunk and the next frame; index -1: the frame before the chunk."""

    index: int
    region: Rectangle
    backward: bool
    """Whether the backward branch needs the flow to the next frame."""
    forward: bool
    """Whether the forward branch needs the flow from the next frame back."""

    @property
    def directions(self) -> int:
        """Number of flows."""
        return self.backward + self.forward


def planned_flows(plan: ChunkPlan, h: int, w: int, *, continues: bool) -> list[FlowTask]:
    """Return the flows that a plan needs in frames of `h` x `w` feature pixels, in the order of the frames.

    `continues`: a frame comes before the chunk.
    """
    tasks = []
    for i in range(-1 if continues else 0, len(plan.backward) - 1):
        backward = plan.backward[i] if i >= 0 else ()
        forward = plan.forward[i + 1] if i + 1 < len(plan.forward) else ()
        if backward or forward:
            region = _region((*backward, *forward), plan.halo, h, w)
            tasks.append(FlowTask(i, region, bool(backward), bool(forward)))
    return tasks


def pair_flows(
    net: BasicVSR, frames: Sequence[Tensor], tasks: Sequence[FlowTask], previous: Tensor | None, times: StepTimes
) -> Iterator[tuple[FlowTask, RegionFlow | None, RegionFlow | None]]:
    """Estimate the flows of the tasks. Yields each task with its flow to the next frame, and the flow back.

    `frames` are [B, 3 f f, H, W]; `previous` [B, 3 f f, H, W] is the frame before. Both directions of a pair of frames
    share a batch: at the coarse levels of the pyramid a call costs more than the pixels. Pairs that follow each other
    in one region share the pyramid of their common frame. The last pair comes first, as the backward branch reads it.
    """
    count, _, h, w = frames[0].shape
    known: tuple[int, Rectangle, Pyramid] | None = None
    for task in reversed(tasks):
        here = (..., task.region.rows, task.region.columns)
        with times.step("flow", whole=count == 1 and task.region.area == h * w, count=task.directions):
            newer = known[2] if known and known[:2] == (task.index + 1, task.region) else None
            if newer is None:
                newer = net.pyramid(frames[task.index + 1][here])
            frame = previous if task.index < 0 else frames[task.index]
            assert frame is not None
            older = net.pyramid(frame[here])
            refs = [older] * task.backward + [newer] * task.forward
            supps = [newer] * task.backward + [older] * task.forward
            flow = net.flow_between(Pyramid.joined(refs), Pyramid.joined(supps))
        known = task.index, task.region, older
        to_next = RegionFlow(task.region, flow[:count]) if task.backward else None
        yield task, to_next, RegionFlow(task.region, flow[-count:]) if task.forward else None


def _region(rectangles: Sequence[Rectangle], halo: int, h: int, w: int) -> Rectangle:
    """Return a region around all rectangles, with a margin for the flow near the border."""
    around = Rectangle(
        min(r.y0 for r in rectangles),
        min(r.x0 for r in rectangles),
        max(r.y1 for r in rectangles),
        max(r.x1 for r in rectangles),
    )
    return around.grown(halo + FLOW_MARGIN, h, w, FLOW_GRID)
