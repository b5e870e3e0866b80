"""Packing of training data into the cache.

Videos are split into segments, scaled down and degraded. Pictures are turned into moving clips and degraded.
`Codec` supplies decoding and encoding: this package does not depend on a video library. Packed sources are kept: an
interrupted run resumes, and new files are added. A segment is a function of its source, the source's name and the seed;
a picture's segment also depends on the second picture moving over the first.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from model.errors import ConfigError
from model.training import cache, degrade
from model.training.config import DataConfig, differences
from model.training.motion import moving_clip

Frames = npt.NDArray[np.uint8]

CUT_LEVELS = 28.0
"""Mean absolute difference of two frames, in 8-bit levels, above which a scene cut lies between them."""
MIN_FRAMES = 8
"""Minimum frames of a segment; shorter shots are dropped."""
_SAMPLE = 65536
"""Bytes at the start and end of a file that enter its hash."""
_NAME = 50
"""Characters of the file name kept in the cache's name: at four bytes each, within a file system's limit."""


@dataclass(frozen=True)
class Codec:
    """Video functions needed for packing; `media.dataset` implements them."""

    clips: Callable[[Path], list[Path]]
    """List the clips of a folder."""
    pictures: Callable[[Path], list[Path]]
    """List the pictures of a folder."""
    decode: Callable[[Path], Iterator[Frames]]
    """Decode a file into frames [H, W, 3]."""
    h264: Callable[[Frames, int, str], Frames]
    """Encode and decode a clip [T, H, W, 3] with H.264 at a CRF and preset."""
    mpeg: Callable[[Frames, str, int], Frames]
    """Encode and decode a clip [T, H, W, 3] with `mpeg4` or `mpeg2` at a quantizer."""


def prepare(config: DataConfig, folder: Path, codec: Codec, seed: int, say: Callable[[str], None]) -> None:
    """Pack all sources of `config` into `folder`, with `config.seed` or else `seed`.

    Several processes may call this function at once: one packs, the others wait for the finished cache.
    Raises ConfigError if a folder is empty, a file is unreadable, or the cache has other settings or sources.
    """
    with cache.locked(folder, lambda: say(f"waiting for another process to finish packing {folder}")):
        try:
            _prepare(config, folder, codec, seed if config.seed is None else config.seed, say)
        except ValueError as e:
            raise ConfigError(f"data: {e}") from e


def _prepare(config: DataConfig, folder: Path, codec: Codec, seed: int, say: Callable[[str], None]) -> None:
    folders = {"clips": config.clips, "photos": config.photos, "val": config.val}
    found: dict[cache.Kind, dict[str, Path]] = {
        kind: {
            source_name(path): path
            for place in folders[kind]
            for path in (codec.pictures if kind == "photos" else codec.clips)(place)
        }
        for kind in cache.KINDS
    }
    _agree(folder, config, seed)
    cache.sweep(folder)
    done = {kind: set(cache.sources(folder, kind)) for kind in cache.KINDS}
    if strange := [name for kind in cache.KINDS for name in sorted(done[kind] - set(found[kind]))]:
        more = f" and {len(strange) - 3} more" * (len(strange) > 3)
        raise ConfigError(
            f"{folder}: holds {', '.join(strange[:3])}{more}, absent from the data folders: "
            "use another --cache, or delete this cache"
        )
    for name in (name for name in found["clips"] if name not in done["clips"]):
        path = found["clips"][name]
        with cache.source(folder, "clips", name) as write:
            count = _pack_clip(path, config, write, codec, seed)
        if count:
            say(f"packed {path.name}: {count} segments")
        else:
            say(f"skipped {path.name}: no {MIN_FRAMES} frames in a row without a scene cut")
    photos = list(found["photos"].values())
    for i, (name, path) in enumerate(found["photos"].items()):
        if name not in done["photos"]:
            with cache.source(folder, "photos", name) as write:
                _pack_photo(path, photos[(i * 7 + 3) % len(photos)], config, write, codec, seed)
            say(f"packed {path.name}: {config.photo_clips} moving clips")
    for name in (name for name in found["val"] if name not in done["val"]):
        path = found["val"][name]
        with cache.source(folder, "val", name) as write:
            _pack_val(path, config, write, codec)
        say(f"packed {path.name} for validation")


def source_name(path: Path) -> str:
    """Return a clip's name in the cache: the start of its file name, and a hash.

    The hash covers names, sizes, and the first and last bytes of all files of the clip. The name does not depend on the
    folder: a cache can move to another machine. Changed contents change the name.
    """
    files = sorted(part for part in path.iterdir() if part.is_file()) if path.is_dir() else [path]
    digest = hashlib.blake2b(digest_size=8)
    for part in files:
        size = part.stat().st_size
        digest.update(f"{part.name}\0{size}".encode())
        with part.open("rb") as file:
            digest.update(file.read(_SAMPLE))
            file.seek(max(0, size - _SAMPLE))
            digest.update(file.read(_SAMPLE))
    return f"{path.name[:_NAME]}-{digest.hexdigest()}".lstrip(".")


def _agree(folder: Path, config: DataConfig, seed: int) -> None:
    """Compare seed and settings with those recorded in the cache; record them in an empty cache.

    Raises ConfigError if they differ.
    """
    places = {"clips", "photos", "val", "seed"}
    now = {"seed": seed, "data": config.model_dump(mode="json", exclude=places)}
    before = cache.packed_with(folder)
    if before is None:
        cache.pack_with(folder, now)
        return
    try:  # settings added after packing take their defaults
        data = DataConfig.model_validate(before["data"]).model_dump(mode="json", exclude=places)
        other = differences({"seed": before["seed"], "data": data}, now)
    except (ValidationError, KeyError, TypeError):
        other = "version of the packing"
    if other:
        raise ConfigError(f"{folder}: was packed with another {other}: use another --cache, or delete this cache")


def _rng(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _pack_clip(path: Path, config: DataConfig, write: cache.Write, codec: Codec, seed: int) -> int:
    """Pack up to `segments_per_clip` segments at equal intervals; return their number. Decodes the video twice."""
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
                rng = _rng(f"{path.name}.{i}", seed)
                short = min(piece[0].shape[:2])
                factor = max(1.0, min(rng.uniform(*config.shrink), short / config.min_side))
                write(i, *_packed(_shrunk(piece, factor), config, codec, rng))
                count += 1
    return count


def _longest_shot(frames: list[Frames]) -> list[Frames]:
    """Return the longest run of frames without a scene cut."""
    thumbs = [frame[::8, ::8].astype(np.int16) for frame in frames]
    cuts = [i for i in range(1, len(frames)) if np.abs(thumbs[i] - thumbs[i - 1]).mean() > CUT_LEVELS]
    bounds = [0, *cuts, len(frames)]
    start, end = max(pairwise(bounds), key=lambda b: b[1] - b[0])
    return frames[start:end]


def _shrunk(frames: list[Frames], factor: float) -> Frames:
    h, w = frames[0].shape[:2]
    size = (int(h / factor) // 4 * 4, int(w / factor) // 4 * 4)
    if factor == 1.0:
        return np.stack([frame[: size[0], : size[1]] for frame in frames])
    return np.stack([degrade.interleaved(degrade.resize(degrade.planar(frame), *size)) for frame in frames])


def upload(hr: Frames, config: DataConfig, codec: Codec, rng: np.random.Generator) -> Frames:
    """Imitate an upload: HR [T, H, W, 3] -> LR [T, H / s, W / s, 3] at scale s.

    Applies BI or a random blur, sometimes light noise, then H.264 or an older codec.
    """
    draw = rng.random()
    sigma = rng.uniform(0.8, 1.6)
    how = partial(degrade.bi, scale=config.scale)
    if draw >= 1 - config.blur_share:
        how = partial(degrade.bd, scale=config.scale, sigma=sigma)
    lr = degrade.each(hr, how).astype(np.float32)
    if rng.random() < config.noise_share:
        lr += rng.normal(0, rng.uniform(0.5, 3.0), lr.shape).astype(np.float32)
    frames = np.clip(lr + 0.5, 0, 255).astype(np.uint8)
    if config.mpeg_share and rng.random() < config.mpeg_share:
        low, high = config.mpeg_quantizer
        return codec.mpeg(frames, str(rng.choice(["mpeg4", "mpeg2"])), int(rng.integers(low, high + 1)))
    preset = str(rng.choice(["veryfast", "medium"]))
    return codec.h264(frames, int(rng.integers(config.crf[0], config.crf[1] + 1)), preset)


def _packed(hr: Frames, config: DataConfig, codec: Codec, rng: np.random.Generator) -> tuple[Frames, dict[str, Frames]]:
    """Return HR unchanged, and its LR versions by name."""
    lr = {"bi": degrade.each(hr, partial(degrade.bi, scale=config.scale))}
    for i in range(config.uploads):
        lr[f"up{i}"] = upload(hr, config, codec, rng)
    return hr, lr


def _pack_photo(path: Path, other: Path, config: DataConfig, write: cache.Write, codec: Codec, seed: int) -> None:
    photo, layer = next(iter(codec.decode(path))), next(iter(codec.decode(other)))
    for i in range(config.photo_clips):
        rng = _rng(f"{path.name}.{i}", seed)
        hr = moving_clip(photo, layer, config.photo_frames, config.photo_size, rng)
        write(i, *_packed(hr, config, codec, rng))


def _pack_val(path: Path, config: DataConfig, write: cache.Write, codec: Codec) -> None:
    frames: list[Frames] = []
    for frame in codec.decode(path):
        frames.append(frame)
        if len(frames) == config.val_frames:
            break
    hr = _shrunk(frames, 1.0)
    bi = degrade.each(hr, partial(degrade.bi, scale=config.scale))
    write(0, hr, {"bi": bi, "up0": codec.h264(bi, config.val_crf, "medium")})
