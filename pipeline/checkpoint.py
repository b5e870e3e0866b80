"""Checkpoints: files in the working folder from which any worker can resume after a chunk.

    manifest.json             progress, with the identity of input, model and options
    segment-000000.mp4 …      one encoded segment for each chunk
    state-000007.safetensors  the recurrent state after the last chunk
    figures.jsonl …           the figures of the chunks (`jobs.figures`)
    plan.json                 the parts of the video, if several workers compute the job (`pipeline.parts`)

Renaming the manifest into place commits a checkpoint in one step. Files that the manifest does not name are remains of
an interrupted chunk.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Final

from pydantic import BaseModel, Field, ValidationError

from jobs.disk import replace, sync_file
from jobs.figures import FILES as FIGURES
from jobs.schema import JobMetrics, JobOptions
from model.engine.state import RecurrentState
from model.errors import StateMismatch
from pipeline.layout import MANIFEST, PLAN, segment_path

_VERSION: Final = 3
CHUNKS_REMEMBERED: Final = 1000
"""Maximum number of chunk times in the metrics."""
CUTS_REMEMBERED: Final = 10_000
"""Maximum number of scene cuts in the metrics, which every report of a worker carries to Redis."""


class Identity(BaseModel):
    """Identity of a checkpoint: all inputs that determine the bytes of the result."""

    version: int = _VERSION
    input_sha256: str
    model: str = Field(description="`Upscaler.identity`: weights, number format, routing parameters and gates.")
    weights: str = Field("", description="Fingerprint of the network's weights alone.")
    place: str = Field("", description="Kind of device and number format, a part of `model`: `cuda, bfloat16`.")
    options: JobOptions
    encoder: str = Field(
        "libx264", description="libav's name of the encoder; segments of two encoders cannot be joined."
    )
    part: str = Field("", description="Name of the part of the video (`pipeline.parts`); empty: the whole video.")

    def of_whole(self) -> Identity:
        """Identity of the whole video."""
        return self.model_copy(update={"part": ""})

    def moved_from(self, other: Identity) -> bool:
        """Whether the same weights computed on another kind of device or in another number format before."""
        return self.weights != "" and self.weights == other.weights and self.place != other.place

    def differs(self, other: Identity, *, may_move: bool = False) -> str | None:
        """Names of the parts that differ from another identity; None if both are equal.

        With `may_move`, another place of the same weights is no difference.
        """
        ours, theirs = self.model_dump(), other.model_dump()
        # The queue of a job does not change its result.
        ours["options"].pop("priority")
        theirs["options"].pop("priority")
        names = {"version": "SkipVSR's version", "input_sha256": "input", "model": "model", "options": "options"}
        names |= {"encoder": "encoder", "part": "part of the video"}
        if self.moved_from(other):
            names["model"] = "device or number format"
            if may_move:
                del names["model"]
        different = [name for key, name in names.items() if ours[key] != theirs[key]]
        return ", ".join(different) or None


class Manifest(BaseModel):
    """Progress of a job at a checkpoint."""

    identity: Identity
    chunk: int | None = Field(None, description="Frames per chunk, if memory allowed fewer than the options ask for.")
    encoder_threads: int = Field(4, description="Threads of the encoder, whose bytes depend on their number.")
    segments: int = Field(0, description="Number of finished chunks, and of segments.")
    frames: int = Field(0, description="Number of frames in the segments.")
    read_to: int | None = Field(None, description="PTS of the last decoded frame; decoding resumes after it.")
    clean: bool = Field(
        False, description="Whether the frame `read_to` is `clean`, so that decoding can resume by seeking."
    )
    pending: list[int] = Field(default_factory=list, description="PTS of the decoded frames that are not emitted yet.")
    complete: bool = Field(False, description="Whether the segments hold all frames.")
    units_total: int = 0
    units_skipped: int = 0
    """Units that the network did not compute: reused by the mask, or skipped by the gates."""
    units_reused: int = 0
    """Units that the inter-frame mask reused; a part of `units_skipped`."""
    dense_seconds: float = Field(0.0, description="Estimated seconds of the dense network for the same frames.")
    cuts: list[int] = Field(default_factory=list, description="First frame of each new scene.")
    metrics: JobMetrics = Field(default_factory=JobMetrics)
    warnings: list[str] = Field(default_factory=list)

    def state_name(self) -> str:
        """File name of the recurrent state after the last chunk."""
        return f"state-{self.segments:06d}.safetensors"


class Checkpoints:
    """The checkpoints in a working folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def segment(self, number: int) -> Path:
        """Path of the segment of a chunk."""
        return segment_path(self.folder, number)

    def segments(self, manifest: Manifest) -> list[Path]:
        """Paths of all segments."""
        return [self.segment(number) for number in range(manifest.segments)]

    def load(self, identity: Identity) -> tuple[Manifest, RecurrentState | None, str | None]:
        """Load the last checkpoint, or start afresh; remove all files that do not belong to the checkpoint.

        A previous worker may still have the old file open. Removal instead of overwriting protects the next file of the
        same name.

        Returns:
            The manifest, the recurrent state, and the reason why an existing checkpoint is not used.
        """
        manifest, state, reason = self._read(identity)
        keep = {PLAN, MANIFEST, manifest.state_name(), *FIGURES, *(path.name for path in self.segments(manifest))}
        if manifest.segments == 0:
            keep = {PLAN}
        for path in self.folder.iterdir():
            if path.name not in keep:
                path.unlink()
        return manifest, state, reason

    def _read(self, identity: Identity) -> tuple[Manifest, RecurrentState | None, str | None]:
        fresh = Manifest(identity=identity)
        path = self.folder / MANIFEST
        if not path.exists():
            return fresh, None, None
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except ValidationError:
            return fresh, None, "The checkpoint has another version or is damaged; the job started again."
        if differs := manifest.identity.differs(identity, may_move=True):
            return fresh, None, f"The checkpoint belongs to another {differs}; the job started again."
        if any(not segment.exists() for segment in self.segments(manifest)):
            return fresh, None, "A segment of the checkpoint is missing; the job started again."
        if manifest.complete:
            return manifest, None, None
        try:
            return manifest, RecurrentState.load(self.folder / manifest.state_name()), None
        except StateMismatch as error:
            return fresh, None, f"The checkpoint is not usable ({error}); the job started again."

    def commit(self, manifest: Manifest, state: RecurrentState) -> None:
        """Commit a checkpoint after the last segment of a manifest, with the recurrent state."""
        sync_file(self.segment(manifest.segments - 1))
        state_path = self.folder / manifest.state_name()
        if not manifest.complete:
            state.save(state_path)
            sync_file(state_path)
        part = self.folder / f"{MANIFEST}.part"
        part.write_text(manifest.model_dump_json())
        replace(part, self.folder / MANIFEST)
        for old in self.folder.glob("state-*.safetensors"):
            if old.name != state_path.name or manifest.complete:
                old.unlink()


def kept_encoder(folder: Path) -> str | None:
    """Encoder of a job's segments, whose other segments must have the same; None for a job without segments."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None
    return manifest.identity.encoder if manifest.segments else None


def shortened_chunk(folder: Path) -> int | None:
    """Frames per chunk of a job whose chunks were shortened to the memory; None for other jobs."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes()).chunk
    except (OSError, ValidationError):
        return None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal. A worker that computes many parts of a video reads the file once."""
    facts = path.stat()
    return _digest(path, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


@lru_cache(8)
def _digest(path: Path, *_facts: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
