"""Means over clips, for each model and routing."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.model import ModelRow
from benchmarks.report import geometric_mean

SummaryRow = dict[str, str | float | int | None]


def summary(rows: Sequence[ModelRow]) -> list[SummaryRow]:
    """A row for each model and routing: means, and the worst clip.

    `psnr_y_change_worst_clip` is the lowest change of a clip's mean against dense, `worst_frame_db` of a single frame.
    """
    lines: list[SummaryRow] = []
    for model, routing in dict.fromkeys((row.model, row.routing) for row in rows):
        mine = [row for row in rows if (row.model, row.routing) == (model, routing)]
        over_reference = [row.speedup_over_reference for row in mine if row.speedup_over_reference is not None]
        changes = [
            row.psnr_y - row.psnr_y_dense for row in mine if row.psnr_y is not None and row.psnr_y_dense is not None
        ]
        lines.append(
            {
                "model": model,
                "routing": routing,
                "clips": len(mine),
                "speedup_geomean": geometric_mean(row.speedup for row in mine),
                "speedup_lowest": min(row.speedup for row in mine),
                "over_reference_geomean": geometric_mean(over_reference) if over_reference else None,
                "skip_ratio_mean": sum(row.skip_ratio for row in mine) / len(mine),
                "psnr_y_change_mean": sum(changes) / len(changes) if changes else None,
                "psnr_y_change_worst_clip": min(changes) if changes else None,
                "worst_frame_db": min(
                    (row.worst_frame_db for row in mine if row.worst_frame_db is not None), default=None
                ),
            }
        )
    return lines
