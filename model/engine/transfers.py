"""Frames to the device of a network and back.

On a GPU both copies pass page-locked memory, and the host waits for a result only when asked for its frames. Results
leave on a stream of their own, while the network computes the next chunk. PyTorch reuses the page-locked memory of
dropped results: a stream with a single chunk ahead alternates between two buffers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.engine.chunk import Frames


@dataclass(frozen=True)
class Download:
    """Frames on their way to the host."""

    host: Tensor
    ready: torch.cuda.Event | None
    """None: `host` is complete."""

    def frames(self) -> Frames:
        """Wait for the frames, and return them."""
        if self.ready is not None:
            self.ready.synchronize()
        return self.host.numpy()


class Transfers:
    """Copies frames between host memory and a device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._back = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def upload(self, frames: Frames) -> Tensor:
        """Return frames as a tensor on the device."""
        host = torch.from_numpy(np.ascontiguousarray(frames))
        if self._back is None:
            return host.to(self._device)
        return host.pin_memory().to(self._device, non_blocking=True)

    def download(self, frames: Tensor) -> Download:
        """Begin to copy frames to the host."""
        if self._back is None:
            return Download(frames.cpu(), None)
        host = torch.empty(frames.shape, dtype=frames.dtype, pin_memory=True)
        self._back.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._back):
            host.copy_(frames, non_blocking=True)
            frames.record_stream(self._back)
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record(self._back)
        return Download(host, ready)
