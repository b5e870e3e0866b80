"""Optical flow of a chunk, computed only in planned regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.mask.plan import ChunkPlan
from model.mask.rectangles import Rectangle
from model.network.basicvsr import BasicVSR

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


Flows = tuple[RegionFlow | None, RegionFlow | None]
"""Flow to the next frame, and flow from the next frame back; None unless the task asks for it."""


def estimate(net: BasicVSR, task: FlowTask, older: Tensor, newer: Tensor) -> Flows:
    """Estimate the flows of a task between two frames [B, 3 f f, H, W].

    Both directions share a batch: at the coarse levels of the pyramid a call costs more than the pixels.
    """
    pairs = [(older, newer)] * task.backward + [(newer, older)] * task.forward
    flow = _flow(net, pairs, task.region)
    count = len(older)
    to_next = RegionFlow(task.region, flow[:count]) if task.backward else None
    return to_next, RegionFlow(task.region, flow[-count:]) if task.forward else None


def _flow(net: BasicVSR, pairs: Sequence[tuple[Tensor, Tensor]], region: Rectangle) -> Tensor:
    """Estimate the flow from the first to the second frame of each pair in a region: [pairs B, 2, h, w]."""
    here = (..., region.rows, region.columns)
    return net.flow(torch.cat([ref[here] for ref, _ in pairs]), torch.cat([supp[here] for _, supp in pairs]))


def _region(rectangles: Sequence[Rectangle], halo: int, h: int, w: int) -> Rectangle:
    """Return a region around all rectangles, with a margin for the flow near the border."""
    around = Rectangle(
        min(r.y0 for r in rectangles),
        min(r.x0 for r in rectangles),
        max(r.y1 for r in rectangles),
        max(r.x1 for r in rectangles),
    )
    return around.grown(halo + FLOW_MARGIN, h, w, FLOW_GRID)
