"""A packed cache as a small file, for a machine without a video library or with a slow connection.

The file holds windows of the cache's segments, cropped to their details: ground truth and compressed versions as short
videos, which `pack` encodes and `unpack` decodes with given functions. Videos are lossy; `Packed` states the PSNR.
The clean version is not in the file: `unpack` reduces the ground truth again. Every video has thumbnails of its first
and last frame, and `unpack` compares them: a decoder that swaps colours or drops a frame is found.

Layout: a safetensors file. Tensor `N.VERSION` has the bytes of a video, `N.VERSION.thumbnails` [2, h, w, 3] uint8. The
metadata lists the segments.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model import quality
from model.errors import ConfigError
from model.training import cache, degrade
from model.training.degrade import Frames
from model.zoo.header import write_tensors

Encode = Callable[[Frames, int], bytes]
"""(frames [T, H, W, 3], constant rate factor) -> video."""
Decode = Callable[[bytes], Frames]
"""Video -> frames [T, H, W, 3]. Raises ValueError."""
Say = Callable[[str], None]

FORMAT: Final = "1"
THUMBNAIL: Final = 8
"""Rows and columns of a thumbnail."""
MOST_OFF: Final = 3.0
"""Largest mean difference of a thumbnail, in levels of 255, between packing and arrival."""


@dataclass(frozen=True)
class Limits:
    """The part of the cache for `pack`."""

    bytes: int = 20 * 2**20
    """Size of the file. Segments are added source by source until the next one does not fit."""
    frames: int = 14
    """Frames of a window."""
    side: int = 384
    """Height and width of a window, in HR pixels."""
    val_frames: int = 8
    """Frames of a validation clip, from its start."""
    val_side: int = 512
    """Largest height and width of a validation clip, around its middle."""
    hr_crf: int = 14
    """Constant rate factor of ground truth."""
    lr_crf: int = 4
    """Constant rate factor of compressed versions: their artefacts must survive."""


@dataclass
class Packed:
    """The content of a file. PSNR is that of packing: decoded against the cache."""

    segments: int = 0
    frames: int = 0
    bytes: int = 0
    left_out: int = 0
    """Segments of the cache that did not fit."""
    db: dict[str, list[float]] = field(default_factory=dict)
    """PSNR by kind of version: `hr`, `up` (compressed), and `up to bi`: compression itself, for comparison."""

    @property
    def means(self) -> dict[str, float]:
        """Mean PSNR by kind of version."""
        return {kind: fmean(values) for kind, values in self.db.items()}


@dataclass(frozen=True)
class _Window:
    """Part of a segment: LR pixels and frames."""

    kind: cache.Kind
    number: int
    segment: cache.Segment
    times: slice
    y: int
    x: int
    height: int
    width: int

    def frames(self, version: str) -> Frames:
        scale = self.segment.scale if version == "hr" else 1
        rows = slice(self.y * scale, (self.y + self.height) * scale)
        columns = slice(self.x * scale, (self.x + self.width) * scale)
        return np.array(self.segment.frames(version)[self.times, rows, columns])


def pack(folder: Path, out: Path, limits: Limits, encode: Encode, decode: Decode, say: Say) -> Packed:
    """Pack segments of the cache `folder` into the file `out`.

    Validation clips come first, then a segment of each source, then a second one, until the file is full. Raises
    ConfigError for an empty cache, or if not even one training segment fits.
    """
    windows = list(_windows(folder, limits))
    if not windows:
        raise ConfigError(f"{folder}: holds no packed segments; pack them with `skipvsr train` first")
    packed, tensors, entries = Packed(), dict[str, Tensor](), list[dict[str, Any]]()
    for window in windows:
        videos = _videos(window, limits, encode)
        size = sum(map(len, videos.values())) + 1000 * len(videos)
        if packed.bytes + size > limits.bytes:
            packed.left_out += 1
            continue
        shapes = {}
        for version, video in videos.items():
            name, frames = f"{len(entries)}.{version}", window.frames(version)
            _measure(packed, window, version, frames, decode(video))
            tensors[name] = torch.frombuffer(bytearray(video), dtype=torch.uint8)
            tensors[f"{name}.thumbnails"] = _thumbnails(frames)
            shapes[version] = list(frames.shape)
        source, number = window.segment.source, window.number
        entries.append({"kind": window.kind, "source": source, "number": number, "shapes": shapes})
        packed.segments, packed.bytes = len(entries), packed.bytes + size
        packed.frames += shapes["hr"][0]
        if len(entries) % 20 == 0:
            say(f"packed {len(entries)} segments, {packed.bytes / 2**20:.1f} MiB")
    if all(entry["kind"] == "val" for entry in entries):
        raise ConfigError(f"{limits.bytes / 2**20:.1f} MiB hold no training segment")
    scale = windows[0].segment.scale
    out.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(tensors, out, {"format": FORMAT, "scale": str(scale), "segments": json.dumps(entries)})
    packed.bytes = out.stat().st_size
    return packed


def unpack(file: Path, folder: Path, decode: Decode, say: Say) -> Packed:
    """Write the segments of a packed file to `folder`, in the layout of a cache.

    Raises ConfigError if the file is damaged, or if shapes or thumbnails of decoded frames differ from the packed ones.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            notes = tensors.metadata() or {}
            if notes.get("format") != FORMAT:
                raise ConfigError(f"{file}: not a file of `skipvsr pack`, or of another version")
            entries, scale = json.loads(notes["segments"]), int(notes["scale"])
            unpacked = Packed(bytes=file.stat().st_size)
            for (kind, source), numbered in _by_source(entries).items():
                with cache.source(folder, kind, source) as write:
                    for index, entry in numbered:
                        versions = _arrived(tensors.get_tensor, index, entry["shapes"], decode)
                        hr = versions.pop("hr")
                        bi = degrade.each(hr, partial(degrade.bi, scale=scale))
                        write(entry["number"], hr, {"bi": bi, **versions})
                        unpacked.segments, unpacked.frames = unpacked.segments + 1, unpacked.frames + len(hr)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be unpacked: {error}") from error
    say(f"unpacked {unpacked.segments} segments, {unpacked.frames} frames, from {unpacked.bytes / 2**20:.1f} MiB")
    return unpacked


