"""Packing: all of a source or nothing of it, one process at a time, and a cache that knows what it was packed with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from media import dataset
from model.errors import ConfigError
from model.training import cache
from model.training.config import DataConfig, TrainConfig
from model.training.data import Sampler
from model.training.prepare import Codec, Frames, prepare
from tests.support.clips import make_scenes, write_png
from tests.support.processes import wait_until

CODEC = Codec(dataset.clips, dataset.pictures, dataset.decode, dataset.h264, dataset.mpeg)
SMALL = {"min_side": 64, "segment": 8, "segments_per_clip": 3, "photo_clips": 2, "photo_frames": 4, "photo_size": 64}


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """Two videos, two pictures and a clip for validation, and how they are packed."""
    for name in ("videos", "photos", "val"):
        (tmp_path / name).mkdir()
    make_scenes(tmp_path / "videos/a.mp4", frames=24, cuts=(), width=96, height=80)
    make_scenes(tmp_path / "videos/b.mp4", frames=30, cuts=(), width=96, height=80)
    make_scenes(tmp_path / "val/c.mp4", frames=3, cuts=(), width=64, height=64)
    for i in range(2):
        picture = np.random.default_rng(i).integers(0, 255, (12, 12, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
        write_png(tmp_path / f"photos/{i}.png", picture)
    return DataConfig(
        clips=[tmp_path / "videos"], photos=[tmp_path / "photos"], val=[tmp_path / "val"], uploads=1, **SMALL
    )


def pack(config: DataConfig, folder: Path, seed: int = 2, codec: Codec = CODEC) -> list[str]:
    said: list[str] = []
    prepare(config, folder, codec, seed, said.append)
    return said


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_packed_is_kept_and_what_comes_later_is_added(data: DataConfig, tmp_path: Path) -> None:
    said = pack(data, tmp_path / "cache")
    assert [line.split(":")[0] for line in said] == [
        "packed a.mp4",
        "packed b.mp4",
        "packed 0.png",
        "packed 1.png",
        "packed c.mp4 for validation",
    ]
    clips = cache.read(tmp_path / "cache", "clips")
    assert [segment.source.split("-")[0] for segment in clips] == ["a.mp4"] * 3 + ["b.mp4"] * 3
    assert {(len(segment.frames("hr")), *segment.versions) for segment in clips} == {(8, "bi", "up0")}
    before = contents(tmp_path / "cache")
    assert pack(data, tmp_path / "cache") == []
    make_scenes(data.clips[0] / "z.mp4", frames=24, cuts=(), width=96, height=80)
    assert pack(data, tmp_path / "cache") == ["packed z.mp4: 3 segments"]
    after = contents(tmp_path / "cache")
    assert {name: after[name] for name in before} == before


def test_folders_of_pictures_are_clips_too(data: DataConfig, tmp_path: Path) -> None:
    """As REDS and Vid4 are laid out; a folder has the name that its pictures give it."""
    for folder in ("videos", "val"):
        (tmp_path / folder / "000").mkdir()
        for number, frame in enumerate(dataset.decode(tmp_path / "videos/a.mp4")):
            write_png(tmp_path / folder / "000" / f"{number:03d}.png", frame)
    said = pack(data, tmp_path / "cache")
    assert "packed 000: 3 segments" in said
    assert "packed 000 for validation" in said
    assert pack(data, tmp_path / "cache") == []
    write_png(tmp_path / "videos/000/005.png", np.zeros((80, 96, 3), np.uint8))
    with pytest.raises(ConfigError, match="absent from the data folders"):
        pack(data, tmp_path / "cache")


def test_what_is_too_short_is_said_and_what_is_odd_is_named(data: DataConfig, tmp_path: Path) -> None:
    make_scenes(tmp_path / "videos/short.mp4", frames=5, cuts=(), width=96, height=80)
    assert "skipped short.mp4: no 8 frames in a row without a scene cut" in pack(data, tmp_path / "cache")
    (tmp_path / "videos/odd").mkdir()
    for number, width in enumerate((96, 80)):
        write_png(tmp_path / f"videos/odd/{number}.png", np.zeros((80, width, 3), np.uint8))
    with pytest.raises(ConfigError, match="odd: frame 1 has 80x80 pixels, the first one 96x80"):
        pack(data, tmp_path / "cache")


def test_one_source_that_is_large_enough_is_found_among_many(data: DataConfig, tmp_path: Path) -> None:
    for number in range(30):
        make_scenes(tmp_path / f"videos/small{number}.mp4", frames=8, cuts=(), width=48, height=48)
    pack(data, tmp_path / "cache")
    stage = {"steps": 1, "batch": 40, "frames": 4, "patch": 16}
    config = TrainConfig.model_validate({"data": data, "stages": [stage], "photo_share": 0.0})
    lr, _ = Sampler(tmp_path / "cache", config).batch(0, config.stages[0])
    assert lr.shape == (40, 4, 16, 16, 3)
    config = TrainConfig.model_validate({"data": data, "stages": [stage, stage | {"patch": 24}], "photo_share": 0.0})
    with pytest.raises(ConfigError, match="no clips of 4 frames of 24 x 24 LR pixels"):
        Sampler(tmp_path / "cache", config)


def test_segments_keep_no_files_open(data: DataConfig, tmp_path: Path) -> None:
    """A data set has thousands, and a process by default a thousand."""
    pack(data, tmp_path / "cache")
    before = len(os.listdir("/proc/self/fd"))
    segments = cache.read(tmp_path / "cache", "clips")
    assert [segment.frames("bi").shape for segment in segments] == [segment.shape for segment in segments]
    assert len(os.listdir("/proc/self/fd")) == before


def test_names_that_are_alike_are_told_apart(tmp_path: Path) -> None:
    for folder, name, frames in (
        ("one", "x.mp4", 24),
        ("one", "x.y.mp4", 25),
        ("one", "x.mkv", 26),
        ("two", "x.mp4", 27),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        make_scenes(tmp_path / folder / name, frames=frames, cuts=(), width=64, height=64)
    config = DataConfig(clips=[tmp_path / "one", tmp_path / "two"], uploads=0, **SMALL)
    assert sorted(pack(config, tmp_path / "cache")) == sorted(
        f"packed {name}: 3 segments" for name in ("x.mp4", "x.y.mp4", "x.mkv", "x.mp4")
    )
    segments = cache.read(tmp_path / "cache", "clips")
    assert len(segments) == 12
    assert len({segment.source for segment in segments}) == 4
    assert not pack(config.model_copy(update={"clips": config.clips[::-1]}), tmp_path / "cache")


def test_a_source_counts_once_all_of_it_is_there(data: DataConfig, tmp_path: Path) -> None:
    calls = 0

    def breaks(frames: Frames, crf: int, preset: str) -> Frames:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise ValueError("the second segment of b.mp4 breaks")
        return dataset.h264(frames, crf, preset)

    codec = Codec(dataset.clips, dataset.pictures, dataset.decode, breaks, dataset.mpeg)
    with pytest.raises(ConfigError, match=r"data: the second segment of b\.mp4 breaks"):
        pack(data, tmp_path / "cache", codec=codec)
    assert len(cache.read(tmp_path / "cache", "clips")) == 3
    assert pack(data, tmp_path / "cache")[0] == "packed b.mp4: 3 segments"
    pack(data, tmp_path / "straight")
    assert contents(tmp_path / "cache") == contents(tmp_path / "straight")


SCRIPT = """
import sys
from pathlib import Path
from media import dataset
from model.errors import ConfigError
from model.training.config import DataConfig
from model.training.prepare import Codec, prepare

