"""Plan the parts of a video, and join the parts when all are computed."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import torch

from jobs import figures
from jobs.disk import replace
from media.errors import UnusableVideo
from media.reader import Frame, VideoReader
from media.types import Canvas
from model.device import one_thread
from model.engine.scene_cuts import find_scene_cuts
from model.engine.upscaler import Upscaler
from pipeline.accounting import joined
from pipeline.checkpoint import Checkpoints, Manifest
from pipeline.layout import MANIFEST
from pipeline.parts import Plan, Scan, parts_of
from pipeline.task import UpscaleTask
from pipeline.upscale import prepared

_AT_ONCE: Final = 32
"""Most frames of the scan that are compared together."""
_AT_ONCE_BYTES: Final = 64_000_000
LEAST_CHUNKS: Final = 2
"""Fewest chunks of a part."""


def plan(task: UpscaleTask, model: Upscaler, *, count: int, least: int = 0) -> Generator[int, None, Plan | None]:
    """Read the whole video, and divide it into at most `count` parts of at least `least` frames.

    Yields the number of frames read so far. Returns None if the video cannot be divided, or has a checkpoint without a
    plan: a decision once made stays, because it decides the bytes of the result. Raises MediaError, OSError.
    """
    if (task.folder / MANIFEST).exists():
        return None
    facts = prepared(task, model)
    read = yield from scan(task, facts.canvas, model.device)
    parts = parts_of(
        read,
        count=count,
        chunk=facts.chunk,
        lookahead=task.options.lookahead,
        least=max(least, LEAST_CHUNKS * facts.chunk),
    )
    if len(parts) < 2:
        return None
    return Plan(
        identity=facts.identity,
        frames=len(read.pts),
        chunk=facts.chunk,
        encoder_threads=facts.encoder_threads,
        warnings=facts.warnings,
        parts=parts,
    )


def scan(task: UpscaleTask, canvas: Canvas | None, device: torch.device) -> Generator[int, None, Scan]:
    """Decode the whole video once. Yields the number of frames so far."""
    pts, cuts, clean = list[int](), list[int](), 0
    previous: torch.Tensor | None = None
    fields = task.options.deinterlace == "field"
    with VideoReader(task.source, canvas=canvas, fields=fields, limits=task.limits) as reader:
        for group in _groups(reader):
            images = torch.from_numpy(np.stack([frame.rgb for frame in group])).to(device)
            with one_thread():
                cuts += [len(pts) + index for index in find_scene_cuts(images, previous)]
            previous = images[-1].clone()
            if clean == len(pts):  # no fault so far
                clean += next((index for index, frame in enumerate(group) if not frame.clean), len(group))
            pts += [frame.pts for frame in group]
            yield len(pts)
    return Scan(pts, clean, cuts)


def _groups(reader: VideoReader) -> Generator[list[Frame]]:
    group: list[Frame] = []
    for frame in reader:
        group.append(frame)
        if len(group) >= min(_AT_ONCE, _AT_ONCE_BYTES // frame.rgb.nbytes):
            yield group
            group = []
    if group:
        yield group


def is_joined(folder: Path) -> bool:
    """Whether the checkpoint of a working folder is that of the whole video."""
    manifest = _manifest(folder)
    return manifest is not None and manifest.complete and not manifest.identity.part


def is_complete(folder: Path) -> bool:
    """Whether a working folder holds all segments of a finished part."""
    manifest = _manifest(folder)
    return manifest is not None and manifest.complete and all(map(Path.exists, Checkpoints(folder).segments(manifest)))


def _manifest(folder: Path) -> Manifest | None:
    with suppress(OSError, ValueError):
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    return None


def join(made: Plan, folder: Path, others: Sequence[Path]) -> None:
    """Make the checkpoints of all parts one complete checkpoint.

    Args:
        made: the plan.
        folder: the working folder of the first part. This folder becomes the folder of the whole video.
        others: the folders of the other parts, which stay unchanged.

    Raises UnusableVideo if a part is not complete, and OSError.
    """
    manifests = [Manifest.model_validate_json((each / MANIFEST).read_bytes()) for each in (folder, *others)]
    if not all(manifest.complete for manifest in manifests):
        raise UnusableVideo("a segment of the job is not complete")
    whole, checkpoints = joined(manifests, [part.first for part in made.parts]), Checkpoints(folder)
    whole.warnings = list(dict.fromkeys([*made.warnings, *whole.warnings]))
    number = manifests[0].segments
    for manifest, other in zip(manifests[1:], others, strict=True):
        for source in Checkpoints(other).segments(manifest):
            target = checkpoints.segment(number)
            target.unlink(missing_ok=True)
            os.link(source, target)
            number += 1
    chunks = [manifest.segments for manifest in manifests]
    figures.join(list(zip((folder, *others), chunks, strict=True)), folder)
    written = folder / f"{MANIFEST}.part"
    written.write_text(whole.model_dump_json())
    replace(written, folder / MANIFEST)
