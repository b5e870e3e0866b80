"""Clips for tests."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def make_scenes(path: Path, *, frames: int, cuts: tuple[int, ...], width: int = 64, height: int = 48) -> Path:
    """An H.264 clip of still colour ramps that change at each scene cut."""
    x = np.tile(np.linspace(0, 1, width), (height, 1))
    ramps = (
        np.stack([240 * x, 200 * x, 90 * x], axis=-1),
        np.stack([60 - 60 * x, 90 - 90 * x, 255 - 190 * x], axis=-1),
    )
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "20", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            rgb = ramps[sum(index >= cut for cut in cuts) % 2]
            frame = av.VideoFrame.from_ndarray(rgb.astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def make_clip(path: Path, *, frames: int = 24, width: int = 32, height: int = 24, sound: bool = False) -> Path:
    """An H.264 clip of moving, noisy stripes at 25 frames a second, optionally with a sine wave as AAC."""
    random = np.random.default_rng(frames * 1000 + width)
    y, x = np.mgrid[0:height, 0:width]
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "20", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt, video.gop_size = width, height, "yuv420p", 12
        audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for index in range(frames):
            wave = 127 + 100 * np.sin((x + 2 * y + 3 * index) / 5)
            rgb = np.stack([wave, np.roll(wave, index, axis=1), 255 - wave], axis=-1) + random.normal(
                0, 6, (height, width, 1)
            )
            frame = av.VideoFrame.from_ndarray(rgb.clip(0, 255).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            count = 16000 * frames // 25
            tone = (8000 * np.sin(np.arange(count) / 8)).astype(np.int16)
            for start in range(0, count, 1024):
                block = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], format="s16", layout="mono")
                block.sample_rate, block.pts, block.time_base = 16000, start, Fraction(1, 16000)
                container.mux(audio.encode(block))
            container.mux(audio.encode(None))
    return path


def make_noise(path: Path, container: str, codec: str, **options: str) -> Path:
    """A video of noise, of several hundred kilobytes. `options` are those of the container."""
    random = np.random.default_rng(1)
    with av.open(str(path), "w", format=container, options=options) as made:
        video = made.add_stream(codec, rate=25, options={"b": "3M"})
        video.width, video.height, video.pix_fmt = 96, 64, "rgb8" if codec == "gif" else "yuv420p"
        video.gop_size = 12
        for index in range(75):
            rgb = random.integers(0, 255, (64, 96, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            made.mux(video.encode(frame))
        made.mux(video.encode(None))
    return path


def times_of(path: Path) -> list[float]:
    """Timestamp of each frame in seconds."""
    with av.open(str(path)) as container:
        return [round(float(frame.time or 0), 4) for frame in container.decode(video=0)]


def write_png(path: Path, image: np.ndarray) -> None:
    """Write one uint8 [H, W, 3] picture as PNG."""
    with av.open(str(path), "w", format="image2") as container:
        video = container.add_stream("png", options={"update": "1"})
        video.height, video.width, video.pix_fmt = image.shape[0], image.shape[1], "rgb24"
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(video.encode(None))
