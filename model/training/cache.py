"""The packed cache: each segment's HR frames and degraded LR versions as .npy files, read by memory map.

Layout: `FOLDER/KIND/NAME.hr.npy` uint8 [T, H, W, 3], and `NAME.VERSION.npy` uint8 [T, H/4, W/4, 3]; KIND is `clips`,
`photos` or `val`, VERSION `bi` or `up0`, `up1`, ... A segment counts once its HR file is there: it is written last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]
Kind = Literal["clips", "photos", "val"]


@dataclass(frozen=True)
class Segment:
    """One packed segment; the arrays are memory maps."""

    name: str
    hr: Frames
    lr: Mapping[str, Frames]

    @property
    def uploads(self) -> list[Frames]:
        """The compressed versions."""
        return [array for version, array in sorted(self.lr.items()) if version.startswith("up")]


def write(folder: Path, kind: Kind, name: str, hr: Frames, lr: Mapping[str, Frames]) -> None:
    """Pack one segment; an existing one of that name is replaced."""
    target = folder / kind
    target.mkdir(parents=True, exist_ok=True)
    for version, array in {**lr, "hr": hr}.items():
        part = target / f".{name}.{version}.part"
        with part.open("wb") as file:
            np.save(file, array)
        part.replace(target / f"{name}.{version}.npy")


def names(folder: Path, kind: Kind) -> list[str]:
    """The segments of one kind that are packed, in order."""
    return sorted(path.name.removesuffix(".hr.npy") for path in (folder / kind).glob("*.hr.npy"))


def read(folder: Path, kind: Kind) -> list[Segment]:
    """All segments of one kind, in order of name; none where nothing was packed."""
    segments = []
    for name in names(folder, kind):
        versions = {
            path.name.removeprefix(f"{name}.").removesuffix(".npy"): path
            for path in sorted((folder / kind).glob(f"{name}.*.npy"))
        }
        hr = np.load(versions.pop("hr"), mmap_mode="r")
        segments.append(Segment(name, hr, {v: np.load(path, mmap_mode="r") for v, path in versions.items()}))
    return segments
