"""The figures of a chunk, from the reports of its frames."""

from __future__ import annotations

import math

import numpy as np

from jobs.figures import MOST_CELLS, ChunkFigures, Facts, MapShape
from media.probe import MediaInfo
from media.spec import OutputSpec
from model.engine.upscaler import ChunkResult, Upscaler
from model.routing import TILE, RoutingReport


def facts(model: Upscaler, info: MediaInfo, spec: OutputSpec, *, resumed: bool) -> Facts:
    """Facts shared by all chunks of a job."""
    width, height = info.video.width, info.video.height
    return Facts(
        model=model.name,
        device=str(model.device),
        precision=model.precision,
        resumed=resumed,
        size=(spec.width, spec.height),
        map=map_shape(width, height, model.config.fold),
    )


def map_shape(width: int, height: int, fold: int) -> MapShape:
    """Shape of the map of frames: cells of one tile, or of several if a frame has more tiles than `MOST_CELLS`.

    `fold` is `NetworkConfig.fold` of the network.
    """
    tile = TILE * fold
    side = next(side for side in range(1, MOST_CELLS) if _cells(width, height, tile * side) <= MOST_CELLS)
    cell = tile * side
    return MapShape(columns=-(-width // cell), rows=-(-height // cell), cell=cell, width=width, height=height)


def _cells(width: int, height: int, cell: int) -> int:
    return math.ceil(width / cell) * math.ceil(height / cell)


def packed(report: RoutingReport, shape: MapShape, fold: int) -> bytes:
    """The map of a frame: 1 for each cell in which some unit ran."""
    side = shape.cell // (TILE * fold)
    ran = np.zeros((shape.rows * side, shape.columns * side), np.bool_)
    rows, columns = report.left_out.shape
    ran[:rows, :columns] = report.left_out < 1
    return np.packbits(ran.reshape(shape.rows, side, shape.columns, side).any((1, 3))).tobytes()


def chunk_figures(first: int, result: ChunkResult, seconds: float) -> ChunkFigures:
    """Figures of a chunk whose first frame has the number `first`, `seconds` after the chunk before."""
    reports = result.reports
    total = sum(report.units_total for report in reports)
    return ChunkFigures(
        first=first,
        frames=len(result.frames),
        seconds=round(seconds, 4),
        model_seconds=round(result.seconds, 4),
        skip_ratio=round(sum(report.units_left_out for report in reports) / total, 5) if total else 0.0,
        reuse_ratio=round(sum(report.units_reused for report in reports) / total, 5) if total else 0.0,
    )