def h264(*args):
    print("h264", flush=True)
    sys.stdin.readline()
    return dataset.h264(*args)

codec = Codec(dataset.clips, dataset.pictures, dataset.decode, h264, dataset.mpeg)
prepare(DataConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]), codec, 2, print)
"""


def test_packing_that_was_killed_goes_on_to_the_same_cache(data: DataConfig, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, data.model_dump_json(), tmp_path / "cache"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    compressed = 0
    for line in process.stdout:
        compressed += line == "h264\n"
        if compressed == 6:  # two of three segments of the second video are written
            os.kill(process.pid, signal.SIGKILL)
            break
        if line == "h264\n":
            process.stdin.write("\n")
            process.stdin.flush()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    process.stdin.close()
    assert list((tmp_path / "cache/clips").glob(".b.mp4-*.part/1.hr.npy"))
    assert len(cache.read(tmp_path / "cache", "clips")) == 3
    assert pack(data, tmp_path / "cache")[0] == "packed b.mp4: 3 segments"
    pack(data, tmp_path / "straight")
    assert contents(tmp_path / "cache") == contents(tmp_path / "straight")


def test_of_two_that_pack_one_cache_one_waits_and_finds_it_packed(data: DataConfig, tmp_path: Path) -> None:
    decoded: list[Path] = []
    said: list[list[str]] = [[], []]

    def slowly(path: Path) -> Iterator[Frames]:
        decoded.append(path)
        wait_until(lambda: any("waiting" in line for lines in said for line in lines), 60, "nobody waits")
        return dataset.decode(path)

    codec = Codec(dataset.clips, dataset.pictures, slowly, dataset.h264, dataset.mpeg)
    threads = [
        threading.Thread(target=lambda lines=lines: prepare(data, tmp_path / "cache", codec, 2, lines.append))
        for lines in said
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    waited, packed = sorted(said, key=len)
    assert waited == [f"waiting for another process to finish packing {tmp_path / 'cache'}"]
    assert len(packed) == 5
    assert len(decoded) == 2 * 2 + 2 * 2 + 1


@pytest.mark.parametrize(
    ("change", "seed", "message"),
    [
        ({"uploads": 2}, 2, "another data.uploads (1, now 2):"),
        ({"crf": (15, 30), "shrink": (1.0, 2.0)}, 2, "another data.shrink.0 (1.5, now 1.0), data.crf.1 (28, now 30):"),
        ({"segment": 9}, 2, "another data.segment (8, now 9):"),
        ({}, 3, "another seed (2, now 3):"),
        ({"seed": 4}, 2, "another seed (2, now 4):"),
    ],
)
def test_a_cache_that_was_packed_otherwise_is_refused(data, tmp_path, change, seed, message) -> None:
    pack(data, tmp_path / "cache")
    before = contents(tmp_path / "cache")
    with pytest.raises(ConfigError) as error:
        pack(data.model_copy(update=change), tmp_path / "cache", seed)
    assert message in str(error.value)
    assert str(error.value).endswith("use another --cache, or delete this cache")
    assert "\n" not in str(error.value)
    assert contents(tmp_path / "cache") == before
    assert pack(data.model_copy(update={"seed": 2}), tmp_path / "cache", seed=99) == []


def test_a_cache_of_files_that_are_gone_is_refused(data: DataConfig, tmp_path: Path) -> None:
    pack(data, tmp_path / "cache")
    (data.clips[0] / "b.mp4").unlink()
    with pytest.raises(ConfigError, match=r"holds b\.mp4-[0-9a-f]{16}, absent from the data folders: use"):
        pack(data, tmp_path / "cache")


def test_a_cache_of_an_earlier_version_is_refused(data: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "cache/clips").mkdir(parents=True)
    np.save(tmp_path / "cache/clips/a.0.hr.npy", np.zeros((4, 64, 64, 3), np.uint8))
    with pytest.raises(ConfigError, match="an earlier version, without a record of its settings: use another"):
        pack(data, tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_refused(data: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(ConfigError, match="cache: File exists"):
        pack(data, tmp_path / "cache")


def test_compressed_frames_are_asked_of_a_cache_that_has_none(data: DataConfig, tmp_path: Path) -> None:
    pack(data.model_copy(update={"uploads": 0}), tmp_path / "cache")
    config = TrainConfig.model_validate(
        {"data": data, "stages": [{"steps": 1, "frames": 3, "patch": 16}], "clean_share": 0.5}
    )
    with pytest.raises(ConfigError, match=r"the cache holds no compressed clips, and clean_share is 0\.5"):
        Sampler(tmp_path / "cache", config)


def test_compressed_versions_are_of_the_codecs_asked_for(data: DataConfig, tmp_path: Path) -> None:
    passed: list[tuple[str, int]] = []

    def h264(frames: Frames, crf: int, preset: str) -> Frames:
        passed.append(("h264", crf))
        return frames

    def mpeg(frames: Frames, kind: str, quantizer: int) -> Frames:
        passed.append((kind, quantizer))
        return frames

    codec = Codec(dataset.clips, dataset.pictures, dataset.decode, h264, mpeg)
    mixed = data.model_copy(update={"uploads": 9, "mpeg_share": 0.6, "mpeg_quantizer": (3, 4), "crf": (20, 21)})
    pack(mixed, tmp_path / "cache", codec=codec)
    passed.remove(("h264", data.val_crf))
    assert set(passed) == {(kind, q) for kind in ("mpeg4", "mpeg2") for q in (3, 4)} | {("h264", 20), ("h264", 21)}
    assert 0.5 < np.mean([kind != "h264" for kind, _ in passed]) < 0.7
    (tmp_path / "cache").rename(tmp_path / "mixed")
    passed.clear()
    pack(data, tmp_path / "cache", codec=codec)
    assert {kind for kind, _ in passed} == {"h264"}


COMPRESSED: dict[str, Callable[[Frames, int], Frames]] = {
    "h264": lambda frames, quality: dataset.h264(frames, 20 + quality, "medium"),
    "mpeg4": lambda frames, quality: dataset.mpeg(frames, "mpeg4", quality),
    "mpeg2": lambda frames, quality: dataset.mpeg(frames, "mpeg2", quality),
}


@pytest.mark.parametrize("codec", COMPRESSED)
def test_a_codec_gives_the_same_frames_twice_and_worse_ones_at_less_quality(codec: str) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (6, 9, 11, 1), dtype=np.uint8).repeat(5, 1).repeat(5, 2)
    frames = frames.repeat(3, 3)
    first, second, worse = (COMPRESSED[codec](frames, quality) for quality in (2, 2, 8))
    assert first.shape == frames.shape
    assert (first == second).all()
    errors = [np.abs(each.astype(int) - frames).mean() for each in (first, worse)]
    assert 0 < 1.3 * errors[0] < errors[1]


@pytest.mark.parametrize("scale", [2, 4])
def test_blur_and_noise_come_as_often_as_asked(data: DataConfig, tmp_path: Path, scale: int) -> None:
    lossless = replace(CODEC, h264=lambda frames, crf, preset: frames)

    def differences(**shares: float) -> list[float]:
        folder = tmp_path / str(shares)
        pack(data.model_copy(update={"scale": scale, "uploads": 3, **shares}), folder, codec=lossless)
        segments = [*cache.read(folder, "clips"), *cache.read(folder, "photos")]
        assert all(segment.scale == scale for segment in segments)
        pairs = [(segment.frames("bi"), segment.frames(up)) for segment in segments for up in segment.uploads]
        return [float(np.abs(bi.astype(int) - up).mean()) for bi, up in pairs]

    assert max(differences(blur_share=0.0, noise_share=0.0)) < 0.01
    assert min(differences(blur_share=1.0, noise_share=0.0)) > 0.02
    assert min(differences(blur_share=0.0, noise_share=1.0)) > 0.2
