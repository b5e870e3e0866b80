"""RGB frames as NumPy arrays. The child process must not import this module: NumPy makes its start slow."""

from __future__ import annotations

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


def pixels(frame: VideoFrame) -> Pixels:
    """Copy an rgb24 or rgb48le frame to an array [H, W, 3] of uint8 or uint16."""
    plane = frame.planes[0]
    dtype = np.uint8 if frame.format.name == "rgb24" else np.dtype("<u2")
    rows = np.frombuffer(memoryview(plane), dtype).reshape(frame.height, plane.line_size // np.dtype(dtype).itemsize)
    return np.ascontiguousarray(rows[:, : 3 * frame.width]).reshape(frame.height, frame.width, 3)
