"""Optical flow of a chunk, computed only in planned regions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.engine.calibration import StepTimes
from model.mask.plan import ChunkPlan
from model.mask.rectangles import Rectangle
from model.network.basicvsr import BasicVSR
from model.network.flow import Pyramid

FLOW_MARGIN, FLOW_GRID = 16, 32
"""Feature pixels that a flow region is larger on each side, and the multiple that it is aligned to: the coarsest pixel
of the flow pyramid."""
FLOW_BYTES = 512 * 1024**2
"""Most memory for the flows of a batch on an accelerator."""
FLOW_CHANNELS = {"spynet": (30, 104), "light": (4, 20)}
"""Most channels that a flow holds for each feature pixel at one moment: of images in float32, and of features in the
network's number format. Measured by the size of all tensors: 531 and 323 bytes for SPyNet, 87 and 48 for the light
flow, in float32 and bfloat16."""


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
        return len(self.pairs)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The frames of each flow to estimate: from, to."""
        onward, back = (self.index, self.index + 1), (self.index + 1, self.index)
        if self.negated:
            return [back]
        return [onward] * self.backward + [back] * self.forward


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


def pair_flows(
    net: BasicVSR, frames: Sequence[Tensor], tasks: Sequence[FlowTask], previous: Tensor | None, times: StepTimes
) -> Iterator[tuple[FlowTask, RegionFlow | None, RegionFlow | None]]:
    """Estimate the flows of the tasks. Yields each task with its flow to the next frame, and the flow back.

    `frames` are [B, 3 f f, H, W]; `previous` [B, 3 f f, H, W] is the frame before. Both directions of a pair of frames
    share a batch: at the coarse levels of the pyramid a call costs more than the pixels. On an accelerator, consecutive
    pairs in the same region also share a batch. Such pairs also share the pyramid of their common frame. With
    `ChunkPlan.negated_flow`, the flow back is estimated even where only the other is needed: chunk borders make no
    difference. The last pair comes first, as the backward branch reads it.
    """
    count, _, h, w = frames[0].shape
    pyramids, seen = dict[int, Pyramid](), None
    for batch in _batches(tasks[::-1], _most_flows(net, count)):
        region, directions = batch[0].region, sum(task.directions for task in batch)
        with times.step("flow", whole=count == 1 and region.area == h * w, count=directions):
            wanted = sorted({i for task in batch for i in (task.index, task.index + 1)})
            pyramids = {i: pyramids[i] for i in wanted if i in pyramids} if region == seen else {}
            images = {i: _image(frames, previous, i, region) for i in wanted if i not in pyramids}
            pyramids |= zip(images, _pyramids(net, list(images.values())), strict=True)
            pairs = sorted((pair for task in batch for pair in task.pairs), key=lambda pair: pair[0] > pair[1])
            refs, supps = zip(*((pyramids[ref], pyramids[supp]) for ref, supp in pairs), strict=True)
            flows = net.flow_between(Pyramid.joined(refs), Pyramid.joined(supps)).split(count)  # type: ignore[no-untyped-call]
        seen = region
        found = {pair: RegionFlow(region, flow) for pair, flow in zip(pairs, flows, strict=True)}
        for task in batch:
            onward, back = (task.index, task.index + 1), (task.index + 1, task.index)
            to_next = found.get(onward)
            if task.backward and task.negated:
                to_next = RegionFlow(region, -found[back].flow)
            yield task, to_next, found.get(back) if task.forward else None


def _batches(tasks: Sequence[FlowTask], most: Callable[[int], int]) -> Iterator[list[FlowTask]]:
    """Split tasks into batches of one region; `most` maps the area of a region to the number of flows in a batch."""
    batch: list[FlowTask] = []
    for task in tasks:
        flows = sum(other.directions for other in batch) + task.directions
        if batch and (task.region != batch[0].region or flows > most(task.region.area)):
            yield batch
            batch = []
        batch.append(task)
    if batch:
        yield batch


def _most_flows(net: BasicVSR, streams: int) -> Callable[[int], int]:
    """Return a function from the area of a region to the number of flows, of `streams` streams each, in a batch."""
    each = flow_bytes(net) * streams
    return lambda area: FLOW_BYTES // (each * area) if net.accelerated else 1


def flow_bytes(net: BasicVSR) -> int:
    """Return the most memory of a flow in one direction for each feature pixel."""
    images, features = FLOW_CHANNELS[net.config.flow]
    return 4 * images + net.dtype.itemsize * features


def _image(frames: Sequence[Tensor], previous: Tensor | None, index: int, region: Rectangle) -> Tensor:
    frame = previous if index < 0 else frames[index]
    assert frame is not None
    return frame[..., region.rows, region.columns]


def _pyramids(net: BasicVSR, images: Sequence[Tensor]) -> list[Pyramid]:
    """Reduce images [B, 3 f f, h, w], on an accelerator in one batch."""
    if not net.accelerated or len(images) < 2:
        return [net.pyramid(image) for image in images]
    return net.pyramid(torch.cat(list(images))).split(len(images))


def _region(rectangles: Sequence[Rectangle], halo: int, h: int, w: int) -> Rectangle:
    """Return a region around all rectangles, with a margin for the flow near the border."""
    around = Rectangle(
        min(r.y0 for r in rectangles),
        min(r.x0 for r in rectangles),
        max(r.y1 for r in rectangles),
        max(r.x1 for r in rectangles),
    )
    return around.grown(halo + FLOW_MARGIN, h, w, FLOW_GRID)