def _arrived(
    read: Callable[[str], Tensor], index: int, shapes: Mapping[str, Sequence[int]], decode: Decode
) -> dict[str, Frames]:
    """Decode the versions of a segment, and check shapes and thumbnails. Raises ConfigError and ValueError."""
    versions = {}
    for version, shape in shapes.items():
        name = f"{index}.{version}"
        frames = decode(read(name).numpy().tobytes())
        if list(frames.shape) != list(shape):
            raise ConfigError(f"segment {name} has the shape {list(frames.shape)} instead of {list(shape)}")
        off = (_thumbnails(frames).float() - read(f"{name}.thumbnails").float()).abs().mean().item()
        if off > MOST_OFF:
            raise ConfigError(f"segment {name} looks different: {off:.1f} levels away from its thumbnails")
        versions[version] = frames
    return versions


def _by_source(entries: Sequence[Mapping[str, Any]]) -> dict[tuple[cache.Kind, str], list[tuple[int, Any]]]:
    """Group the segments by kind and source; the names become folders, and must be plain names."""
    groups: dict[tuple[cache.Kind, str], list[tuple[int, Any]]] = {}
    for index, entry in enumerate(entries):
        kind, source = entry["kind"], entry["source"]
        if kind not in cache.KINDS or source != Path(source).name or source.startswith("."):
            raise ConfigError(f"segment {index} has the kind {kind!r} and the source {source!r}")
        groups.setdefault((kind, source), []).append((index, entry))
    return groups


def _windows(folder: Path, limits: Limits) -> Iterator[_Window]:
    """Choose a window of each segment: validation clips, then the first segment of each source, then the second."""
    yield from (_middle(segment, limits) for segment in cache.read(folder, "val"))
    turns: list[tuple[int, str, int, _Window]] = []
    for kind in ("clips", "photos"):
        seen: dict[str, int] = {}
        for number, segment in enumerate(cache.read(folder, kind)):
            turn = seen[segment.source] = seen.get(segment.source, -1) + 1
            if segment.shape[0] >= limits.frames:
                turns.append((turn, segment.source, number, _detailed(kind, turn, number, segment, limits)))
    turns.sort(key=lambda each: each[:3])
    yield from (window for *_, window in turns)


def _middle(segment: cache.Segment, limits: Limits) -> _Window:
    t, h, w, _ = segment.shape
    side = limits.val_side // segment.scale
    height, width = min(h, side) // 2 * 2, min(w, side) // 2 * 2
    times = slice(min(t, limits.val_frames))
    return _Window("val", 0, segment, times, (h - height) // 2, (w - width) // 2, height, width)


def _detailed(kind: cache.Kind, turn: int, seed: int, segment: cache.Segment, limits: Limits) -> _Window:
    """Choose the most detailed of four random windows."""
    rng, (t, h, w, _) = np.random.default_rng(seed), segment.shape
    side = limits.side // segment.scale
    height, width = min(h, side) // 2 * 2, min(w, side) // 2 * 2
    start = int(rng.integers(t - limits.frames + 1))
    frame = segment.frames("bi")[start]
    places = [(int(rng.integers(h - height + 1)), int(rng.integers(w - width + 1))) for _ in range(4)]

    def detail(place: tuple[int, int]) -> float:
        y, x = place
        return float(np.abs(np.diff(frame[y : y + height, x : x + width, 1].astype(np.int16), axis=1)).mean())

    y, x = max(places, key=detail)
    return _Window(kind, turn, segment, slice(start, start + limits.frames), y, x, height, width)


def _videos(window: _Window, limits: Limits, encode: Encode) -> dict[str, bytes]:
    videos = {"hr": encode(window.frames("hr"), limits.hr_crf)}
    for version in window.segment.uploads:
        videos[version] = encode(window.frames(version), limits.lr_crf)
    return videos


def _measure(packed: Packed, window: _Window, version: str, frames: Frames, decoded: Frames) -> None:
    """Add the PSNR of packing, and of compression for comparison."""
    kind = "hr" if version == "hr" else "up"
    packed.db.setdefault(kind, []).append(_psnr(decoded, frames))
    if kind == "up":
        packed.db.setdefault("up to bi", []).append(_psnr(frames, window.frames("bi")))


def _psnr(a: Frames, b: Frames) -> float:
    return min(quality.psnr(torch.from_numpy(a), torch.from_numpy(b)), quality.MAX_DB)


def _thumbnails(frames: Frames) -> Tensor:
    """Reduce the first and the last frame [H, W, 3]: [2, rows, columns, 3] uint8."""
    ends = torch.from_numpy(frames[[0, -1]]).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.adaptive_avg_pool2d(ends, THUMBNAIL)
    return small.permute(0, 2, 3, 1).round().to(torch.uint8).contiguous()
