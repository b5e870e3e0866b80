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


def chunk_flows(
    net: BasicVSR, frames: Sequence[Tensor], plan: ChunkPlan, previous: Tensor | None
) -> tuple[list[RegionFlow | None], list[RegionFlow | None]]:
    """Estimate the flow from each frame to the next and from each emitted frame to the frame before, as planned.

    `frames` are [B, 3 f f, H, W]; `previous` [B, 3 f f, H, W] is the frame before. Both directions of a pair of frames
    share a batch: at the coarse levels of the pyramid a call costs more than the pixels.
    """
    emit, (count, _, h, w) = len(plan.forward), frames[0].shape
    to_next: list[RegionFlow | None] = [None] * len(frames)
    to_previous: list[RegionFlow | None] = [None] * emit
    if previous is not None and plan.forward[0]:
        region = _region(plan.forward[0], plan.halo, h, w)
        to_previous[0] = RegionFlow(region, _flow(net, [(frames[0], previous)], region))
    for i in range(len(frames) - 1):
        backward, forward = plan.backward[i], plan.forward[i + 1] if i + 1 < emit else ()
        if not backward and not forward:
            continue
        region = _region((*backward, *forward), plan.halo, h, w)
        pairs = [(frames[i], frames[i + 1])] * bool(backward) + [(frames[i + 1], frames[i])] * bool(forward)
        flow = _flow(net, pairs, region)
        if backward:
            to_next[i] = RegionFlow(region, flow[:count])
        if forward:
            to_previous[i + 1] = RegionFlow(region, flow[-count:])
    return to_next, to_previous


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
