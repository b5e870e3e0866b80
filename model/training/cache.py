"""The packed cache: HR frames and degraded LR versions of each segment as memory-mapped .npy files.

Layout: `FOLDER/KIND/SOURCE/N.hr.npy` uint8 [T, H, W, 3], and `N.VERSION.npy` uint8 [T, H/s, W/s, 3] at scale s. KIND
is `clips`, `photos` or `val`; SOURCE a packed file; N the segment's number; VERSION is `bi`, or `up0`, `up1`, ... for
compressed versions. A source is written as `.SOURCE.part` and renamed when complete. `FOLDER/packed.json` records seed
and settings of the packing.
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

from model.errors import ConfigError
from model.training import checkpoint

Frames = npt.NDArray[np.uint8]
Kind = Literal["clips", "photos", "val"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Write = Callable[[int, Frames, Mapping[str, Frames]], None]
"""Function that packs one segment: number, HR frames, LR versions by name."""


@dataclass(frozen=True)
class Segment:
    """One packed segment. `frames` maps arrays on demand: each map keeps a file open."""

    source: str
    shape: tuple[int, ...]
    """Shape of the LR frames: [T, H/s, W/s, 3]."""
    files: Mapping[str, Path]
    """Files by version; `hr` is the ground truth."""

    @property
    def scale(self) -> int:
        """HR size over LR size."""
        height: int = self.frames("hr").shape[1]
        return height // self.shape[1]

    @property
    def versions(self) -> list[str]:
        """Names of the LR versions."""
        return sorted(version for version in self.files if version != "hr")

    @property
    def uploads(self) -> list[str]:
        """Names of the compressed versions."""
        return [version for version in self.versions if version.startswith("up")]

    def frames(self, version: str) -> Frames:
        """Return a memory map of one version."""
        mapped: Frames = np.load(self.files[version], mmap_mode="r")
        return mapped


@contextmanager
def locked(folder: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Create `folder` and hold its lock; call `wait` first if another process holds the lock.

    The lock ends with the process. Raises ConfigError if the folder cannot be written or locked.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        raise ConfigError(f"{folder}: {e.strerror}") from e
    try:
        for _ in range(20):  # a holder that finds everything packed ends at once; no message for that
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
        raise ConfigError(f"the cache's file system cannot lock files ({e.strerror}): use another --cache") from e
    return True


def packed_with(folder: Path) -> dict[str, Any] | None:
    """Return seed and settings of the packing; None for an empty cache.

    Raises ConfigError if the record is missing or unreadable.
    """
    path = folder / "packed.json"
    try:
        how: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as e:
        if any((folder / kind).exists() for kind in KINDS):
            raise ConfigError(
                f"{folder}: was packed by an earlier version, without a record of its settings: "
                "use another --cache, or delete this cache"
            ) from e
        return None
    except (OSError, ValueError) as e:
        raise ConfigError(f"{path}: cannot be read: use another --cache, or delete this cache") from e
    return how


def pack_with(folder: Path, how: Mapping[str, Any]) -> None:
    """Record seed and settings in an empty cache."""

    def write(part: Path) -> None:
        part.write_text(json.dumps(how, indent=1) + "\n")

    checkpoint.replace(folder / "packed.json", write)


@contextmanager
def source(folder: Path, kind: Kind, name: str) -> Iterator[Write]:
    """Pack one source: yield the function that writes a segment. An error in the block discards the source."""
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
    """Remove incomplete sources of a killed process. Call only under the lock."""
    for kind in KINDS:
        for part in (folder / kind).glob(".*.part"):
            shutil.rmtree(part)


def sources(folder: Path, kind: Kind) -> list[str]:
    """List the packed sources of one kind, sorted."""
    place = folder / kind
    return sorted(path.name for path in place.iterdir() if path.name[0] != ".") if place.exists() else []


def read(folder: Path, kind: Kind) -> list[Segment]:
    """Return all segments of one kind, sorted by source and number; empty if nothing was packed."""
    segments = []
    for name in sources(folder, kind):
        files: dict[int, dict[str, Path]] = {}
        for path in sorted((folder / kind / name).glob("*.npy")):
            number, version = path.name.removesuffix(".npy").split(".")
            files.setdefault(int(number), {})[version] = path
        for _, paths in sorted(files.items()):
            segments.append(Segment(name, np.load(paths["bi"], mmap_mode="r").shape, paths))
    return segments
