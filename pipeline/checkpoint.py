"""What is on the disk between two chunks, so that any worker can go on from there.

    manifest.json             what has been done, for which input, model and options
    segment-000000.mp4 …      one encoded segment for each chunk
    state-000007.safetensors  the recurrent state after the last chunk

A checkpoint comes into being when the manifest is renamed into place, and never by halves. What the manifest does not
name is the remains of a chunk that was interrupted.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from pydantic import BaseModel, Field, ValidationError

from jobs.schema import JobMetrics, JobOptions
from jobs.storage import replace, sync_file
from model.engine.state import RecurrentState
from model.errors import StateMismatch

_MANIFEST: Final = "manifest.json"
_VERSION: Final = 2
CHUNKS_REMEMBERED: Final = 1000


class Identity(BaseModel):
    """What a checkpoint belongs to: with any other of these the result would be another."""

    version: int = _VERSION
    input_sha256: str
    model: str = Field(description="`Upscaler.identity`: weights, number format, the router's numbers, gates.")
    options: JobOptions
    encoder: str = Field("libx264", description="libav's name of the encoder: segments of two of them can't be joined.")

    def differs(self, other: Identity) -> str | None:
        """What differs, in words; None if nothing does."""
        ours, theirs = self.model_dump(), other.model_dump()
        # Where a job waits does not change what becomes of it.
        ours["options"].pop("priority")
        theirs["options"].pop("priority")
        names = {"version": "SkipVSR's version", "input_sha256": "input", "model": "model", "options": "options"}
        names["encoder"] = "encoder"
        different = [name for key, name in names.items() if ours[key] != theirs[key]]
        return ", ".join(different) or None


class Manifest(BaseModel):
    """How far a job is."""

    identity: Identity
    segments: int = Field(0, description="Chunks that are done: as many segments are there.")
    frames: int = Field(0, description="Frames in the segments.")
    read_to: int | None = Field(None, description="PTS of the last frame that was read; reading goes on after it.")
    clean: bool = Field(False, description="Whether that frame was `clean`: then reading goes on by seeking.")
    pending: list[int] = Field(default_factory=list, description="PTS of frames that were read, but not yet emitted.")
    complete: bool = Field(False, description="Whether all frames are in the segments.")
    units_total: int = 0
    units_skipped: int = 0
    """Not run, for whatever reason."""
    units_reused: int = 0
    """Of these, those whose tile was taken over."""
    dense_seconds: float = Field(0.0, description="What the dense network would have taken so far.")
    cuts: list[int] = Field(default_factory=list, description="Frames at which a new scene starts.")
    metrics: JobMetrics = Field(default_factory=JobMetrics)
    warnings: list[str] = Field(default_factory=list)

    def state_name(self) -> str:
        """Name of the recurrent state that belongs to this manifest."""
        return f"state-{self.segments:06d}.safetensors"


class Checkpoints:
    """The checkpoints in a working folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def segment(self, number: int) -> Path:
        """Path of the segment of a chunk."""
        return self.folder / f"segment-{number:06d}.mp4"

    def segments(self, manifest: Manifest) -> list[Path]:
        """Paths of all segments."""
        return [self.segment(number) for number in range(manifest.segments)]

    def load(self, identity: Identity) -> tuple[Manifest, RecurrentState | None, str | None]:
        """The last checkpoint, or a fresh start; and why a checkpoint that was there is not used.

        Whatever does not belong to it is removed. A file that somebody else may still have open must not be written
        to: unlinking gives the next one of that name an inode of its own.
        """
        manifest, state, reason = self._read(identity)
        keep = {_MANIFEST, manifest.state_name(), *(path.name for path in self.segments(manifest))}
        if manifest.segments == 0:
            keep = set()
        for path in self.folder.iterdir():
            if path.name not in keep:
                path.unlink()
        return manifest, state, reason

    def _read(self, identity: Identity) -> tuple[Manifest, RecurrentState | None, str | None]:
        fresh = Manifest(identity=identity)
        path = self.folder / _MANIFEST
        if not path.exists():
            return fresh, None, None
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except ValidationError:
            return fresh, None, "The checkpoint is of another version or damaged; the job was started again."
        if differs := manifest.identity.differs(identity):
            return fresh, None, f"The checkpoint is for another {differs}; the job was started again."
        if any(not segment.exists() for segment in self.segments(manifest)):
            return fresh, None, "A segment of the checkpoint is missing; the job was started again."
        if manifest.complete:
            return manifest, None, None
        try:
            return manifest, RecurrentState.load(self.folder / manifest.state_name()), None
        except StateMismatch as error:
            return fresh, None, f"The checkpoint is not usable ({error}); the job was started again."

    def commit(self, manifest: Manifest, state: RecurrentState) -> None:
        """Make a new checkpoint of a manifest, whose last segment is written, and the state after it."""
        sync_file(self.segment(manifest.segments - 1))
        state_path = self.folder / manifest.state_name()
        if not manifest.complete:
            state.save(state_path)
            sync_file(state_path)
        part = self.folder / f"{_MANIFEST}.part"
        part.write_text(manifest.model_dump_json())
        replace(part, self.folder / _MANIFEST)
        for old in self.folder.glob("state-*.safetensors"):
            if old.name != state_path.name or manifest.complete:
                old.unlink()


def sha256_of(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
