"""The GPUs of this machine, tried one by one."""

from __future__ import annotations

from pathlib import Path

import torch

from model.engine.loading import load_model
from model.errors import DeviceError
from model.faults import allocation_failed, chain


def gpu_troubles() -> list[str]:
    """For each GPU why no network can run there, by a trial of the smallest network; empty if the GPU works."""
    return [_trouble(f"cuda:{number}") for number in range(torch.cuda.device_count())]


def _trouble(device: str) -> str:
    try:
        load_model("tiny", weights_dir=Path(), device=device)
    except DeviceError as error:
        # Memory can be free again when a worker starts.
        return "" if any(map(allocation_failed, chain(error))) else str(error)
    return ""
