"""Running a chunk by its plan: crops through the network, everything else taken over from the neighbouring frame.

Dense execution is the plan in which each frame is one crop, the whole frame; there is no second code path. Chunks of
several streams go through the network as one batch where all their plans are like that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.gates.skipping import Skipper
from model.mask.plan import ChunkPlan
from model.mask.rectangles import Box
from model.network.basicvsr import SCALE, BasicVSR
from model.network.flow import Table
from model.network.output import write_pixels

FLOW_MARGIN, FLOW_GRID = 16, 32
"""Flow is computed in a crop this much larger, aligned to the pyramid's coarsest pixel."""
TAIL_HALO = 2
"""LR pixels that the upsampler's four 3x3 convolutions see (1 + 1/2 + 1/4 + 1/4): with them it is exact."""
TAIL_PIXELS = 8192
"""The upsampler runs in bands of about this many LR pixels: beyond 32 MB a result is fresh memory from the
system each time, which costs a third of the tail (measured at 320x180)."""


@dataclass(frozen=True)
class Carried:
    """What the forward branch takes along from frame to frame."""

    last: Tensor
    """[B, 3, H, W] LR frame in [0, 1]."""
    feat: Tensor
    """[B, C, H, W] hidden features there."""
    hr: Sequence[Tensor]
    """Of each of the B streams [4 H, 4 W, 3] the HR frame, integers."""


@dataclass(frozen=True)
class RegionFlow:
    """Flow [B, 2, h, w] of a region of the frame."""

    box: Box
    flow: Tensor

    def inside(self, box: Box) -> Tensor:
        """The flow of a box in the region."""
        return _inner(self.flow, box, self.box)


