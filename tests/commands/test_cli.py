"""Commands in this process: results, files, and one line for each failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cli
from commands.shared.embedded_redis import EmbeddedRedis
from commands.shared.naming import beside
from media.encode.segment import SegmentWriter
from media.probe import probe
from media.reader import VideoReader
from media.spec import output_spec
from model.engine.upscaler import ChunkResult, Upscaler
from tests.support.clips import make_clip
from tests.support.paths import ROOT

EXAMPLE = ROOT / "examples" / "clip.mp4"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    monkeypatch.setenv("SKIPVSR_DATA_DIR", str(data_dir))
    monkeypatch.setenv("SKIPVSR_DEVICE", "cpu")
    monkeypatch.setenv("SKIPVSR_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "200")


def failure(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """Run a failing command; returns its error line."""
    status = cli.main([str(word) for word in argv])
    said = capsys.readouterr()
    assert status != 0
    assert said.err.count("\n") == 1
    assert said.err.startswith("skipvsr: ")
    return said.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["upscale", "none.mp4", "out.mp4"], "there is no file none.mp4"),
        (["upscale", EXAMPLE, "no/folder/out.mp4"], "there is no folder"),
        (["upscale", EXAMPLE, EXAMPLE], "the output would replace the input"),
        (["upscale", EXAMPLE, "out.mp4", "--model", "nonsense"], "unknown model 'nonsense'; use one of: "),
        (["upscale", EXAMPLE, "out.mp4", "--model", "basicvsr-reds"], "skipvsr models --fetch"),
        (["upscale", EXAMPLE, "out.mp4", "--crf", "99"], "--crf: "),
        (["upscale", EXAMPLE, "out.mp4", "--skipmap", "out.mp4"], "the skip map would replace the output"),
        (["upscale", EXAMPLE, "out.mp4", "--skipmap", EXAMPLE], "the skip map would replace the input"),
        (["submit", EXAMPLE, "-o", EXAMPLE], "the output would replace the input"),
        (
            ["submit", EXAMPLE, "-o", "out.mp4", "--url", "http://::1:8000"],
            "::1:8000 is not the address of a server",
        ),
        (["submit", EXAMPLE, "-o", "out.mp4", "--url", "http://[::1]:1"], "no server answers at http://[::1]:1"),
        (["stream", EXAMPLE, EXAMPLE], "the output would replace the input"),
        (["stream", EXAMPLE, "no/folder/out.mp4"], "there is no folder"),
        (["upscale", EXAMPLE, "out.mp4", "--report", "./out.mp4"], "the report would replace the output"),
        (["upscale", EXAMPLE, "out.mp4", "--report", EXAMPLE], "the report would replace the input"),
        (["upscale", EXAMPLE, "out.avi"], "out.avi must end in .mp4, .mkv, .mov or .webm"),
        (["submit", EXAMPLE, "-o", "out"], "out must end in .mp4, .mkv, .mov or .webm"),
        (["upscale", EXAMPLE, "out.webm", "--codec", "h264"], "webm can't hold h264"),
        (["upscale", EXAMPLE, "out.mp4", "--scale", "2", "--height", "100"], "either scale or height"),
        (["upscale", __file__, "out.mp4", "--model", "tiny"], "skipvsr: "),
        (
            ["submit", EXAMPLE, "-o", "out.mp4", "--url", "http://127.0.0.1:9"],
            "no server answers at http://127.0.0.1:9 (Connection refused): ",
        ),
        (["worker"], "no Redis: set SKIPVSR_REDIS_URL"),
        (["train-skip", "tiny", "--clips", ".", "--out", "no/folder/out"], "there is no folder"),
    ],
)
def test_errors_are_one_line(
    argv: list[str | Path],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in failure(capsys, *argv)
    assert [path.name for path in tmp_path.iterdir()] == ["data"], "something was left behind"


def test_a_wrong_setting_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPVSR_HTTP_PORT", "99999")
    assert "SKIPVSR_HTTP_PORT: " in failure(capsys, "models")


def test_settings_from_secret_files(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "skipvsr_device").write_text("nonsense")
    monkeypatch.delenv("SKIPVSR_DEVICE")
    monkeypatch.setenv("SKIPVSR_SECRETS_DIR", str(tmp_path))
    assert "unknown device 'nonsense'" in failure(capsys, "upscale", EXAMPLE, tmp_path / "out.mp4", "--model", "tiny")
    monkeypatch.setenv("SKIPVSR_SECRETS_DIR", str(tmp_path / "gone"))
    assert "SKIPVSR_SECRETS_DIR: no folder" in failure(capsys, "models")


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models"]) == 0
    said = capsys.readouterr().out
    assert "basicvsr-reds" in said
    assert "tiny" in said


def test_the_outputs_name_says_the_container(tmp_path: Path) -> None:
    for name, codec in (("out.mkv", "h264"), ("OUT.WEBM", "av1")):
        clip = make_clip(tmp_path / "clip.mp4", frames=4)
        assert cli.main(["upscale", str(clip), str(tmp_path / name), "--model", "tiny", "--scale", "2"]) == 0
        info = probe(tmp_path / name)
        assert (info.container, info.video.codec) == ("mkv", codec)
    odd = ["upscale", str(clip), str(tmp_path / "movie"), "--model", "tiny", "--container", "mov"]
    assert cli.main(odd) == 0
    assert b"ftypqt" in (tmp_path / "movie").read_bytes()[:16]


def test_names_as_long_as_the_system_allows(tmp_path: Path) -> None:
    """An umlaut takes two bytes: the name has 255 bytes, the limit."""
    clip, out = make_clip(tmp_path / "clip.mp4", frames=4), tmp_path / ("ü" * 125 + "x.mp4")
    assert cli.main(["upscale", str(clip), str(out), "--model", "tiny", "--scale", "2"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "data", out.name]
    assert beside(out, ".skipvsr") == beside(out, ".skipvsr") != beside(out.with_suffix(".mov"), ".skipvsr")


def test_upscale_without_a_server(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, report = tmp_path / "out.mp4", tmp_path / "report.json"
    command = ["upscale", EXAMPLE, out, "--model", "tiny", "--scale", "2", "--report", report]
    assert cli.main([str(word) for word in command]) == 0
    assert "288×192, 150 frames" in capsys.readouterr().out
    assert out.stat().st_size > 0
    document = json.loads(report.read_text())
    assert document["progress"]["frames_done"] == 150
    assert document["metrics"]["model_seconds"] > 0
    assert sum(chunk["frames"] for chunk in document["chunks"]) == 150
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out.mp4", "report.json"]


@pytest.mark.parametrize(
    ("size", "model"), [(["--scale", "2"], "small-x2"), (["--height", "96"], "small-x2"), (["--height", "98"], "small")]
)
def test_up_to_twice_the_size_takes_the_network_for_two(size: list[str], model: str, tmp_path: Path) -> None:
    source, out, report = (
        make_clip(tmp_path / "in.mp4", frames=4, width=64, height=48),
        tmp_path / "o.mkv",
        tmp_path / "r",
    )
    assert cli.main(["upscale", str(source), str(out), *size, "--report", str(report)]) == 0
    assert json.loads(report.read_text())["model"] == model
    assert probe(out).video.height == (98 if "98" in size else 96)


def test_without_a_size_the_scale_is_that_of_the_model(tmp_path: Path) -> None:
    source, out = make_clip(tmp_path / "in.mp4", frames=4, width=66, height=50), tmp_path / "o.mkv"
    skipmap = tmp_path / "map.mkv"
    command = ["upscale", source, out, "--model", "small-x2", "--skipmap", skipmap]
    assert cli.main([str(word) for word in command]) == 0
    assert (probe(out).video.width, probe(out).video.height) == (132, 100)
    with VideoReader(skipmap) as shown:
        assert len(list(shown)) == 4


def test_a_skip_map_shows_what_was_computed(tmp_path: Path) -> None:
    """The left half is still, the right is noise: each frame of the map is dark on the left and tinted on the right."""
    source = tmp_path / "in.mp4"
    random = np.random.default_rng(0)
    picture = random.integers(0, 255, (192, 320, 3), np.uint8)
    with SegmentWriter(
        source, output_spec(probe(make_clip(tmp_path / "like.mp4", width=320, height=192)), scale=1)
    ) as w:
        for i in range(12):
            picture[:, 240:] = random.integers(0, 255, (192, 80, 3), np.uint8)
            w.write(picture, i * 512)
    (tmp_path / "like.mp4").unlink()
    out, skipmap = tmp_path / "out.mp4", tmp_path / "map.mkv"
    command = ["upscale", source, out, "--model", "tiny", "--scale", "2", "--skipmap", skipmap]
    assert cli.main([str(word) for word in command]) == 0
    with VideoReader(source) as reader, VideoReader(skipmap) as shown:
        pairs = list(zip(reader, shown, strict=True))
    assert [a.pts * a.time_base for a, _ in pairs] == pytest.approx([b.pts * b.time_base for _, b in pairs], abs=1e-3)
    before, after = (np.stack([pair[i].rgb for pair in pairs[4:]]).astype(float).mean((0, 1)) for i in (0, 1))
    assert after[:192].mean() < 0.6 * before[:192].mean()
    assert after[256:, 0].mean() > after[256:, 2].mean() + 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "in.mp4", "map.mkv", "out.mp4"]


def test_a_skip_map_of_an_interrupted_run_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = make_clip(tmp_path / "in.mp4", frames=16), tmp_path / "out.mp4"
    skipmap, report = tmp_path / "map.mp4", tmp_path / "report.json"
    options = ["--model", "tiny", "--chunk", "4", "--skipmap", skipmap, "--report", report]
    command = [str(word) for word in ("upscale", source, out, *options)]
    stream, chunks = Upscaler.stream, 0

    def interrupted(*given: Any, **options: Any) -> Iterator[ChunkResult]:
        nonlocal chunks
        for result in stream(*given, **options):
            chunks += 1
            if chunks == 3:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(Upscaler, "stream", interrupted)
    assert cli.main(command) == 130
    assert not skipmap.exists()
    assert cli.main(command) == 0
    with VideoReader(skipmap) as shown:
        assert len(list(shown)) == 16
    document = json.loads(report.read_text())
    assert document["resumed"]
    assert [chunk["first"] for chunk in document["chunks"]] == [0, 4, 8]


def test_a_second_up_names_the_first(
    capsys: pytest.CaptureFixture[str], data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKIPVSR_HTTP_PORT", "0")
    with EmbeddedRedis(data_dir / "redis"):
        assert "another `skipvsr up` is using" in failure(capsys, "up")
