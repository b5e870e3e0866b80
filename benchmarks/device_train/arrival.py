"""Decode the videos of a packed file with OpenCV."""

from __future__ import annotations

import tempfile

import cv2
import numpy as np

from model.training.degrade import Frames


def decode(video: bytes) -> Frames:
    """Decode a video into frames [T, H, W, 3], RGB. Raises ValueError if OpenCV finds none."""
    with tempfile.NamedTemporaryFile(suffix=".mkv") as file:
        file.write(video)
        file.flush()
        capture = cv2.VideoCapture(file.name)
        frames = []
        try:
            while True:
                found, frame = capture.read()
                if not found:
                    break
                frames.append(frame[..., ::-1])
        finally:
            capture.release()
    if not frames:
        raise ValueError("OpenCV decodes no frames of a video; H.264 in RGB needs its FFmpeg backend")
    return np.stack(frames).astype(np.uint8, copy=False)
