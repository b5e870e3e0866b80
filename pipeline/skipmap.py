"""The skip map: the source video with what was computed of it shown over it, tile by tile."""

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
"""RGB that computed tiles are tinted with; what was left out is darkened."""
_TINT, _DARK = 0.45, 0.5


def shade(rgb: Pixels, left_out: NDArray[np.float32]) -> Pixels:
    """A frame [H, W, 3] with its `RoutingReport.left_out` over it, in the frame's type."""
    h, w = rgb.shape[:2]
    if left_out.shape != (-(-h // TILE), -(-w // TILE)):
        raise ValueError(f"a map of {left_out.shape} tiles does not fit a frame of {w}x{h}")
    share = np.repeat(np.repeat(left_out, TILE, 0), TILE, 1)[:h, :w, None]
    peak = float(np.iinfo(rgb.dtype).max)
    computed = rgb * (1 - _TINT) + _HOT * (peak * _TINT)
    return (computed + (rgb * _DARK - computed) * share).astype(rgb.dtype)  # type: ignore[no-any-return]


class SkipMap:
    """Writes the skip map of a source beside a job that upscales it; a context manager.

    The source is decoded a second time, so that no frame has to be kept: memory is bounded by the chunk. Sound and
    times are the source's. Raises what `media` raises, and OSError.

    Args:
        source: the job's video.
        folder: where to work.
        out: the map's file; it appears when all is done.
        container: that of `out`.
    """

    def __init__(self, source: Path, folder: Path, out: Path, container: str, limits: Limits = DEFAULT_LIMITS) -> None:
        self._source, self._folder, self._out, self._limits = source, folder, out.absolute(), limits
        self._spec = output_spec(probe(source, limits, target=container), scale=1, limits=limits)
        self._reader = VideoReader(source, limits=limits)
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
        """The next frames' reports, in display order."""
        segment = self._folder / f"skipmap-{len(self._segments):06}.mp4"
        with SegmentWriter(segment, self._spec) as writer:
            for report in reports:
                frame = next(self._frames)
                writer.write(shade(frame.rgb, report.left_out), frame.pts)
        self._segments.append(segment)

    def finish(self) -> None:
        """Join what was added, and the source's sound."""
        whole = self._folder / f"skipmap{self._out.suffix}"
        assemble(self._segments, self._source, whole, self._spec, limits=self._limits)
        replace(whole, self._out)
