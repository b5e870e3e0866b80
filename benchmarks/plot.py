"""The plot of `make bench`: what a frame takes in each network, and what is left of it further out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol


class Line(Protocol):
    """What is drawn of a figure."""

    @property
    def part(self) -> str: ...
    @property
    def what(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def unit(self) -> str: ...
    @property
    def ratio(self) -> float | None: ...


def draw(lines: Sequence[Line], machine: str, path: Path) -> None:
    """Write it as PNG. ImportError where matplotlib (extra `bench`) is not installed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    networks = [line for line in lines if line.unit == "ms a frame"]
    shares = [line for line in lines if line.part not in ("model", "workers") and line.ratio is not None]
    panels = [panel for panel in (networks, shares) if panel]
    if not panels:
        return
    heights = [len(panel) for panel in panels]
    figure, axes = plt.subplots(
        len(panels),
        1,
        figsize=(9, 1.4 + 0.34 * sum(heights)),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        if panel is networks:
            _bars(axis, [line.what for line in panel], [line.value for line in panel], "{:.0f} ms")
            axis.set_xscale("log")
            axis.set_xlabel("ms a frame (logarithmic)")
        else:
            names = [f"{line.part}: {line.what}" for line in panel]
            _bars(axis, names, [line.ratio or 0.0 for line in panel], "{:.2f}")
            axis.axvline(1, color="0.5", linewidth=0.8)
            axis.set_xlabel("of the bare model, or of one stream alone")
    figure.suptitle(machine, fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _bars(axis: Any, names: Sequence[str], values: Sequence[float], text: str) -> None:
    bars = axis.barh(range(len(names)), values, color="#4477aa", height=0.7)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.bar_label(bars, [text.format(value) for value in values], padding=3, fontsize=8)
    axis.margins(x=0.12)
    axis.spines[["top", "right"]].set_visible(False)
