"""Routing on the device: the same plan as on the CPU, and the PSNR to dense."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Final

import torch

from benchmarks.device.precision import psnr
from benchmarks.device.results import Section
from benchmarks.device.session import CPU, Item, Session
from model.engine.chunk import Frames
from model.mask.plan import plan_chunk
from model.network.folding import fold_frames
from model.routing import preset

FRAMES: Final = 6
SLACK_DB: Final = 1.0
"""Most PSNR to dense that the device may lose against the CPU, in dB. Gates decide from rounded features."""
ROUTINGS: Final = ("balanced", "fast")


def items(session: Session) -> Iterator[Item]:
    """Plans of both presets, then frames of both networks."""
    for routing in ROUTINGS:
        yield f"plan {routing}", partial(_plan, session, routing)
    dense = cache(partial(_dense, session))
    for name in session.models:
        for routing in ROUTINGS:
            yield f"{name} {routing}", partial(_quality, session, name, routing, dense)


def _overhead(session: Session) -> int:
    """Return a crop overhead with which the frames are routed, with the same crops on every device."""
    return 20 if session.tiny else 1300


def _size(session: Session) -> tuple[int, int]:
    return (48, 80) if session.tiny else (180, 320)


def _plan(session: Session, routing: str, section: Section) -> None:
    """Compare the rectangles of a chunk, and of a chunk that continues the stream."""
    numbers = preset(routing, overhead=_overhead(session))
    frames = torch.from_numpy(session.clip(2 * FRAMES, _size(session)))
    plans = []
    for device in (CPU, session.device):
        folded = fold_frames(frames.to(device), 1)
        first = plan_chunk(folded[:FRAMES], FRAMES - 2, None, 0, numbers)
        second = plan_chunk(folded[FRAMES - 2 :], FRAMES, first.reference, FRAMES - 2, numbers)
        plans.append((first.backward, first.forward, second.backward, second.forward, second.reference.cpu()))
    same = plans[0][:4] == plans[1][:4] and torch.equal(plans[0][4], plans[1][4])
    covered = sum(rectangle.area for frame in plans[1][1] for rectangle in frame)
    share = covered / (len(plans[1][1]) * frames.shape[1] * frames.shape[2])
    section.check(f"plan {routing}", same, "equal rectangles" if same else "other rectangles than on the CPU")
    section.check(f"plan {routing} leaves work out", share < 1, f"computes {share:.0%} of the pixels")


def _clip(session: Session) -> Frames:
    return session.clip(4 if session.tiny else FRAMES, _size(session))


def _dense(session: Session, name: str, number: str, device: torch.device) -> Frames:
    """Return the frames of the dense network, for both presets."""
    return session.upscaler(name, number, device).forward(_clip(session), None, lookahead=0, last=True).frames


def _quality(
    session: Session, name: str, routing: str, dense: Callable[[str, str, torch.device], Frames], section: Section
) -> None:
    """Compare routed with dense frames on the device and on the CPU, each in its own format."""
    frames, formats = _clip(session), ("fp32", session.formats[0])
    numbers = session.upscaler(name, formats[1]).preset(routing, overhead=_overhead(session))
    figures = {}
    for where, number in zip((CPU, session.device), formats, strict=True):
        model = session.upscaler(name, number, where)
        routed = model.forward(frames, None, lookahead=0, last=True, routing=numbers)
        skipped = sum(report.units_left_out for report in routed.reports)
        total = sum(report.units_total for report in routed.reports)
        figures[number] = psnr(routed.frames, dense(name, number, where)), skipped / total
    (cpu_db, cpu_skip), (db, skip) = figures["fp32"], figures[formats[1]]
    section.row(f"{name} {routing}", db_to_dense=db, skipped=skip, cpu_db_to_dense=cpu_db, cpu_skipped=cpu_skip)
    section.at_least(f"{name} {routing}, dB to dense", db, min(cpu_db, 60.0) - SLACK_DB)
