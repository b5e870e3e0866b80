"""The skip map: the source video with computed cells tinted and all other cells darkened."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jobs.disk import replace
from jobs.figures import Figures, MapShape
from media.assemble import assemble
from media.encode.segment import SegmentWriter
from media.limits import DEFAULT_LIMITS, Limits
from media.probe import probe
from media.reader import Pixels, VideoReader
from media.spec import output_spec

_HOT: Final = np.array([1.0, 0.35, 0.0], np.float32)
"""RGB tint of computed cells."""
_TINT, _DARK = 0.45, 0.5
_SEGMENT: Final = 240
"""Frames in a segment."""


def shade(rgb: Pixels, computed: NDArray[np.bool_], cell: int) -> Pixels:
    """Tint a frame [H, W, 3] in the computed cells [rows, columns], and darken all others; the dtype stays the same.

    `cell` is the side of a cell in pixels. Raises ValueError if the shapes do not fit.
    """
    h, w = rgb.shape[:2]
    if computed.shape != (-(-h // cell), -(-w // cell)):
        raise ValueError(f"a map of {computed.shape} cells does not fit a frame of {w}x{h}")
    tinted = np.repeat(np.repeat(computed, cell, 0), cell, 1)[:h, :w, None]
    peak = float(np.iinfo(rgb.dtype).max)
    shaded = np.where(tinted, rgb * (1 - _TINT) + _HOT * (peak * _TINT), rgb * _DARK)
    return shaded.astype(rgb.dtype)  # type: ignore[return-value]  # the dtype stays the same


def write_skipmap(
    figures: Figures,
    source: Path,
    out: Path,
    container: str,
    limits: Limits = DEFAULT_LIMITS,
    *,
    fields: bool = False,
) -> Iterator[int]:
    """Write the skip map of a finished run to `out`; yield the number of frames written after each frame.

    Sound and times come from the source. A frame without figures stays unchanged. Raises MediaError and OSError.

    Args:
        figures: the figures in the working folder of the run, which also holds the segments.
        source: the video.
        out: the file, created at the end.
        container: the container of `out`.
        limits: limits on the source.
        fields: whether each field of an interlaced frame is a frame.
    """
    info = probe(source, limits, target=container, fields=fields)
    spec, shape = output_spec(info, scale=1, limits=limits), figures.facts.map
    segments: list[Path] = []
    written = 0
    try:
        with VideoReader(source, canvas=info.video.canvas, fields=fields, limits=limits) as reader:
            frames = zip(reader, figures.maps(), strict=False)
            while (first := next(frames, None)) is not None:
                segments.append(figures.folder / f"skipmap-{len(segments):06}.mp4")
                with SegmentWriter(segments[-1], spec) as writer:
                    for frame, bits in chain([first], islice(frames, _SEGMENT - 1)):
                        rgb = frame.rgb if bits is None else shade(frame.rgb, _cells(bits, shape), shape.cell)
                        writer.write(rgb, frame.pts)
                        written += 1
                        yield written
        whole = figures.folder / f"skipmap{out.suffix}"
        assemble(segments, source, whole, spec, limits=limits)
        replace(whole, out.absolute())
    finally:
        for path in segments:
            path.unlink(missing_ok=True)


def _cells(bits: bytes, shape: MapShape) -> NDArray[np.bool_]:
    """Unpack the map of a frame: [rows, columns]."""
    cells = np.unpackbits(np.frombuffer(bits, np.uint8), count=shape.columns * shape.rows)
    return cells.reshape(shape.rows, shape.columns).astype(np.bool_)
