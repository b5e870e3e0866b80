"""What other ways to compute would give: batched flow, padded channels, CUDA graphs, pinned copies, bigger bands.

Each row has the time of the plain way, the time of the variant, and the ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

import torch
from torch import Tensor

from benchmarks.device.ceilings import convolution
from benchmarks.device.results import Section
from benchmarks.device.session import FORMATS, Item, Session
from model.engine.upscaler import Upscaler
from model.network.basicvsr import BasicVSR

PAIRS: Final = 8
"""Pairs of frames whose flow is computed one by one, or in one batch."""
_PADDED: Final = (("input convolution", (70, 64), (72, 64)), ("last convolution", (64, 3), (64, 8)))
"""Name, and channels in and out, plain and padded: with bfloat16 remainders a trunk reads 70."""


def items(session: Session) -> Iterator[Item]:
    """All variants, for both networks where they differ."""
    for name in session.models:
        yield f"{name} graph", partial(_graph, session, name)
        yield f"{name} batched flow", partial(_batched_flow, session, name)
    for name, plain, padded in _PADDED:
        yield f"{name} padded", partial(_padded, session, name, plain, padded)
    yield "pinned copies", partial(_pinned, session)
    for name in session.models:
        yield f"{name} several streams", partial(_several_streams, session, name)
        yield f"{name} in bands", partial(_in_bands, session, name)


def _pair(section: Section, name: str, plain: float, variant: float) -> None:
    section.row(name, plain_ms=1000 * plain, variant_ms=1000 * variant, times=plain / variant)


def _size(session: Session) -> tuple[int, int]:
    return (16, 24) if session.tiny else (360, 640)


class _Frame:
    """The steps of one frame in mid-stream, on fixed tensors."""

    def __init__(self, session: Session, name: str) -> None:
        number = session.formats[0]
        self.network: BasicVSR = session.upscaler(name, number).network
        h, w = _size(session)
        torch.manual_seed(3)
        self.older, self.newer = (torch.rand(1, 3, h, w, device=session.device) for _ in range(2))
        shape, last = (1, self.network.config.channels, h, w), torch.channels_last
        self.feat = torch.randn(shape, device=session.device, dtype=self.network.dtype).contiguous(memory_format=last)

    @torch.inference_mode()
    def flows(self) -> Tensor:
        """Compute the flow in both directions."""
        older, newer = self.network.pyramid(self.older), self.network.pyramid(self.newer)
        both = type(older).joined([older, newer]), type(older).joined([newer, older])
        return self.network.flow_between(*both)

    @torch.inference_mode()
    def whole(self) -> Tensor:
        """Compute flow, both branches and the upsampler."""
        to_next, to_previous = self.flows().chunk(2)
        pixels = self.network.pixels(self.newer)
        back = self.network.backward_step(pixels, self.feat, to_next)
        feat = self.network.forward_step(pixels, back, self.feat, to_previous)
        return self.network.residual(back, feat)


def _graph(session: Session, name: str, section: Section) -> None:
    """Replay the steps of a frame as one CUDA graph; the result must be that of the plain steps."""
    if not session.cuda:
        section.skip(f"{name} graph", "needs a GPU")
        return
    frame = _Frame(session, name)
    expected = frame.whole().float()
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream(session.device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(session.device))
    with torch.cuda.stream(side):
        for _ in range(3):
            frame.whole()
    torch.cuda.current_stream(session.device).wait_stream(side)
    try:
        with torch.cuda.graph(graph):
            result = frame.whole()
    except RuntimeError as error:
        section.skip(f"{name} graph", f"cannot be captured: {str(error).splitlines()[0][:80]}")
        return
    graph.replay()
    section.at_most(f"{name} graph", (result.float() - expected).abs().max().item(), 1e-2)
    _pair(section, f"{name} graph", session.seconds(frame.whole), session.seconds(graph.replay))


def _batched_flow(session: Session, name: str, section: Section) -> None:
    """Compute the flow of several pairs of frames one by one, and in one batch."""
    frame = _Frame(session, name)
    network, pairs = frame.network, [frame.older, frame.newer] * PAIRS

    @torch.inference_mode()
    def one_by_one() -> None:
        for older, newer in zip(pairs[::2], pairs[1::2], strict=True):
            network.flow(older, newer)

    @torch.inference_mode()
    def together() -> None:
        network.flow(torch.cat(pairs[::2]), torch.cat(pairs[1::2]))

    plain, variant = session.seconds(one_by_one) / PAIRS, session.seconds(together) / PAIRS
    _pair(section, f"{name} batched flow", plain, variant)


def _padded(session: Session, name: str, plain: tuple[int, int], padded: tuple[int, int], section: Section) -> None:
    """Compare a convolution with the same convolution on channels padded to a multiple of eight."""
    h, w = _size(session)
    make = partial(convolution, session, session.formats[0], kernel=3, h=h, w=w)
    seconds = [session.queued_seconds(make(inputs, outputs)) for inputs, outputs in (plain, padded)]
    _pair(section, f"{name} padded", *seconds)


def _pinned(session: Session, section: Section) -> None:
    """Copy an HR frame to pageable memory, and to pinned memory on a stream of its own beside a convolution."""
    if not session.cuda:
        section.skip("pinned copies", "needs a GPU")
        return
    h, w = _size(session)
    there = torch.zeros(4 * h, 4 * w, 3, dtype=torch.uint8, device=session.device)
    pageable, pinned = (torch.empty(there.shape, dtype=torch.uint8, pin_memory=pin) for pin in (False, True))
    compute = convolution(session, session.formats[0], 64, 64, 3, 2 * h, 2 * w)
    side = torch.cuda.Stream(session.device)  # type: ignore[no-untyped-call]

    def plain() -> None:
        compute()
        pageable.copy_(there)

    def beside() -> None:
        side.wait_stream(torch.cuda.current_stream(session.device))
        with torch.cuda.stream(side):
            pinned.copy_(there, non_blocking=True)
        compute()

    _pair(section, "pinned copy beside work", session.seconds(plain), session.seconds(beside))


def _in_bands(session: Session, name: str, section: Section) -> None:
    """Compare the engine as on an accelerator with the engine as on a CPU: bands, tables, one flow at a time."""
    loaded, number, frames = session.loaded(name), session.formats[0], session.clip(4, _size(session))
    times = []
    for accelerated in (False, True):
        model = Upscaler(
            name, loaded.network, loaded.fingerprint, session.device, FORMATS[number], accelerated=accelerated
        )
        times.append(session.seconds(partial(model.forward, frames, None, lookahead=0, last=True)) / len(frames))
    _pair(section, f"{name} whole, not in bands", *times)


def _several_streams(session: Session, name: str, section: Section) -> None:
    """Compare the steps of a frame, one stream at a time, with four streams in one batch."""
    single, batch = _Frame(session, name), _Frame(session, name)
    batch.older, batch.newer, batch.feat = (x.repeat(4, 1, 1, 1) for x in (batch.older, batch.newer, batch.feat))
    batch.feat = batch.feat.contiguous(memory_format=torch.channels_last)
    _pair(section, f"{name} four streams", session.seconds(single.whole), session.seconds(batch.whole) / 4)
