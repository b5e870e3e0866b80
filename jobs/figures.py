"""The figures of a job, chunk by chunk, and the map of computed cells: two files beside the checkpoint.

    figures.jsonl  a line of `Facts`, then a line of `ChunkFigures` for each finished chunk
    skipmap.bin    the compressed maps of the chunks, one after the other

Both files only grow: a reader sees the finished chunks of a running job. A finished job keeps both beside its result. A
map has one bit for each cell of a frame, at most `MOST_CELLS`: 512 bytes a frame before compression, 133 MB for three
hours. Compressed, a clip with half of its 920 cells computed takes 13 bytes a frame, and 17 as differences from the
frame before.
"""

from __future__ import annotations

import base64
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, Field

from jobs.disk import open_regular, replace, sync_file
from jobs.errors import JobFailed
from jobs.schema import JobMetrics, JobOptions, Progress

FIGURES: Final = "figures.jsonl"
SKIPMAP: Final = "skipmap.bin"
FILES: Final = (SKIPMAP, FIGURES)
"""Both files. The map comes first: a chunk's line is written after its map."""
MOST_CELLS: Final = 4096


class MapShape(BaseModel):
    """Shape of the map of one frame."""

    columns: int = Field(description="Cells in a row.")
    rows: int = Field(description="Cells in a column.")
    cell: int = Field(description="Side of a cell in pixels of the source.")
    width: int = Field(description="Width of the source in pixels as stored, before rotation.")
    height: int = Field(description="Height of the source in pixels as stored, before rotation.")

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame's map."""
        return -(-self.columns * self.rows // 8)


class Facts(BaseModel):
    """Facts shared by all chunks of a job."""

    model: str
    device: str
    precision: str
    resumed: bool
    size: tuple[int, int]
    map: MapShape


class ChunkFigures(BaseModel):
    """Figures of a chunk."""

    first: int = Field(description="Number of the chunk's first frame, counted from 0.")
    frames: int = Field(description="Number of frames.")
    seconds: float = Field(description="Seconds since the last chunk, or since the start of the attempt.")
    model_seconds: float = Field(description="Seconds of computation in the network.")
    skip_ratio: float = Field(description="Fraction of the units that the network did not compute.")
    reuse_ratio: float = Field(description="Fraction of the units that the inter-frame mask reused.")


class _Line(ChunkFigures):
    """A chunk in the file, with the place of its map."""

    at: int
    size: int


class Report(BaseModel):
    """The figures of a job: in all, and chunk by chunk."""

    source: str = Field(description="Name of the source.")
    target: str | None = Field(description="Name of the result; null if no result exists yet.")
    model: str = Field(description="Name of the model.")
    device: str = Field(description="Compute device of the last attempt.")
    precision: str = Field(description="Number format of the network in the last attempt.")
    options: JobOptions
    resumed: bool = Field(description="Whether the last attempt resumed from a checkpoint.")
    size: tuple[int, int] = Field(description="Width and height of the result in pixels.")
    progress: Progress
    metrics: JobMetrics
    chunks: list[ChunkFigures] = Field(description="Finished chunks, of all attempts.")
    warnings: list[str] = Field(description="What the result cannot keep, with reasons.")


class SkipMapPage(MapShape):
    """The maps of some frames."""

    total: int = Field(description="Number of frames with a map so far.")
    first: int = Field(description="Number of the first frame of this answer.")
    frames: list[str | None] = Field(
        description="For each frame the bits of its cells, row by row, most significant bit first, in base64. 1: some "
        "work of the network ran in the cell. Null: the map of the frame is lost."
    )


class Figures:
    """The figures in a folder, read once. The folder may belong to a running worker."""

    def __init__(self, folder: Path, facts: Facts, lines: Sequence[_Line]) -> None:
        self.folder, self.facts = folder, facts
        self._lines = lines

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read the figures of a folder; None without usable figures. A line that is being written does not count.

        Raises JobFailed if the file is a link or no regular file.
        """
        try:
            with open_regular(folder / FIGURES) as file:
                first, *rest = file.read().split(b"\n")[:-1]
            return cls(folder, Facts.model_validate_json(first), [_Line.model_validate_json(line) for line in rest])
        except (OSError, ValueError):  # pydantic's ValidationError is a ValueError
            return None

    @property
    def chunks(self) -> list[ChunkFigures]:
        """Figures of the finished chunks."""
        return [ChunkFigures(**line.model_dump(exclude={"at", "size"})) for line in self._lines]

    @property
    def frames(self) -> int:
        """Number of frames in the finished chunks."""
        return self._lines[-1].first + self._lines[-1].frames if self._lines else 0

    def first(self, count: int) -> tuple[list[_Line], int]:
        """Lines of the first chunks, and the size of their maps."""
        lines = list(self._lines[:count])
        return lines, lines[-1].at + lines[-1].size if lines else 0

    def maps(self, first: int = 0, count: int | None = None) -> Iterator[bytes | None]:
        """Yield the map of each frame from number `first` on; None for a map that is lost."""
        end = self.frames if count is None else min(first + count, self.frames)
        try:
            file = open_regular(self.folder / SKIPMAP)
        except (OSError, JobFailed):
            yield from [None] * (end - first)
            return
        with file:
            for line in self._lines:
                if line.first + line.frames <= first or line.first >= end:
                    continue
                yield from [None] * (line.first - first)  # frames without figures
                file.seek(line.at)
                unpacked = _unpacked(file.read(line.size), line.frames, self.facts.map.frame_bytes)
                yield from islice(unpacked, max(0, first - line.first), end - line.first)
                first = line.first + line.frames
        yield from [None] * (end - first)

    def page(self, first: int, count: int) -> SkipMapPage:
        """The maps of at most `count` frames from number `first` on."""
        frames = [None if bits is None else base64.b64encode(bits).decode() for bits in self.maps(first, count)]
        return SkipMapPage(**self.facts.map.model_dump(), total=self.frames, first=first, frames=frames)


class FiguresWriter:
    """Adds the figures of chunks to the files in a working folder. Raises OSError.

    Args:
        folder: the working folder.
        facts: what all chunks share.
        chunks: number of the chunks in the checkpoint. The figures of further chunks are removed.
    """

    def __init__(self, folder: Path, facts: Facts, chunks: int) -> None:
        self._folder, self.shape = folder, facts.map
        before = Figures.read(folder)
        lines, size = before.first(chunks) if before is not None and before.facts.map == facts.map else ([], 0)
        # New files, because a worker that has lost the job may still have the old ones open.
        part = folder / f"{SKIPMAP}.part"
        with part.open("wb") as target:
            if size:
                with open_regular(folder / SKIPMAP) as source:
                    target.write(source.read(size))
        replace(part, folder / SKIPMAP)
        part = folder / f"{FIGURES}.part"
        part.write_text("".join(f"{line.model_dump_json()}\n" for line in (facts, *lines)))
        replace(part, folder / FIGURES)
        self._end = size
        self.chunks = len(lines)
        """Number of chunks with figures."""

    def add(self, chunk: ChunkFigures, maps: Iterable[bytes]) -> None:
        """Append the figures of a chunk, with the map of each frame."""
        packed = zlib.compress(b"".join(maps), 9)
        line = _Line(**chunk.model_dump(), at=self._end, size=len(packed))
        self._end += len(packed)
        for name, data in ((SKIPMAP, packed), (FIGURES, f"{line.model_dump_json()}\n".encode())):
            path = self._folder / name
            with path.open("r+b") as file:  # this mode never creates a file
                file.seek(0, os.SEEK_END)
                file.write(data)
            sync_file(path)


def join(parts: Sequence[tuple[Path, int]], folder: Path) -> None:
    """Join the figures of successive parts into the figures of the whole job.

    Args:
        parts: the folder of each part, and the number of its chunks.
        folder: receives the files; may be the folder of a part.

    Figures that are lost leave a gap. Raises OSError, and JobFailed if a file is a link or no regular file.
    """
    found = [(figures, chunks) for each, chunks in parts if (figures := Figures.read(each)) is not None]
    if not found:
        return
    rows: list[BaseModel] = [found[0][0].facts]
    with (folder / f"{SKIPMAP}.part").open("wb") as target:
        for figures, chunks in found:
            lines, size = figures.first(chunks)
            rows += [line.model_copy(update={"at": line.at + target.tell()}) for line in lines]
            with open_regular(figures.folder / SKIPMAP) as source:
                target.write(source.read(size))
    (folder / f"{FIGURES}.part").write_text("".join(f"{row.model_dump_json()}\n" for row in rows))
    for name in FILES:
        replace(folder / f"{name}.part", folder / name)


def _unpacked(data: bytes, frames: int, frame_bytes: int) -> list[bytes | None]:
    """Return the maps of a chunk; None for each frame of damaged data."""
    try:
        raw = zlib.decompressobj().decompress(data, frames * frame_bytes)
    except zlib.error:
        raw = b""
    if len(raw) < frames * frame_bytes:
        return [None] * frames
    return [raw[at : at + frame_bytes] for at in range(0, len(raw), frame_bytes)]
