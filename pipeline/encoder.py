"""Which encoder a job asks for."""

from __future__ import annotations

from pathlib import Path

import torch

from model.device import device_kind
from pipeline.checkpoint import Identity, kept_encoder


def wished_encoder(setting: str, device: torch.device) -> str:
    """Return the encoder to try first by SKIPVSR_ENCODER; `device` means NVENC beside an NVIDIA GPU, else software."""
    if setting != "device":
        return setting
    return "nvenc" if device_kind(device) == "cuda" else "software"


def encoder_of_job(setting: str, device: torch.device, folder: Path, planned: Identity | None = None) -> str:
    """Return the encoder to try first for the job of a working folder. A resumed job keeps an encoder that works.

    `planned` is what all parts of a video have in common.
    """
    kept = kept_encoder(folder) if planned is None else planned.encoder
    if kept is None:
        return wished_encoder(setting, device)
    kind = kept.rpartition("_")[2]
    return kind if kind in ("nvenc", "vaapi") else "software"
