"""The skip map: the source video with computed tiles tinted and skipped tiles darkened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jobs.storage import replace
from media.assemble import assemble
from media.encode.segment import SegmentWriter
from media.limits import DEFAULT_LIMITS, Limits
from media.probe import probe
from media.reader import Pixels, VideoReader
from media.spec import output_spec
from model.routing import TILE, RoutingReport

_HOT = np.array([1.0, 0.35, 0.0], np.float32)
"""RGB tint of computed tiles."""
_TINT, _DARK = 0.45, 0.5


def shade(rgb: Pixels, left_out: NDArray[np.float32], side: int = TILE) -> Pixels:
    """Tint a frame [H, W, 3] by its share of skipped units per tile [rows, columns]; the dtype stays the same.

    `side` is the side of a tile in pixels of the frame. Raises ValueError if the shapes do not fit.
    """
    h, w = rgb.shape[:2]
    if left_out.shape != (-(-h // side), -(-w // side)):
        raise ValueError(f"a map of {left_out.shape} tiles does not fit a frame of {w}x{h}")
    share = np.repeat(np.repeat(left_out, side, 0), side, 1)[:h, :w, None]
    peak = float(np.iinfo(rgb.dtype).max)
    computed = rgb * (1 - _TINT) + _HOT * (peak * _TINT)
    return (computed + (rgb * _DARK - computed) * share).astype(rgb.dtype)  # type: ignore[no-any-return]


class SkipMap:
    """Writer of the skip map beside the upscaling of the same source; a context manager.

    The writer decodes the source a second time, so no frames stay in memory. Sound and times come from the source.
    Raises MediaError and OSError.

    Args:
        source: the video.
        folder: the working folder.
        out: the file of the skip map, created at the end.
        container: the container of `out`.
        limits: limits on the source.
        fields: whether each field of an interlaced frame is a frame.
        fold: `NetworkConfig.fold` of the network.
    """

    def __init__(
        self,
        source: Path,
        folder: Path,
        out: Path,
        container: str,
        limits: Limits = DEFAULT_LIMITS,
        *,
        fields: bool = False,
        fold: int = 1,
    ) -> None:
        self._side = TILE * fold
        self._source, self._folder, self._out, self._limits = source, folder, out.absolute(), limits
        info = probe(source, limits, target=container, fields=fields)
        self._spec = output_spec(info, scale=1, limits=limits)
        self._reader = VideoReader(source, canvas=info.video.canvas, fields=fields, limits=limits)
        self._frames = iter(self._reader)
        self._segments: list[Path] = []

    def __enter__(self) -> SkipMap:
        self._reader.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._reader.close()
        for path in self._segments:
            path.unlink(missing_ok=True)

    def add(self, reports: Sequence[RoutingReport]) -> None:
        """Write the next frames from their reports, in display order."""
        segment = self._folder / f"skipmap-{len(self._segments):06}.mp4"
        with SegmentWriter(segment, self._spec) as writer:
            for report in reports:
                frame = next(self._frames)
                writer.write(shade(frame.rgb, report.left_out, self._side), frame.pts)
        self._segments.append(segment)

    def finish(self) -> None:
        """Join all segments, and copy the source's sound."""
        whole = self._folder / f"skipmap{self._out.suffix}"
        assemble(self._segments, self._source, whole, self._spec, limits=self._limits)
        replace(whole, self._out)