def run_chunk(
    net: BasicVSR,
    frames: Sequence[Tensor],
    plan: ChunkPlan,
    carried: Carried | None,
    dtype: torch.dtype,
    skipper: Skipper | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Upscale the emitted frames of a chunk; what is computed of them goes past `skipper`'s gates, if there is one.

    `frames`: [B, 3, H, W] float32 in [0, 1], look-ahead included, of B independent streams; of more than one only with
    a plan that `is_dense`, and without a skipper. Returns each stream's HR frames [T', 4 H, 4 W, 3] as integers of
    `dtype`, and the hidden features [B, C, H, W] at the last of them.
    """
    to_next, to_previous = _flows(net, frames, plan, carried)
    pixels = [net.pixels(frame) for frame in frames]  # once, not once a branch and crop
    backs = _backward(net, pixels, plan, to_next, skipper)
    emit = len(plan.forward)
    count, _, h, w = frames[0].shape
    out = [torch.empty(emit, h * SCALE, w * SCALE, 3, dtype=dtype, device=frames[0].device) for _ in range(count)]
    feat = carried.feat if carried else None
    for i in range(emit):
        boxes, lr, flow = plan.forward[i], frames[i], to_previous[i]
        table = Table.of(feat) if feat is not None and boxes else None  # once, not once a crop
        crops = []
        for box in boxes:
            outer = box.grown(plan.halo, h, w)
            here = (..., outer.rows, outer.columns)
            aligned_by = flow.inside(outer) if flow else None
            at, trunk = (outer.y0, outer.x0), skipper.trunk("forward", i, outer) if skipper else None
            step = net.forward_step(pixels[i][here], backs[i][here], table, aligned_by, at, trunk)
            crops.append(_inner(step, box, outer))
        feat = _pasted(feat, boxes, crops, h, w)
        now = [stream[i] for stream in out]
        before = [stream[i - 1] for stream in out] if i else (carried.hr if carried else ())
        if before and not _is_whole(boxes, h, w):
            now[0].copy_(before[0])
        padded = F.pad(lr, (1, 1, 1, 1), mode="replicate") if boxes else lr
        for box in boxes:
            for part in skipper.tail(i, padded, backs[i], feat, box, now[0]) if skipper else (box,):
                for band in _bands(part, count):
                    _reconstruct(net, padded, backs[i], feat, band, now)
        if skipper:
            skipper.end_frame("forward")
    assert feat is not None
    return out, feat


def _backward(
    net: BasicVSR,
    pixels: Sequence[Tensor],
    plan: ChunkPlan,
    to_next: Sequence[RegionFlow | None],
    skipper: Skipper | None,
) -> list[Tensor]:
    """Hidden features of the backward branch at each emitted frame, [B, C, H, W]; undefined where not needed."""
    count, _, h, w = pixels[0].shape
    back: Tensor | None = None
    backs: list[Tensor] = []
    for i in reversed(range(len(pixels))):
        lr, boxes, flow = pixels[i], plan.backward[i], to_next[i]
        table = Table.of(back) if back is not None and boxes else None
        crops = []
        for box in boxes:
            outer = box.grown(plan.halo, h, w)
            aligned_by = flow.inside(outer) if flow else None
            at, trunk = (outer.y0, outer.x0), skipper.trunk("backward", i, outer) if skipper else None
            step = net.backward_step(lr[..., outer.rows, outer.columns], table, aligned_by, at, trunk)
            crops.append(_inner(step, box, outer))
        if boxes or back is not None:
            back = _pasted(back, boxes, crops, h, w)
        if skipper:
            skipper.end_frame("backward")
        if i < len(plan.forward):
            backs.append(back if back is not None else lr.new_zeros(()).expand(count, net.config.channels, h, w))
    backs.reverse()
    return backs


def _flows(
    net: BasicVSR, frames: Sequence[Tensor], plan: ChunkPlan, carried: Carried | None
) -> tuple[list[RegionFlow | None], list[RegionFlow | None]]:
    """Flow of each frame to the next and of each emitted frame to the one before, where the plan needs it.

    Both directions of a pair of frames are one batch: at the coarse levels a call costs more than its pixels do.
    """
    emit, (count, _, h, w) = len(plan.forward), frames[0].shape
    to_next: list[RegionFlow | None] = [None] * len(frames)
    to_previous: list[RegionFlow | None] = [None] * emit
    if carried and plan.forward[0]:
        region = _flow_region(plan.forward[0], plan.halo, h, w)
        to_previous[0] = RegionFlow(region, _flow(net, [(frames[0], carried.last)], region))
    for i in range(len(frames) - 1):
        backward, forward = plan.backward[i], plan.forward[i + 1] if i + 1 < emit else ()
        if not backward and not forward:
            continue
        region = _flow_region((*backward, *forward), plan.halo, h, w)
        pairs = [(frames[i], frames[i + 1])] * bool(backward) + [(frames[i + 1], frames[i])] * bool(forward)
        flow = _flow(net, pairs, region)
        if backward:
            to_next[i] = RegionFlow(region, flow[:count])
        if forward:
            to_previous[i + 1] = RegionFlow(region, flow[-count:])
    return to_next, to_previous


def _flow(net: BasicVSR, pairs: Sequence[tuple[Tensor, Tensor]], box: Box) -> Tensor:
    """Flow from the first to the second of each pair in a box: [pairs B, 2, h, w]."""
    here = (..., box.rows, box.columns)
    return net.flow(torch.cat([ref[here] for ref, _ in pairs]), torch.cat([supp[here] for _, supp in pairs]))


def _flow_region(boxes: Sequence[Box], halo: int, h: int, w: int) -> Box:
    """One region around all the boxes, with what flow near its border needs."""
    around = Box(min(b.y0 for b in boxes), min(b.x0 for b in boxes), max(b.y1 for b in boxes), max(b.x1 for b in boxes))
    return around.grown(halo + FLOW_MARGIN, h, w, FLOW_GRID)


def _reconstruct(net: BasicVSR, lr: Tensor, back: Tensor, feat: Tensor, box: Box, out: Sequence[Tensor]) -> None:
    """Write the HR pixels of a box into each `out` [4 H, 4 W, 3]. `lr` has a pixel more on each side than the frame."""
    h, w = feat.shape[-2:]
    outer = box.grown(TAIL_HALO if net.config.tail == "full" else 1, h, w)
    crop = (..., outer.rows, outer.columns)
    residual = net.residual(back[crop], feat[crop])
    s = residual.shape[-1] // (outer.x1 - outer.x0)
    inner = box.within(outer)
    residual = residual[..., inner.y0 * s : inner.y1 * s, inner.x0 * s : inner.x1 * s]
    around = lr[..., box.y0 : box.y1 + 2, box.x0 : box.x1 + 2]
    here = slice(box.y0 * SCALE, box.y1 * SCALE), slice(box.x0 * SCALE, box.x1 * SCALE)
    for index, frame in enumerate(out):
        write_pixels(frame[here], around[index : index + 1], residual[index : index + 1])


def is_dense(plan: ChunkPlan, h: int, w: int) -> bool:
    """Whether everything is computed everywhere, as a batch has to be: by the dense plan, or since all has changed."""
    return all(_is_whole(boxes, h, w) for boxes in (*plan.backward, *plan.forward))


def normalised(frame: Tensor) -> Tensor:
    """[H, W, 3] integers -> [1, 3, H, W] float32 in [0, 1], channels last in memory."""
    peak = 255.0 if frame.dtype == torch.uint8 else 65535.0
    return frame[None].float().div_(peak).permute(0, 3, 1, 2)


def _pasted(base: Tensor | None, boxes: Sequence[Box], crops: Sequence[Tensor], h: int, w: int) -> Tensor:
    """`base` with the crops in their boxes, as a new tensor; `base` itself where there is none."""
    if _is_whole(boxes, h, w):
        return crops[0]
    if base is not None and not boxes:
        return base
    if base is None:
        base = crops[0].new_zeros(*crops[0].shape[:2], h, w)
    pasted = base.to(crops[0].dtype).clone(memory_format=torch.channels_last)
    for box, crop in zip(boxes, crops, strict=True):
        pasted[..., box.rows, box.columns] = crop
    return pasted


def _inner(crop: Tensor, box: Box, outer: Box) -> Tensor:
    inner = box.within(outer)
    return crop[..., inner.rows, inner.columns]


def _is_whole(boxes: Sequence[Box], h: int, w: int) -> bool:
    return len(boxes) == 1 and boxes[0].area == h * w


def _bands(box: Box, count: int) -> list[Box]:
    """The box in bands of rows, for so many frames at once."""
    rows = max(TAIL_PIXELS // ((box.x1 - box.x0) * count), 4)
    return [Box(y, box.x0, min(y + rows, box.y1), box.x1) for y in range(box.y0, box.y1, rows)]
