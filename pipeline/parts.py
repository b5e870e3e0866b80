"""A video in parts, which several workers compute at the same time. The user calls a part a segment.

A part is a range of chunks. Its computation starts with a fresh recurrent state some frames before its border: the
warm-up, whose frames are dropped. If a scene cut lies in the warm-up, the state begins anew at the cut in any case, and
the frames equal a single worker's frames. Otherwise the warm-up brings the state close to the single worker's state.

The plan alone decides the result: who computes a part, and when, has no effect.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Final

from pydantic import BaseModel, Field, ValidationError

from jobs.disk import replace, sync_file
from model.errors import ModelError
from pipeline.checkpoint import Identity
from pipeline.layout import PLAN

WARM_UP: Final = 24
"""Frames of a warm-up without a scene cut. No frame then loses more than 0.02 dB with `small` (docs/scaling.md)."""
_REACH: Final = 0.5
"""Most frames between a border and its place in equal parts, as a fraction of a part."""


class Unfit(ModelError):
    """This worker cannot compute a part as the plan says. Another worker may."""


class Part(BaseModel):
    """A range of chunks."""

    first: int = Field(description="Number of the first frame.")
    frames: int | None = Field(description="Number of frames; None: all frames to the end of the video.")
    warm_up: int = Field(0, description="Number of frames before the part that the network reads and drops.")
    after: int | None = Field(None, description="PTS of the frame before the warm-up; None: the warm-up has none.")
    clean: bool = Field(False, description="Whether decoding can begin there by seeking.")
    exact: bool = Field(True, description="Whether a scene cut lies in the warm-up, or no border precedes the part.")

    @property
    def start(self) -> int:
        """Number of the first frame to decode."""
        return self.first - self.warm_up

    @property
    def name(self) -> str:
        """Name in the identity of a checkpoint."""
        return f"{self.start}-{self.first}-{'' if self.frames is None else self.first + self.frames}"


class Plan(BaseModel):
    """The parts of a video, with all that decides the bytes of the result."""

    identity: Identity = Field(description="Input, model, options and encoder, which all workers must have in common.")
    frames: int = Field(description="Number of frames in the video.")
    chunk: int = Field(ge=1, le=256, description="Frames per chunk.")
    encoder_threads: int = Field(
        ge=1, le=1024, description="Threads of the encoder, whose bytes depend on their number."
    )
    warnings: list[str] = Field(default_factory=list, description="Why the job differs from its options.")
    parts: list[Part]

    @property
    def seams(self) -> tuple[int, int]:
        """Numbers of the exact seams, and of the warmed-up ones."""
        exact = sum(part.exact for part in self.parts[1:])
        return exact, len(self.parts) - 1 - exact

    def length(self, number: int) -> int:
        """Number of frames in a part."""
        part = self.parts[number]
        return self.frames - part.first if part.frames is None else part.frames

    def save(self, folder: Path) -> None:
        """Write the plan into a working folder, in one step. Raises OSError."""
        part = folder / f"{PLAN}.part"
        part.write_text(self.model_dump_json())
        sync_file(part)
        replace(part, folder / PLAN)

    @classmethod
    def load(cls, folder: Path) -> Plan | None:
        """The plan in a working folder; None without a usable one."""
        try:
            return cls.model_validate_json((folder / PLAN).read_bytes())
        except (OSError, ValidationError):
            return None


@dataclass(frozen=True)
class Scan:
    """Facts from a reading of the whole video."""

    pts: Sequence[int]
    """Timestamp of each frame."""
    clean: int
    """Number of frames before the first fault."""
    cuts: Sequence[int]
    """First frame of each new scene."""


def parts_of(scan: Scan, *, count: int, chunk: int, lookahead: int, least: int) -> list[Part]:
    """Divide a video into at most `count` parts of about equal length, preferably at nearby scene cuts.

    Args:
        scan: the frames of the video.
        count: number of parts.
        chunk: frames per chunk; each part begins at a multiple.
        lookahead: look-ahead frames after a chunk.
        least: fewest frames of a part.
    """
    total = len(scan.pts)
    least = max(least, chunk, lookahead + 1)
    count = max(1, min(count, total // least))
    behind = [0]
    for number in range(1, count):
        free = range(behind[-1] + least, total - least + 1)
        border = _behind_a_cut(scan.cuts, number * total / count, _REACH * total / count, chunk, free)
        behind += [] if border is None else [border]
    borders = list(
        chain.from_iterable(_filled(*gap, total / count, chunk, least) for gap in pairwise([*behind, total]))
    )
    ends: list[int | None] = [end - first for first, end in pairwise(borders)]
    return [_part(scan, first, frames, chunk) for first, frames in zip(borders, [*ends, None], strict=True)]


def _behind_a_cut(cuts: Sequence[int], wanted: float, reach: float, chunk: int, free: range) -> int | None:
    """The multiple of `chunk` behind a scene cut that is nearest to a place; None if no cut is in reach."""
    near = bisect.bisect_left(cuts, wanted - reach), bisect.bisect_right(cuts, wanted + reach)
    behind = [border for cut in cuts[slice(*near)] if (border := -(-cut // chunk) * chunk) in free]
    return min(behind, key=lambda border: abs(border - wanted), default=None)


def _filled(first: int, end: int, size: float, chunk: int, least: int) -> list[int]:
    """The border `first`, and further ones if the cuts leave a part of at least twice the equal size."""
    length = end - first
    pieces = round(length / size) if 0 < 2 * size <= length else 1
    plain = [round((first + number * length / pieces) / chunk) * chunk for number in range(1, pieces)]
    return [first, *(border for border in plain if first + least <= border <= end - least)]


def _part(scan: Scan, first: int, frames: int | None, chunk: int) -> Part:
    if first == 0:
        return Part(first=0, frames=frames)
    place = bisect.bisect_right(scan.cuts, first)
    cut = scan.cuts[place - 1] if place else -1
    exact = place > 0 and cut > first - max(WARM_UP, chunk)
    # One frame before the cut, because the network finds a cut by the frame before.
    start = cut - 1 if exact else max(0, first - WARM_UP)
    return Part(
        first=first,
        frames=frames,
        warm_up=first - start,
        after=scan.pts[start - 1] if start else None,
        clean=start <= scan.clean,
        exact=exact or start == 0,
    )
