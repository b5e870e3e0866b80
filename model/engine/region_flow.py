"""Optical flow of a chunk, computed only in planned regions."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
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
    negated: bool = False
    """Whether the backward branch takes the negative of the flow back."""

    @property
    def directions(self) -> int:
        """Number of flows to estimate."""
        return self.backward + self.forward if not self.negated else 1


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
            tasks.append(FlowTask(i, region, bool(backward), bool(forward), plan.negated_flow))
    return tasks


def chunk_flows(
    net: BasicVSR,
    frames: Sequence[Tensor],
    plan: ChunkPlan,
    previous: Tensor | None,
    times: StepTimes,
    after_each: Callable[[FlowTask], None],
) -> Generator[None, None, tuple[list[RegionFlow | None], list[RegionFlow | None]]]:
    """Estimate the flow from each frame to the next and from each emitted frame to the frame before, as planned.

    `frames` are [B, 3 f f, H, W]; `previous` [B, 3 f f, H, W] is the frame before. Both directions of a pair of frames
    share a batch: at the coarse levels of the pyramid a call costs more than the pixels. Pairs that follow each other
    in one region share the pyramid of their common frame. With `ChunkPlan.negated_flow`, the flow back is estimated
    even where only the other is needed: chunk borders make no difference. Yields after each pair.
    """
    count, _, h, w = frames[0].shape
    to_next: list[RegionFlow | None] = [None] * len(frames)
    to_previous: list[RegionFlow | None] = [None] * len(plan.forward)
    known: tuple[int, Rectangle, Pyramid] | None = None
    for task in planned_flows(plan, h, w, continues=previous is not None):
        here = (..., task.region.rows, task.region.columns)
        with times.step("flow", whole=count == 1 and task.region.area == h * w, count=task.directions):
            older = known[2] if known and known[:2] == (task.index, task.region) else None
            if older is None:
                frame = previous if task.index < 0 else frames[task.index]
                assert frame is not None
                older = net.pyramid(frame[here])
            newer = net.pyramid(frames[task.index + 1][here])
            onward, back = task.backward and not task.negated, task.forward or task.negated
            refs, supps = [older] * onward + [newer] * back, [newer] * onward + [older] * back
            flow = net.flow_between(Pyramid.joined(refs), Pyramid.joined(supps))
        known = task.index + 1, task.region, newer
        if task.backward:
            to_next[task.index] = RegionFlow(task.region, -flow if task.negated else flow[:count])
        if task.forward:
            to_previous[task.index + 1] = RegionFlow(task.region, flow[-count:])
        after_each(task)
        yield
    return to_next, to_previous


def _region(rectangles: Sequence[Rectangle], halo: int, h: int, w: int) -> Rectangle:
    """Return a region around all rectangles, with a margin for the flow near the border."""
    around = Rectangle(
        min(r.y0 for r in rectangles),
        min(r.x0 for r in rectangles),
        max(r.y1 for r in rectangles),
        max(r.x1 for r in rectangles),
    )
    return around.grown(halo + FLOW_MARGIN, h, w, FLOW_GRID)
