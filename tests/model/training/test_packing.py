"""Packing of a cache into one file, and its arrival: windows, quality, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.device_train.arrival import decode
from commands import pack as command
from media import dataset
from model import quality
from model.errors import ConfigError
from model.training import cache
from model.training.degrade import Frames, bi, each
from model.training.motion import moving_clip
from model.training.packing import Limits, Packed, pack, unpack
from model.zoo.models import load_network
from model.zoo.weights_file import load_file
from tests.support.clips import make_scenes

LIMITS = Limits(frames=4, side=64, val_frames=3, val_side=64)


def packed_clips(folder: Path) -> None:
    """A cache with two sources of two segments, and one for validation, all with a compressed version."""
    rng = np.random.default_rng(2)
    photo = cv2.resize(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8), (160, 160), interpolation=cv2.INTER_CUBIC)
    for kind, source, count in (("clips", "a", 2), ("clips", "b", 1), ("photos", "c", 1), ("val", "v", 1)):
        with cache.source(folder, kind, source) as write:
            for number in range(count):
                hr = moving_clip(photo, photo[::-1].copy(), 6, 96, rng)
                lr = each(hr, bi)
                write(number, hr, {"bi": lr, "up0": dataset.h264(lr, 25)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cache")
    packed_clips(path)
    return path


@pytest.fixture(scope="module")
def packed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Packed]:
    file = tmp_path_factory.mktemp("packed") / "segments.safetensors"
    return file, pack(folder, file, LIMITS, dataset.h264_rgb, command._decoded, print)


def changed(file: Path, out: Path, change: object) -> Path:
    """A copy of a packed file with changed tensors and metadata."""
    with safe_open(file, framework="pt") as source:
        notes = dict(source.metadata())
        tensors = {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118
    change(tensors, notes)
    save_file(tensors, out, notes)
    return out


def test_a_packed_cache_arrives_nearly_unchanged(folder, packed, tmp_path):
    file, summary = packed
    assert (summary.segments, summary.left_out, summary.frames) == (5, 0, 4 * 4 + 3)
    assert summary.means["hr"] > 40
    assert summary.means["up"] > 45
    assert summary.means["up"] > summary.means["up to bi"] + 10  # the artefacts survive
    assert summary.bytes == file.stat().st_size
    unpack(file, tmp_path, decode, print)
    for kind in cache.KINDS:
        for before, after in zip(cache.read(folder, kind), cache.read(tmp_path, kind), strict=True):
            assert (after.source, after.versions) == (before.source, ["bi", "up0"])
            hr = after.frames("hr")
            assert hr.shape == ((3 if kind == "val" else 4), 64, 64, 3)
            assert np.array_equal(after.frames("bi"), each(np.array(hr), bi))
            assert best_match(np.array(before.frames("hr")), np.array(hr)) > 38
            assert best_match(np.array(before.frames("up0")), np.array(after.frames("up0"))) > 43


def best_match(whole: Frames, part: Frames) -> float:
    """PSNR of a window at the best place in a clip."""
    t, h, w, _ = part.shape
    first = part[0].astype(np.uint8)
    places = []
    for start in range(len(whole) - t + 1):
        found = cv2.matchTemplate(np.ascontiguousarray(whole[start]), first, cv2.TM_SQDIFF)
        least, _, (x, y), _ = cv2.minMaxLoc(found)
        places.append((least, start, y, x))
    _, start, y, x = min(places)
    cut = whole[start : start + t, y : y + h, x : x + w]
    return quality.psnr(torch.from_numpy(cut.copy()), torch.from_numpy(part))


def test_a_full_file_has_a_segment_of_each_source_first(folder, packed, tmp_path):
    _, whole = packed
    small = tmp_path / "small.safetensors"
    limits = replace(LIMITS, bytes=int(whole.bytes * 0.97))
    summary = pack(folder, small, limits, dataset.h264_rgb, command._decoded, print)
    assert summary.left_out >= 1
    assert small.stat().st_size <= limits.bytes
    with safe_open(small, framework="pt") as file:
        entries = json.loads(file.metadata()["segments"])
    assert entries[0]["kind"] == "val"
    assert {entry["source"] for entry in entries} == {"v", "a", "b", "c"}


def test_an_empty_cache_and_a_file_without_room_are_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="holds no packed segments"):
        pack(tmp_path / "none", tmp_path / "f", LIMITS, dataset.h264_rgb, command._decoded, print)
    with pytest.raises(ConfigError, match="hold no training segment"):
        pack(folder, tmp_path / "f", replace(LIMITS, bytes=2000), dataset.h264_rgb, command._decoded, print)


def other_format(tensors, notes):
    notes["format"] = "0"


def other_folder(tensors, notes):
    notes["segments"] = notes["segments"].replace('"a"', '"../a"')


def damaged_video(tensors, notes):
    tensors["0.hr"] = tensors["0.hr"][:200].clone()


def longer(tensors, notes):
    notes["segments"] = notes["segments"].replace("[3, 64", "[4, 64", 1)


def other_colours(tensors, notes):
    tensors["0.hr.thumbnails"] = tensors["0.hr.thumbnails"].flip(-1).contiguous()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_format, "not a file of `skipvsr pack`"),
        (other_folder, r"the source '\.\./a'"),
        (damaged_video, "decodes no frames"),
        (longer, r"has the shape \[3, 64, 64, 3\] instead of \[4, 64, 64, 3\]"),
        (other_colours, r"looks different: .* levels away"),
    ],
)
def test_a_file_that_arrives_otherwise_is_refused(change, message, packed, tmp_path):
    file = changed(packed[0], tmp_path / "f.safetensors", change)
    with pytest.raises(ConfigError, match=message):
        unpack(file, tmp_path / "cache", decode, print)
    (tmp_path / "cut").write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ConfigError, match="cannot be unpacked"):
        unpack(tmp_path / "cut", tmp_path / "cache", decode, print)


def test_the_command_prepares_and_packs_data_and_rounds_weights(tmp_path, capsys):
    for folder in ("clips", "val"):
        (tmp_path / folder).mkdir()
        make_scenes(tmp_path / folder / "a.mp4", frames=10, cuts=(), width=128, height=96)
    config = tmp_path / "config.toml"
    data = f'clips = ["{tmp_path / "clips"}"]\nval = ["{tmp_path / "val"}"]\nmin_side = 64\nsegment = 8\nuploads = 1'
    config.write_text(f"photo_share = 0.0\n[data]\n{data}\nphoto_frames = 8\n[[stages]]\nsteps = 1\nframes = 4\n")
    out = tmp_path / "out"
    assert command.run(config, tmp_path / "cache", out, LIMITS, "small", tmp_path) == 0
    said = capsys.readouterr().out
    assert "packed a.mp4 for validation" in said
    assert "PSNR of packing: ground truth" in said
    unpack(out / "segments.safetensors", tmp_path / "arrived", decode, print)
    assert cache.read(tmp_path / "arrived", "clips")[0].versions == ["bi", "up0"]
    rounded, exact = load_file(out / "small.safetensors"), load_network("small", tmp_path)[0]
    assert (out / "small.safetensors").stat().st_size < 600_000
    pairs = zip(rounded.parameters(), exact.parameters(), strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) < 1e-3
