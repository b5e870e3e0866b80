"""`skipvsr eval`: figures equal those of the frames, for every form of clips and LR."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

import cli
from benchmarks import quality
from commands.shared.command_line import read_settings
from media import dataset
from media.dataset import Frames
from model import quality as metrics
from model.engine.loading import load_model
from model.engine.upscaler import Upscaler
from model.training import degrade
from tests.support.clips import make_clip, write_png
from tests.support.user_models import TINY, write_model

COUNT, HEIGHT, WIDTH = 6, 64, 96


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SKIPVSR_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SKIPVSR_DEVICE", "cpu")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Upscaler:
    return load_model("tiny", weights_dir=tmp_path_factory.mktemp("weights"), device="cpu")


def moving(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Frames:
    """A soft texture that moves to the right: [COUNT, height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    rng = np.random.default_rng(seed)
    waves = [rng.uniform(0.02, 0.2, 3) for _ in range(3)]
    frames = [
        np.stack([127 + 100 * np.sin(a * (x - 2 * t) + b * y + 9 * c) for a, b, c in waves], axis=-1)
        for t in range(COUNT)
    ]
    return np.stack(frames).astype(np.uint8)


def put(folder: Path, name: str, frames: Frames) -> None:
    """Write a clip as a folder of PNG files."""
    (folder / name).mkdir(parents=True)
    for number, frame in enumerate(frames):
        write_png(folder / name / f"{number:03}.png", frame)


def evaluated(*argv: object) -> dict[str, Any]:
    model = [] if "--model" in argv else ["--model", "tiny"]
    assert cli.main(["eval", *map(str, argv), *model, "--json", "out.json"]) == 0
    return json.loads(Path("out.json").read_text())  # type: ignore[no-any-return]


def reduced(hr: Frames, how: Callable[[Any], Any] = degrade.bi) -> Frames:
    return np.stack([quality._each(hr, how)[i] for i in range(len(hr))])


def upscaled(model: Upscaler, lr: Frames) -> Frames:
    """Upscale all frames at once, like a job with fewer frames than a chunk."""
    return model.forward(lr, None, lookahead=0, last=True).frames


def luma(frame: Frames) -> Any:
    r, g, b = (frame[..., i].astype(np.float64) for i in range(3))
    return 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255


def decibel(a: Any, b: Any) -> float:
    return float(10 * np.log10(255**2 / np.mean((a - b) ** 2)))


def psnr_y(out: Frames, hr: Frames) -> float:
    """By hand: the mean over frames."""
    return fmean(decibel(luma(a), luma(b)) for a, b in zip(out, hr, strict=True))


def test_figures_are_those_of_the_frames(model: Upscaler, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = {name: moving(seed) for seed, name in enumerate(["one", "two.v2"])}
    for name, hr in clips.items():
        put(tmp_path / "gt", name, hr)
    document = evaluated("--gt", "gt")
    assert [row["clip"] for row in document["rows"]] == list(clips)
    for row, hr in zip(document["rows"], clips.values(), strict=True):
        lr = reduced(hr)
        out = upscaled(model, lr)
        assert set(row) == {field.name for field in quality.Quality.__dataclass_fields__.values()}
        assert (row["model"], row["routing"], row["frames"]) == ("tiny", "off", COUNT)
        assert row["psnr_y"] == pytest.approx(psnr_y(out, hr), abs=1e-6)
        rgb = [decibel(a.astype(float), b.astype(float)) for a, b in zip(out, hr, strict=True)]
        assert row["psnr_rgb"] == pytest.approx(fmean(rgb), abs=1e-6)
        bicubic = quality._each(lr, degrade.bicubic_up)
        assert row["bicubic_psnr_y"] == pytest.approx(psnr_y(bicubic, hr), abs=1e-6)
        errors = [luma(a) - luma(b) for a, b in zip(out, hr, strict=True)]
        assert row["flicker"] == pytest.approx(fmean(np.abs(b - a).mean() for a, b in pairwise(errors)), abs=1e-4)
        assert 0 < row["ssim_y"] < 1
        assert row["ms_per_frame"] > 0
        assert (row["skip_ratio"], row["speedup"]) == (0.0, 1.0)
    mean = fmean(row["psnr_y"] for row in document["rows"])
    bicubic_mean = fmean(row["bicubic_psnr_y"] for row in document["rows"])
    assert f"mean of clips: {mean:.3f} dB, {mean - bicubic_mean:+.3f} dB over bicubic" in capsys.readouterr().out
    assert document["degrade"] == "bi"
    assert document["machine"]["device"] == "cpu"
    assert document["machine"]["threads"] >= 1
    age = datetime.now(UTC) - datetime.fromisoformat(document["date"])
    assert timedelta(0) <= age < timedelta(minutes=5)


def test_videos_are_clips_too_cropped_to_a_multiple_of_four(model: Upscaler, tmp_path: Path) -> None:
    (tmp_path / "gt").mkdir()
    make_clip(tmp_path / "gt" / "stripes.mp4", frames=8, width=66, height=50)
    (row,) = evaluated("--gt", "gt", "--frames", 5)["rows"]
    hr = dataset.clip(tmp_path / "gt" / "stripes.mp4", 5)[:, :48, :64]
    assert (row["clip"], row["frames"]) == ("stripes", 5)
    assert row["psnr_y"] == pytest.approx(psnr_y(upscaled(model, reduced(hr)), hr), abs=1e-6)


def test_other_scales_are_measured_on_lr_of_their_size(model: Upscaler, tmp_path: Path) -> None:
    hr = moving(5)[:, :-2, :-2]  # no multiple of four
    put(tmp_path / "gt", "one", hr)
    write_model(read_settings().weights, "double", config=replace(TINY, scale=2))
    double = load_model("double", weights_dir=read_settings().weights, device="cpu")
    lr = reduced(hr, partial(degrade.bi, scale=2))
    (row,) = evaluated("--gt", "gt", "--model", "double")["rows"]
    assert row["psnr_y"] == pytest.approx(psnr_y(upscaled(double, lr), hr), abs=1e-6)
    bicubic = quality._each(lr, partial(degrade.bicubic_up, scale=2))
    assert row["bicubic_psnr_y"] == pytest.approx(psnr_y(bicubic, hr), abs=1e-6)
    (row,) = evaluated("--gt", "gt", "--scale", 2)["rows"]  # a network for x4, whose output is halved
    halved = quality._each(upscaled(model, lr), lambda x: degrade.resize(x, *hr.shape[1:3]))
    assert row["psnr_y"] == pytest.approx(psnr_y(halved, hr), abs=1e-6)


def test_lr_may_be_given(model: Upscaler, tmp_path: Path) -> None:
    hr = moving(3)
    lr = reduced(hr) // 2
    put(tmp_path / "gt", "one", hr)
    put(tmp_path / "lr", "one", lr)
    put(tmp_path / "lr", "another", lr)
    document = evaluated("--gt", "gt", "--lr", "lr")
    assert document["rows"][0]["psnr_y"] == pytest.approx(psnr_y(upscaled(model, lr), hr), abs=1e-6)
    assert document["degrade"] is None


@pytest.mark.parametrize("how", ["bi", "bd", "h264:35", "mpeg4:9", "mpeg2:9"])
def test_lr_is_made_as_asked(how: str, model: Upscaler, tmp_path: Path) -> None:
    hr = moving(4)
    put(tmp_path / "gt", "one", hr)
    lr = reduced(hr, degrade.bd if how == "bd" else degrade.bi)
    if how == "h264:35":
        lr = dataset.h264(lr, 35, "medium")
    elif how.startswith("mpeg"):
        lr = dataset.mpeg(lr, how.partition(":")[0], 9)
    document = evaluated("--gt", "gt", "--degrade", how)
    assert document["degrade"] == how
    assert document["rows"][0]["psnr_y"] == pytest.approx(psnr_y(upscaled(model, lr), hr), abs=1e-6)


def test_routing_is_timed_against_dense_and_neither_is_cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    still = np.repeat(moving(5, 128, 192)[:1], COUNT, axis=0)
    put(tmp_path / "gt", "still", still)
    monkeypatch.setattr(
        "model.engine.upscaler.crop_overhead", lambda *about: 0.0
    )  # otherwise some CPUs compute small frames densely
    calls: list[tuple[str, int]] = []
    forward = Upscaler.forward

    def told(self: Upscaler, frames: Frames, *args: Any, **options: Any) -> Any:
        calls.append((options["routing"], len(frames)))
        return forward(self, frames, *args, **options)

    monkeypatch.setattr(Upscaler, "forward", told)
    (row,) = evaluated("--gt", "gt", "--routing", "balanced")["rows"]
    assert calls == [("off", 3), ("balanced", 3), ("off", COUNT), ("balanced", COUNT)]
    assert row["routing"] == "balanced"
    assert 0 < row["skip_ratio"] < 1
    assert row["speedup"] > 0


def test_what_equals_the_ground_truth_counts_a_hundred_decibels(tmp_path: Path) -> None:
    put(tmp_path / "gt", "grey", np.full((2, 32, 32, 3), 128, np.uint8))
    (row,) = evaluated("--gt", "gt")["rows"]
    assert row["bicubic_psnr_y"] == metrics.MAX_DB


def test_an_error_in_a_later_clip_does_not_lose_the_earlier_ones(tmp_path: Path) -> None:
    put(tmp_path / "gt", "one", moving(2))
    put(tmp_path / "gt", "two", moving(2, 8, 40))
    assert cli.main(["eval", "--gt", "gt", "--model", "tiny", "--json", "out.json"]) == 1
    assert [row["clip"] for row in json.loads((tmp_path / "out.json").read_text())["rows"]] == ["one"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--gt", "none"], "none: not a folder"),
        (["--gt", "empty"], "empty: holds no clips"),
        (["--gt", "gt", "--lr", "none"], "none: not a folder"),
        (["--gt", "gt", "--lr", "empty"], "empty: holds no clip named one"),
        (
            ["--gt", "gt", "--lr", "wide"],
            "one: LR of 6 frames of 25x16 is not 1/4 of the ground truth, 6 frames of 96x64",
        ),
        (
            ["--gt", "gt", "--lr", "short"],
            "one: LR of 4 frames of 24x16 is not 1/4 of the ground truth, 6 frames of 96x64",
        ),
        (["--gt", "gt", "--degrade", "h264:52"], "must be bi, bd, h264:CRF with a CRF of 0 to 51, mpeg4:Q or"),
        (["--gt", "gt", "--degrade", "mpeg2:0"], "mpeg4:Q or mpeg2:Q with a Q of 1 to 31"),
        (["--gt", "gt", "--degrade", "blur"], "must be bi, bd, h264:CRF"),
        (["--gt", "gt", "--model", "none"], "unknown model 'none'"),
        (["--gt", "broken"], "one.mp4: cannot be decoded"),
        (["--gt", "flat"], "one: 6 frames of 40x8 is too small; the least is 12x12"),
        (["--gt", "mixed"], "one: frame 6 has 80x64 pixels, the first one 96x64"),
        (["--gt", "gt", "--json", "no/folder/out.json"], "there is no folder"),
    ],
)
def test_errors_are_one_line(argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "gt", "one", moving(6))
    put(tmp_path / "wide", "one", moving(6, 16, 25))
    put(tmp_path / "short", "one", moving(6, 16, 24)[:4])
    put(tmp_path / "flat", "one", moving(2, 8, 40))
    put(tmp_path / "mixed", "one", moving(1))
    write_png(tmp_path / "mixed" / "one" / "z.png", moving(1, 64, 80)[0])
    for name in ("empty", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "one.mp4").write_bytes(b"no video" * 99)
    model = [] if "--model" in argv else ["--model", "tiny"]
    assert cli.main(["eval", "--json", "out.json", *argv, *model]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said
    assert not (tmp_path / "out.json").exists()
