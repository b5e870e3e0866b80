"""What the rows of several clips come to, for each model and routing."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.model import Row
from benchmarks.report import geometric_mean

Line = dict[str, str | float | int | None]


def summary(rows: Sequence[Row]) -> list[Line]:
    """One line for each model and routing: means, and the worst of all clips.

    The smallest change of PSNR is that of a clip's mean, the worst frame that of any single frame; both against dense.
    """
    lines: list[Line] = []
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
