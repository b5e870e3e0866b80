"""Find the inner edges of letterbox and pillarbox bars, also of dark borders in digitised tapes.

Gates skip nothing beside an edge. A head reads means over a tile and hardly recognises an edge, but the next frames
inherit the error of skipping there: two thirds of the loss on one clip (lab notebook).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.mask.rectangles import Mask, Rectangle

DARK = 24
"""Highest level of a bar's pixels, of 255: black with codec noise, in full or limited range."""
BESIDE = 8
"""Pixels on either side of an edge that count as beside the edge."""


@dataclass(frozen=True)
class LetterboxEdges:
    """The rows and columns of a frame beside an edge of a bar."""

    rows: NDArray[np.bool_]
    """[H]; True beside an edge."""
    columns: NDArray[np.bool_]
    """[W]; True beside an edge."""

    def within(self, rectangle: Rectangle, rows: Sequence[int], columns: Sequence[int]) -> Mask:
        """Return the parts of a rectangle beside an edge; `rows` and `columns` are the first lines of the parts."""
        down = np.logical_or.reduceat(self.rows[rectangle.rows], rows)
        across = np.logical_or.reduceat(self.columns[rectangle.columns], columns)
        return down[:, None] | across


def letterbox_edges(frames: Tensor) -> list[LetterboxEdges | None]:
    """Find the edges in each folded frame of [T, H, W, 3 f f] integers; None without bars, or for a dark frame.

    The result for a frame depends on no other frame: chunk borders do not matter.
    """
    most = DARK if frames.dtype == torch.uint8 else DARK * 257
    edges = [frames[:, 0], frames[:, -1], frames[:, :, 0], frames[:, :, -1]]
    barred = (
        torch.stack([edge.flatten(1).int().amax(1) for edge in edges]).amin(0) <= most
    )  # at least one edge line is dark
    found: list[LetterboxEdges | None] = [None] * len(frames)
    for i in barred.nonzero().flatten().tolist():
        bright: Mask = (frames[i].int() > most).any(-1).cpu().numpy()
        if bright.any():
            found[i] = LetterboxEdges(_beside(np.any(bright, axis=1)), _beside(np.any(bright, axis=0)))
    return found


def _beside(bright: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the lines near the first and the last bright line, unless the frame begins or ends there."""
    near: NDArray[np.bool_] = np.zeros(len(bright), np.bool_)
    for line, end in ((near, int(bright.argmax())), (near[::-1], int(bright[::-1].argmax()))):
        if end:
            line[max(end - BESIDE, 0) : end + BESIDE] = True
    return near
