"""Corrupt files: the readable part is upscaled with a warning, or the file is refused. Only the child can crash."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from media.errors import MediaError, UnusableVideo
from media.limits import Limits
from media.probe import probe
from media.reader import VideoReader
from tests.support.fuzz_corpus import corpus, plain
from tests.support.hostile import CORRUPT_PNG, MUTATIONS, png, png_video, truncated, with_flipped_bits
from tests.support.media import as_ts, upscale, write_clip

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.mark.parametrize("tenth", range(1, 10))
def test_truncated_at_every_tenth(tmp_path: Path, tenth: int) -> None:
    """The index is in front, so the part before the cut is readable."""
    whole = upscale(write_clip(tmp_path / "clip.mp4", times=range(24), width=64, height=48), tmp_path).path
    cut = tmp_path / "cut.mp4"
    truncated(cut, whole, tenth)
    try:
        result = upscale(cut, tmp_path)
    except MediaError:
        return
    assert len(result.times) <= 24
    assert len(result.times) == 24 or result.warnings


def test_damage_in_the_middle_is_concealed_and_counted(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.h264", times=range(48), width=128, height=96, container_format="h264")
    data = bytearray(clip.read_bytes())
    random = np.random.default_rng(1)
    for at in random.integers(len(data) // 3, len(data), 12):
        data[at] ^= 0x55
    clip.write_bytes(data)
    result = upscale(clip, tmp_path)
    assert any("damaged" in warning or "could not be decoded" in warning for warning in result.warnings)
    assert len(result.times) >= 24


def test_a_recording_cut_inside_a_long_group_of_pictures(tmp_path: Path) -> None:
    options = {"g": "400", "keyint_min": "400", "sc_threshold": "0", "preset": "ultrafast"}
    clip = write_clip(tmp_path / "in.mp4", times=range(900), options=options)
    source = as_ts(clip, tmp_path / "cut.ts", without=20)
    result = upscale(source, tmp_path, chunk=250, scale=1)
    assert len(result.times) == 500
    assert [w for w in result.warnings if "could not be decoded" in w]


def test_a_mostly_damaged_video_fails(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mov"
    png_video(clip, [png(64, 64), *[CORRUPT_PNG] * 8, png(64, 64)])
    with pytest.raises(UnusableVideo, match="damaged"), VideoReader(clip) as reader:
        list(reader)


def test_missing_and_decreasing_timestamps_are_replaced(tmp_path: Path) -> None:
    raw = write_clip(tmp_path / "raw.h264", times=range(12), container_format="h264")
    with VideoReader(raw) as reader:
        times = [frame.pts for frame in reader]
    assert len(times) == 12
    assert times == sorted(set(times))
    assert len(upscale(raw, tmp_path).times) == 12


def fuzz(folder: Path, seeds: list[Path], seed: int, seconds: float, most: int) -> dict[str, int]:
    """Mutate the files `seeds`, and read them. Returns outcome → count.

    Only MediaError is an accepted error. `seed` and the mutation's number reproduce a case.
    """
    outcomes: dict[str, int] = {}
    begun, number = time.monotonic(), 0
    limits = Limits(max_decoder_seconds=10, max_frames=500)
    while number < most and time.monotonic() - begun < seconds:
        random = np.random.default_rng([seed, number])
        source = seeds[number % len(seeds)]
        mutate = MUTATIONS[list(MUTATIONS)[int(random.integers(len(MUTATIONS)))]]
        path = folder / f"fuzz{source.suffix}"
        path.write_bytes(mutate(bytearray(source.read_bytes()), random))
        try:
            probe(path, limits)
            with VideoReader(path, limits=limits) as reader:
                list(reader)
            outcome = "done"
        except MediaError as error:
            outcome = type(error).__name__
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        number += 1
    return outcomes


@pytest.mark.parametrize("count", [16, pytest.param(200, marks=pytest.mark.slow)])
def test_flipped_bits(tmp_path: Path, count: int) -> None:
    """Each file is decoded, with or without a warning, or refused with a reason."""
    whole = write_clip(tmp_path / "clip.mp4", times=range(24), width=64, height=48)
    outcomes = []
    for seed in range(count):
        broken = tmp_path / "broken.mp4"
        with_flipped_bits(broken, whole, seed)
        try:
            probe(broken)
            with VideoReader(broken) as reader:
                outcomes.append(f"{len(list(reader))} frames")
        except MediaError as error:
            outcomes.append(str(error))
    assert not any("\n" in outcome for outcome in outcomes)
    assert any(outcome.endswith("frames") for outcome in outcomes)


def test_fuzz(tmp_path: Path) -> None:
    outcomes = fuzz(tmp_path, list(plain(tmp_path)), seed=5, seconds=600, most=24)
    assert sum(outcomes.values()) >= 8
    assert outcomes.get("done", 0) > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fuzz_long(tmp_path: Path) -> None:
    """Every accepted container and decoder that the corpus reaches."""
    outcomes = fuzz(tmp_path, corpus(tmp_path), seed=6, seconds=600, most=1_000_000)
    print(outcomes)
    assert sum(outcomes.values()) >= 80
