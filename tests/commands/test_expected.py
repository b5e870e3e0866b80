"""What `skipvsr upscale` says before it starts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cli import main
from commands.shared.expected import about, sentence
from tests.support.clips import make_clip


def test_times_are_rounded_to_a_unit() -> None:
    assert [about(seconds) for seconds in (0.2, 59, 89, 100, 12 * 60, 89 * 60, 2.4 * 3600, 47 * 3600, 80 * 3600)] == [
        "about 1 s",
        "about 59 s",
        "about 89 s",
        "about 2 min",
        "about 12 min",
        "about 89 min",
        "about 2 h",
        "about 47 h",
        "about 3 days",
    ]


def test_the_sentence_names_sizes_and_the_wait() -> None:
    estimate = {"width": 3840, "height": 2160, "seconds": 720.0}
    assert sentence((1920, 1080), estimate) == "1920×1080 → 3840×2160, about 12 min"
    assert sentence((1920, 1080), estimate, 300.0).endswith(", about 12 min, after about 5 min in the queue")
    assert sentence((1920, 1080), estimate, 0.0) == sentence((1920, 1080), estimate)


def test_upscale_tells_the_time_and_learns_from_the_run(
    weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SKIPVSR_DATA_DIR", str(tmp_path / "data"))
    clip = make_clip(tmp_path / "clip.mp4", frames=4)
    command = ["upscale", str(clip), "--model", "tiny"]
    assert main([*command, "-o", str(tmp_path / "a.mp4")]) == 0
    assert re.search(r"clip\.mp4: 32×24 → 128×96, about \d+ (s|min)$", capsys.readouterr().err, re.MULTILINE)
    ((_, known),) = json.loads((tmp_path / "data" / "speeds.json").read_text()).items()
    assert "tiny" in known["rates"]["network"]
    (cell,) = known["cells"].values()
    assert (cell["model"], cell["pixels"]) == ("tiny", 32 * 24)
    for number, flag in enumerate(("-q", "--json")):
        assert main([*command, "-o", str(tmp_path / f"{number}.mp4"), flag]) == 0
        assert "→" not in capsys.readouterr().err
