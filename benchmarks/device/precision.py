"""Whole networks on the device against float32 on the CPU: frames as floats, and as the engine's 8-bit frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from benchmarks.device.results import Section
from benchmarks.device.session import CPU, FORMATS, Item, Session
from model import quality
from model.device import inference_copy
from model.engine.chunk import Frames

FP32_LIMIT: Final = 1e-4
"""Largest difference of pixels in [0, 1] between both devices in float32."""
NARROW_DB: Final = 45.0
"""Least PSNR of narrow formats against float32, in dB."""
FRAMES: Final = 5


def items(session: Session) -> Iterator[Item]:
    """Each network in each number format."""
    expected = cache(partial(_on_cpu, session))
    for name in session.models:
        for number in ("fp32", *session.formats):
            yield f"{name} {number}", partial(_network, session, name, number, expected)
    for name in session.models:
        for number in ("fp32", *session.formats):
            yield f"{name} {number} engine", partial(_engine, session, name, number)


def _network(session: Session, name: str, number: str, on_cpu: Callable[[str], Tensor], section: Section) -> None:
    """Compare `BasicVSR.forward` over a clip."""
    lr, expected = _pixels(session), on_cpu(name)
    network = inference_copy(session.loaded(name).network, session.device, FORMATS[number])
    with torch.inference_mode():
        found = network(lr.to(session.device)).float().cpu()
    finite = bool(found.isfinite().all())
    section.check(f"{name} {number} finite", finite, "all pixels" if finite else "NaN or infinite pixels")
    error, db = (found - expected).abs().max().item(), quality.psnr(255 * found, 255 * expected)
    section.row(f"{name} {number}", largest_difference=error, db=db, weights=session.loaded(name).source)
    if number == "fp32":
        section.at_most(f"{name} {number}", error, FP32_LIMIT)
    else:
        section.at_least(f"{name} {number}, dB", db, NARROW_DB)


def _engine(session: Session, name: str, number: str, section: Section) -> None:
    """Compare the 8-bit frames of the engine."""
    frames = session.clip(FRAMES, session.check_size)
    expected = session.upscaler(name, "fp32", CPU).forward(frames, None, lookahead=0, last=True).frames
    found = session.upscaler(name, number).forward(frames, None, lookahead=0, last=True).frames
    largest = np.abs(found.astype(np.int32) - expected.astype(np.int32)).max().item()
    db = psnr(found, expected)
    section.row(f"{name} {number} engine", levels=largest, db=db)
    if number == "fp32":
        section.at_most(f"{name} {number} engine, levels", largest, 1)
    else:
        section.at_least(f"{name} {number} engine, dB", db, NARROW_DB)


def psnr(a: Frames, b: Frames) -> float:
    """Return the PSNR of two clips of 8-bit frames, over all frames."""
    return quality.psnr(torch.from_numpy(a), torch.from_numpy(b))


def _pixels(session: Session) -> Tensor:
    frames = session.clip(FRAMES, session.check_size)
    return torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float() / 255


def _on_cpu(session: Session, name: str) -> Tensor:
    network = session.loaded(name).network
    with torch.inference_mode():
        return network(_pixels(session))  # type: ignore[no-any-return]
