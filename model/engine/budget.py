"""Memory of a chunk: an estimate, the available memory, and the longest chunk that fits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch

from model.engine.region_flow import FLOW_BYTES
from model.engine.upscaler import Upscaler

_SHARE: Final = 0.7
"""Part of the available memory that a chunk may take."""
_OUTPUTS: Final = 2
"""Chunks of upscaled frames in memory: a chunk is computed while the previous chunk is encoded."""
_HOST: Final = torch.device("cpu")
_OTHER_BYTES: Final = 40
"""Bytes per pixel and frame of flows, masks and decoded frames."""


def bytes_per_pixel(model: Upscaler, *, sample_bytes: int = 1) -> tuple[int, int]:
    """Estimate the memory of a chunk per pixel of its source: once, and for each frame with the look-ahead.

    Measured per frame with chunks of 32 frames: 203 bytes for `small` in bfloat16, 267 in float32; the estimates are
    200 and 264. BasicVSR in bfloat16 took 6,900 to 10,600 bytes in all for 4 to 8 frames; the estimates are 11,300 and
    12,300.
    """
    config, item = model.config, model.dtype.itemsize
    features = config.channels * item / config.fold**2
    once = math.ceil((5 * config.stride**2 if config.tail == "full" else 8) * features)
    return once, _output_bytes(model, sample_bytes) + math.ceil(features) + _OTHER_BYTES


def available_bytes(device: torch.device, *, cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that this process can still take: the GPU's, or the system's within the limits of the control groups.

    Blocks that torch keeps for later tensors count as available; a GPU reports these blocks as used.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return min(_system_bytes(), *_cgroup_bytes(cgroup), 2**62)


def usable_bytes(device: torch.device) -> int:
    """The part of the available memory that networks may take."""
    return int(_SHARE * available_bytes(device))


def longest_chunk(
    model: Upscaler, pixels: int, chunk: int, lookahead: int, *, sample_bytes: int = 1, budget: int = 0
) -> int:
    """Return the number of frames, at most `chunk`, that fit into the memory; below 1 if no frame fits.

    Args:
        model: the network on its device.
        pixels: pixels of a source frame.
        chunk: the wanted number of frames.
        lookahead: frames that each chunk reads in addition.
        sample_bytes: 1 for 8-bit video, 2 for more.
        budget: bytes that a chunk may take; 0: a part of the available memory.
    """
    allowed = budget or usable_bytes(model.device)
    once, each = bytes_per_pixel(model, sample_bytes=sample_bytes)
    fits = min(chunk, ((allowed - _flow_bytes(model)) // pixels - once) // each - lookahead)
    if model.device.type == "cpu":
        return fits
    # Results of a GPU wait in main memory too. torch rounds blocks of page-locked memory up to a power of two.
    return min(fits, usable_bytes(_HOST) // (2 * _output_bytes(model, sample_bytes) * pixels))


def needed_bytes(model: Upscaler, pixels: int, frames: int, *, sample_bytes: int = 1) -> int:
    """Estimate the memory of a chunk of `frames` frames, look-ahead included."""
    once, each = bytes_per_pixel(model, sample_bytes=sample_bytes)
    return _flow_bytes(model) + pixels * (once + each * frames)


def halves_beside(model: Upscaler, pixels: int, frames: int, *, sample_bytes: int = 1, budget: int = 0) -> int:
    """Return how many backward halves of next chunks fit into the memory beside a chunk (`Upscaler.stream`).

    A half holds everything of a chunk but the upscaled frames. The arguments are those of `needed_bytes` and of
    `longest_chunk`.
    """
    once, each = bytes_per_pixel(model, sample_bytes=sample_bytes)
    half = once + (each - _output_bytes(model, sample_bytes)) * frames
    left = ((budget or usable_bytes(model.device)) - _flow_bytes(model)) // pixels - (once + each * frames)
    return max(0, left // half)


def _flow_bytes(model: Upscaler) -> int:
    """Memory of a batch of flows: accelerators batch the flows of a chunk."""
    return FLOW_BYTES if model.network.accelerated else 0


def _output_bytes(model: Upscaler, sample_bytes: int) -> int:
    """Memory of upscaled frames per pixel of the source, and frame."""
    return _OUTPUTS * 3 * model.config.scale**2 * sample_bytes


def _system_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 2**62
    found = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return next(found, 2**62)


def _cgroup_bytes(root: Path) -> Iterator[int]:
    """Yield what each control group of this process still allows. Its page cache counts as free."""
    try:
        names = [line.partition("::")[2] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        names = []
    folders = {root, root / "memory"}
    for name in names:
        folder = root / name.lstrip("/")
        folders |= {folder, *(parent for parent in folder.parents if parent.is_relative_to(root))}
    for folder in folders:
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            try:
                most, taken = int((folder / limit).read_text()), int((folder / used).read_text())
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):
                continue  # no limit, or no such file
            yield max(0, most - taken + int(stat.get("inactive_file", 0)))
