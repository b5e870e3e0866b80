"""Packing the cache: videos are cut, scaled down and degraded; pictures are set in motion and degraded.

Decoding and H.264 come as functions (`Codec`), since this package knows no video. What is packed already is kept, so
that an interrupted preparation goes on; every segment depends on its name and the seed alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model import degrade
from model.training import cache
from model.training.config import ConfigError, DataConfig
from model.training.motion import moving_clip

Frames = npt.NDArray[np.uint8]

CUT_LEVELS = 28.0
"""Mean absolute difference between two frames, in 8-bit levels, that counts as a cut."""
MIN_FRAMES = 8
"""Shorter pieces between two cuts are dropped."""


@dataclass(frozen=True)
class Codec:
    """What packing needs to know of video; `media.dataset` has all of it."""

    clips: Callable[[Path], list[Path]]
    """The clips of a folder."""
    pictures: Callable[[Path], list[Path]]
    """The pictures of a folder."""
    decode: Callable[[Path], Iterator[Frames]]
    """A file's frames, each [H, W, 3]."""
    h264: Callable[[Frames, int, str], Frames]
    """A clip [T, H, W, 3] through H.264 at a CRF with a preset."""


def prepare(config: DataConfig, folder: Path, codec: Codec, seed: int, say: Callable[[str], None]) -> None:
    """Pack everything that `config` names into `folder`. Raises ConfigError where a folder holds nothing."""
    kinds: tuple[cache.Kind, ...] = ("clips", "photos", "val")
    done = {kind: set(cache.names(folder, kind)) for kind in kinds}
    try:
        for path in (p for source in config.clips for p in codec.clips(source)):
            if not any(name.startswith(f"{path.stem}.") for name in done["clips"]):
                count = _pack_clip(path, config, folder, codec, seed)
                say(f"packed {path.name}: {count} segments")
        photos = [p for source in config.photos for p in codec.pictures(source)]
        for i, path in enumerate(photos):
            if f"{path.stem}.{config.photo_clips - 1}" not in done["photos"]:
                _pack_photo(path, photos[(i * 7 + 3) % len(photos)], config, folder, codec, seed)
                say(f"packed {path.name}: {config.photo_clips} moving clips")
        for path in (p for source in config.val for p in codec.clips(source)):
            if path.stem not in done["val"]:
                _pack_val(path, config, folder, codec)
                say(f"packed {path.name} for validation")
    except ValueError as e:
        raise ConfigError(f"data: {e}") from e


def _rng(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _pack_clip(path: Path, config: DataConfig, folder: Path, codec: Codec, seed: int) -> int:
    """Pack up to `segments_per_clip` segments, spread over the video; one pass to count, one to decode."""
    total = sum(1 for _ in codec.decode(path))
    wanted = min(config.segments_per_clip, max(1, total // config.segment))
    starts = np.linspace(0, max(0, total - config.segment), wanted).astype(int)
    windows: list[list[Frames]] = [[] for _ in starts]
    count = 0
    for index, frame in enumerate(codec.decode(path)):
        for i, start in enumerate(starts):
            if start <= index < start + config.segment:
                windows[i].append(frame)
            if index == min(start + config.segment, total) - 1:
                piece = _longest_shot(windows[i])
                windows[i] = []
                if len(piece) < MIN_FRAMES:
                    continue
                name = f"{path.stem}.{i}"
                rng = _rng(name, seed)
                short = min(piece[0].shape[:2])
                factor = max(1.0, min(rng.uniform(*config.shrink), short / config.min_side))
                _pack(name, "clips", _shrunk(piece, factor), config, folder, codec, rng)
                count += 1
    return count


def _longest_shot(frames: list[Frames]) -> list[Frames]:
    """The longest run of frames without a cut."""
    thumbs = [frame[::8, ::8].astype(np.int16) for frame in frames]
    cuts = [i for i in range(1, len(frames)) if np.abs(thumbs[i] - thumbs[i - 1]).mean() > CUT_LEVELS]
    bounds = [0, *cuts, len(frames)]
    start, end = max(pairwise(bounds), key=lambda b: b[1] - b[0])
    return frames[start:end]


def planar(frame: Frames) -> Tensor:
    """[..., H, W, 3] uint8 to [..., 3, H, W] float, 0..255."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(frame, -1, -3))).float()


def interleaved(x: Tensor) -> Frames:
    """[..., 3, H, W] float, 0..255, to [..., H, W, 3] uint8, rounded."""
    return degrade.to_uint8(x).movedim(-3, -1).contiguous().numpy()


def _shrunk(frames: list[Frames], factor: float) -> Frames:
    h, w = frames[0].shape[:2]
    size = (int(h / factor) // 4 * 4, int(w / factor) // 4 * 4)
    if factor == 1.0:
        return np.stack([frame[: size[0], : size[1]] for frame in frames])
    return np.stack([interleaved(degrade.resize(planar(frame), *size)) for frame in frames])


def each(frames: Frames, how: Callable[[Tensor], Tensor]) -> Frames:
    """Apply a degradation frame by frame: [T, H, W, 3] -> [T, h, w, 3], uint8 rounded."""
    return np.stack([interleaved(how(planar(frame))) for frame in frames])


def upload(hr: Frames, crf: tuple[int, int], codec: Codec, rng: np.random.Generator) -> Frames:
    """What people upload: mostly BI, sometimes another blur, maybe light noise; then H.264."""
    draw = rng.random()
    sigma = rng.uniform(0.8, 1.6)
    lr = each(hr, degrade.bi if draw < 0.7 else lambda x: degrade.bd(x, sigma)).astype(np.float32)
    if rng.random() < 0.4:
        lr += rng.normal(0, rng.uniform(0.5, 3.0), lr.shape).astype(np.float32)
    preset = str(rng.choice(["veryfast", "medium"]))
    return codec.h264(np.clip(lr + 0.5, 0, 255).astype(np.uint8), int(rng.integers(crf[0], crf[1] + 1)), preset)


def _pack(
    name: str, kind: cache.Kind, hr: Frames, config: DataConfig, folder: Path, codec: Codec, rng: np.random.Generator
) -> None:
    lr = {"bi": each(hr, degrade.bi)}
    for i in range(config.uploads):
        lr[f"up{i}"] = upload(hr, config.crf, codec, rng)
    cache.write(folder, kind, name, hr, lr)


def _pack_photo(path: Path, other: Path, config: DataConfig, folder: Path, codec: Codec, seed: int) -> None:
    photo, layer = next(iter(codec.decode(path))), next(iter(codec.decode(other)))
    for i in range(config.photo_clips):
        name = f"{path.stem}.{i}"
        rng = _rng(name, seed)
        hr = moving_clip(photo, layer, config.photo_frames, config.photo_size, rng)
        _pack(name, "photos", hr, config, folder, codec, rng)


def _pack_val(path: Path, config: DataConfig, folder: Path, codec: Codec) -> None:
    frames: list[Frames] = []
    for frame in codec.decode(path):
        frames.append(frame)
        if len(frames) == config.val_frames:
            break
    hr = _shrunk(frames, 1.0)
    bi = each(hr, degrade.bi)
    cache.write(folder, "val", path.stem, hr, {"bi": bi, "up0": codec.h264(bi, config.val_crf, "medium")})
