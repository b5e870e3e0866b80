"""The plot of `make bench`: time of a frame in each network, and throughput of the layers around the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Figure


def draw(figures: Sequence[Figure], machine: str, path: Path) -> None:
    """Draw the figures into the PNG file `path`, under the title `machine`; no figures, no file.

    Raises ImportError without matplotlib (extra `bench`).
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    networks = [figure for figure in figures if figure.unit == "ms a frame"]
    shares = [figure for figure in figures if figure.part not in ("model", "workers") and figure.ratio is not None]
    panels = [panel for panel in (networks, shares) if panel]
    if not panels:
        return
    heights = [len(panel) for panel in panels]
    picture, axes = plt.subplots(
        len(panels),
        1,
        figsize=(9, 1.4 + 0.34 * sum(heights)),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        if panel is networks:
            _bars(axis, [each.what for each in panel], [each.value for each in panel], "{:.0f} ms")
            axis.set_xscale("log")
            axis.set_xlabel("ms per frame (logarithmic)")
        else:
            names = [f"{each.part}: {each.what}" for each in panel]
            _bars(axis, names, [each.ratio or 0.0 for each in panel], "{:.2f}")
            axis.axvline(1, color="0.5", linewidth=0.8)
            axis.set_xlabel("relative to the bare model, or to one stream alone")
    picture.suptitle(machine, fontsize=9)
    picture.savefig(path, dpi=110)
    plt.close(picture)


def _bars(axis: Any, names: Sequence[str], values: Sequence[float], text: str) -> None:
    bars = axis.barh(range(len(names)), values, color="#4477aa", height=0.7)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.bar_label(bars, [text.format(value) for value in values], padding=3, fontsize=8)
    axis.margins(x=0.12)
    axis.spines[["top", "right"]].set_visible(False)
