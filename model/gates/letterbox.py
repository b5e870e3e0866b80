"""Where black bars end: those of a letterbox or a pillarbox, or the few dark pixels at the edge of a digitised tape.

Gates leave nothing out there. A head looks at means over a tile, and hardly tells a tile with such an end in it from
one without; but what is left out beside it, the next frames inherit (two thirds of what one clip lost: `model/LOG.md`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.mask.rectangles import Box, Mask

DARK = 24
"""The brightest that a pixel of a bar is, in levels of 255: black with a codec's noise, in full or limited range."""
BESIDE = 8
"""Pixels on either side of a bar's end that count as beside it."""


@dataclass(frozen=True)
class Ends:
    """The lines of a frame that lie beside a bar's end."""

    rows: NDArray[np.bool_]
    """[H]"""
    columns: NDArray[np.bool_]
    """[W]"""

    def within(self, box: Box, rows: Sequence[int], columns: Sequence[int]) -> Mask:
        """Which parts of a box are beside an end, where parts begin at those of its rows and of its columns."""
        down = np.logical_or.reduceat(self.rows[box.rows], rows)
        across = np.logical_or.reduceat(self.columns[box.columns], columns)
        return down[:, None] | across


def bar_ends(frames: Tensor) -> list[Ends | None]:
    """Of each of the frames [T, H, W, 3] of integers; None where it has no bar, or is dark all over.

    Each frame is judged alone, so that a stream may be cut into chunks anywhere.
    """
    most = DARK if frames.dtype == torch.uint8 else DARK * 257
    edges = [frames[:, 0], frames[:, -1], frames[:, :, 0], frames[:, :, -1]]
    barred = torch.stack([edge.flatten(1).int().amax(1) for edge in edges]).amin(0) <= most  # one of them is dark
    found: list[Ends | None] = [None] * len(frames)
    for i in barred.nonzero().flatten().tolist():
        bright: Mask = (frames[i].int() > most).any(-1).cpu().numpy()
        if bright.any():
            found[i] = Ends(_beside(np.any(bright, axis=1)), _beside(np.any(bright, axis=0)))
    return found


def _beside(bright: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The lines near the first and the last bright one, where there are dark ones before or behind."""
    near: NDArray[np.bool_] = np.zeros(len(bright), np.bool_)
    for line, end in ((near, int(bright.argmax())), (near[::-1], int(bright[::-1].argmax()))):
        if end:
            line[max(end - BESIDE, 0) : end + BESIDE] = True
    return near
