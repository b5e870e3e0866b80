"""The packed cache: each segment's HR frames and degraded LR versions as .npy files, read by memory map.

Layout: `FOLDER/KIND/SOURCE/N.hr.npy` uint8 [T, H, W, 3], and `N.VERSION.npy` uint8 [T, H/4, W/4, 3]; KIND is `clips`,
`photos` or `val`, SOURCE a file that was packed, N counts its segments, VERSION is `bi` or `up0`, `up1`, ... A source
is written as `.SOURCE.part` and counts once it has its name: it is there with all of its segments or not at all.
`FOLDER/packed.json` says what all of it was packed with.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from model.training import checkpoint
from model.training.config import ConfigError

Frames = npt.NDArray[np.uint8]
Kind = Literal["clips", "photos", "val"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Write = Callable[[int, Frames, Mapping[str, Frames]], None]
"""Packs the segment of a number: its HR frames, and its LR versions by name."""


@dataclass(frozen=True)
class Segment:
    """One packed segment. Its arrays are mapped when they are asked for: each map keeps a file open."""

    source: str
    shape: tuple[int, ...]
    """Of its LR frames: [T, H/4, W/4, 3]."""
    files: Mapping[str, Path]
    """By version; `hr` is the ground truth."""

    @property
    def versions(self) -> list[str]:
        """Names of its LR versions."""
        return sorted(version for version in self.files if version != "hr")

    @property
    def uploads(self) -> list[str]:
        """Names of the compressed ones."""
        return [version for version in self.versions if version.startswith("up")]

    def frames(self, version: str) -> Frames:
        """A memory map of one version."""
        mapped: Frames = np.load(self.files[version], mmap_mode="r")
        return mapped


@contextmanager
def locked(folder: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Be the only process that packs `folder`, which is made; `wait` is called if another one is at it.

    The lock ends with the process, however it ends. Raises ConfigError where the folder can't be written or locked.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        raise ConfigError(f"{folder}: {e.strerror}") from e
    try:
        for _ in range(20):  # who finds everything packed is done in a moment: that is not worth a word
            if _try(lock):
                break
            time.sleep(0.05)
        else:
            wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _try(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as e:
        raise ConfigError(f"the cache lies where files can't be locked ({e.strerror}): name another --cache") from e
    return True


def packed_with(folder: Path) -> dict[str, Any] | None:
    """What the cache was packed with; None of an empty one. Raises ConfigError where it doesn't say."""
    path = folder / "packed.json"
    try:
        how: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as e:
        if any((folder / kind).exists() for kind in KINDS):
            raise ConfigError(
                f"{folder}: was packed by an earlier version, which didn't say with what: "
                "name another --cache, or delete that one"
            ) from e
        return None
    except (OSError, ValueError) as e:
        raise ConfigError(f"{path}: cannot be read: name another --cache, or delete that one") from e
    return how


def pack_with(folder: Path, how: Mapping[str, Any]) -> None:
    """Write down what an empty cache is going to be packed with."""

    def write(part: Path) -> None:
        part.write_text(json.dumps(how, indent=1) + "\n")

    checkpoint.replace(folder / "packed.json", write)


@contextmanager
def source(folder: Path, kind: Kind, name: str) -> Iterator[Write]:
    """Pack one source: yields what writes a segment. It counts once the block has ended without an error."""
    part, target = folder / kind / f".{name}.part", folder / kind / name
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)

    def write(number: int, hr: Frames, lr: Mapping[str, Frames]) -> None:
        for version, array in {**lr, "hr": hr}.items():
            with (part / f"{number}.{version}.npy").open("wb") as file:
                np.save(file, array)
                file.flush()
                os.fsync(file.fileno())

    try:
        yield write
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what a killed packing left; only under the lock."""
    for kind in KINDS:
        for part in (folder / kind).glob(".*.part"):
            shutil.rmtree(part)


def sources(folder: Path, kind: Kind) -> list[str]:
    """The sources of one kind that are packed, in order."""
    place = folder / kind
    return sorted(path.name for path in place.iterdir() if path.name[0] != ".") if place.exists() else []


def read(folder: Path, kind: Kind) -> list[Segment]:
    """All segments of one kind, in order of source and number; none where nothing was packed."""
    segments = []
    for name in sources(folder, kind):
        files: dict[int, dict[str, Path]] = {}
        for path in sorted((folder / kind / name).glob("*.npy")):
            number, version = path.name.removesuffix(".npy").split(".")
            files.setdefault(int(number), {})[version] = path
        for _, paths in sorted(files.items()):
            segments.append(Segment(name, np.load(paths["bi"], mmap_mode="r").shape, paths))
    return segments
