"""Plot a run: loss and validation PSNR over the steps."""

from __future__ import annotations

from pathlib import Path

_LABELS = {"psnr_bi": "bicubic LR", "psnr_bd": "blurred LR", "psnr_up0": "H.264 LR"}


def plot(rows: list[dict[str, float]], path: Path) -> None:
    """Plot the rows of the log to a PNG file; without matplotlib (extra `train`) write nothing."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    losses = [(row["step"], row["loss"]) for row in rows if row["loss"]]
    if losses:
        left.plot(*zip(*losses, strict=True), linewidth=0.8)
        if min(loss for _, loss in losses) > 0:  # PSNR's loss is negative
            left.set_yscale("log")
    left.set(xlabel="step", ylabel="loss")
    for name in sorted({name for row in rows for name in row if name.startswith("psnr_")}):
        points = [(row["step"], row[name]) for row in rows if name in row]
        right.plot(*zip(*points, strict=True), marker=".", label=_LABELS.get(name, name))
    right.set(xlabel="step", ylabel="validation Y-PSNR, dB")
    if right.lines:
        right.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)
