"""`make bench`: the table, JSON and plot of its network part with the tiny network; the table of the soak."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import soak
from benchmarks.__main__ import main
from benchmarks.plot import draw
from benchmarks.report import Figure
from tests.support.clips import make_clip


def test_the_table_and_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=6)
    out = tmp_path / "out"
    options = ["--models", "tiny", "--parts", "model", "--frames", "4", "--rounds", "1", "--threads", "1"]
    main([str(clip), *options, "--out", str(out)])
    printed = capsys.readouterr().out
    found = json.loads((out / "bench.json").read_text())
    assert [line["what"] for line in found["lines"]] == [
        f"tiny at 32x24, {name}" for name in ("routing off", "routing balanced", "routing fast")
    ]
    assert all(line["value"] > 0 and line["ratio"] > 0 for line in found["lines"])
    assert found["clip"] == {"name": "clip.mp4", "frames": 4}
    assert {"torch", "cpu", "cores"} <= found["machine"].keys()
    assert {"skipvsr", "numpy", "av", "grpcio"} <= found["versions"].keys()
    assert "routing balanced" in printed
    assert (out / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_the_plot_has_a_panel_for_ratios(tmp_path: Path) -> None:
    lines = [
        Figure("model", "small, routing off", 60.0, "ms a frame", 1.0, "dense", 0.0),
        Figure("service", "POST to done", 12.0, "frames/s", 0.9, "bare model"),
    ]
    draw(lines, "a machine", tmp_path / "both.png")
    draw(lines[:1], "a machine", tmp_path / "one.png")
    assert (tmp_path / "both.png").stat().st_size > (tmp_path / "one.png").stat().st_size
    draw([], "a machine", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_memory_by_thirds_and_per_hour_after_the_warm_up() -> None:
    mib = 1 << 20
    samples = [{"seconds": 10.0 * n, "api": float((1000 if n < 10 else 100 + n) * mib)} for n in range(100)]
    assert soak.rows(samples, ["api"]) == [["api", "139", "169", "199", "+60", "199", "+360.0"]]
    children = [{**each, "api": each["api"] + (50 * mib if n % 3 else 0)} for n, each in enumerate(samples)]
    assert soak.rows(children, ["api"])[0][-1] == "+360.0"
