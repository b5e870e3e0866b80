"""Clips for training and evaluation: decode a clip or a picture, compress a clip, write a PNG.

Frames are uint8 RGB arrays. `model.training` receives these functions as arguments, because only `media` uses PyAV.
Files are trusted: they are decoded in this process.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Final, Literal

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from media.encode.encoders import repeatable_x264

Frames = npt.NDArray[np.uint8]

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
VIDEOS = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".ts", ".y4m"}

MPEG: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "mpeg4": ("mpeg4", {"g": "250"}),
    "mpeg2": ("mpeg2video", {"g": "15", "bf": "2"}),
}
"""Codecs of old files: name → libav's encoder and options. MPEG-4 Part 2 as by XviD, MPEG-2 as on DVDs."""


def decode(path: Path) -> Iterator[Frames]:
    """Yield the frames of a video, a picture, or a folder of pictures: each uint8 [H, W, 3].

    Raises:
        ValueError: no frames, a frame of another size than the first, or an unreadable file. One line.
    """
    size: tuple[int, ...] | None = None
    for number, frame in enumerate(chain.from_iterable(map(_decoded, frame_files(path)))):
        if size is not None and frame.shape != size:
            raise ValueError(
                f"{path.name}: frame {number} has {frame.shape[1]}x{frame.shape[0]} pixels, the first one "
                f"{size[1]}x{size[0]}"
            )
        size = frame.shape
        yield frame
    if size is None:
        raise ValueError(f"{path.name}: holds no frames")


def frame_files(clip: Path) -> list[Path]:
    """The files of a clip: the pictures of a folder sorted by name, or the video itself."""
    return pictures(clip) if clip.is_dir() else [clip]


def _decoded(path: Path) -> Iterator[Frames]:
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path.name}: no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                yield _rgb(frame)
    except FFmpegError as e:
        raise ValueError(f"{path.name}: cannot be decoded ({e.strerror})") from e


def clip(path: Path, frames: int | None = None) -> Frames:
    """Decode the first `frames` frames (default: all) of a video, a picture, or a folder of pictures: [T, H, W, 3].

    Raises:
        ValueError: see `decode`.
    """
    return np.stack(list(islice(decode(path), frames)))


def clips(folder: Path) -> list[Path]:
    """List the clips of a folder, sorted by name: videos, and folders of pictures.

    Raises:
        ValueError: not a folder, or no clips.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: not a folder")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in VIDEOS or _has_pictures(p))
    if not found:
        raise ValueError(f"{folder}: holds no clips (videos, or folders of PNG frames)")
    return found


def pictures(folder: Path) -> list[Path]:
    """List the pictures of a folder, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES)


def _rgb(frame: VideoFrame) -> Frames:
    return frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def _has_pictures(path: Path) -> bool:
    return path.is_dir() and any(p.suffix.lower() in PICTURES for p in path.iterdir())


def h264(frames: Frames, crf: int, preset: str = "veryfast", fps: int = 25) -> Frames:
    """Encode [T, H, W, 3] as H.264 (4:2:0, BT.709) at constant rate factor `crf`, and decode the result.

    Odd sizes are padded by the last row or column during encoding. One encoder thread makes the result reproducible.
    """
    options = {"crf": str(crf), "preset": preset, "x264-params": ":".join(repeatable_x264())}
    return _compressed(frames, "libx264", options, fps)


def mpeg(frames: Frames, kind: str, quantizer: int, fps: int = 25) -> Frames:
    """Encode [T, H, W, 3] with a codec of `MPEG` at a constant quantizer of 1 to 31, and decode, as `h264` does."""
    encoder, options = MPEG[kind]
    return _compressed(frames, encoder, {"qmin": str(quantizer), "qmax": str(quantizer), **options}, fps)


def h264_rgb(frames: Frames, crf: int, fps: int = 25) -> bytes:
    """Encode [T, H, W, 3] as H.264 in RGB, 4:4:4, at constant rate factor `crf`: a Matroska file.

    Every decoder returns the same colours: nothing is converted.
    """
    options = {"crf": str(crf), "preset": "slow", "x264-params": ":".join(repeatable_x264())}
    return _encoded(frames, "libx264rgb", options, fps, "rgb24").getvalue()


def _compressed(frames: Frames, encoder: str, options: Mapping[str, str], fps: int) -> Frames:
    t, h, w, _ = frames.shape
    padded = np.pad(frames, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    with av.open(_encoded(padded, encoder, options, fps, "yuv420p"), "r") as source:
        decoded = [
            frame.reformat(
                format="rgb24", src_colorspace=Colorspace.ITU709, src_color_range=ColorRange.MPEG
            ).to_ndarray()
            for frame in source.decode(video=0)
        ]
    assert len(decoded) == t
    return np.ascontiguousarray(np.stack(decoded)[:, :h, :w])


def _yuv(frame: VideoFrame) -> VideoFrame:
    return frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)


def _encoded(
    frames: Frames, encoder: str, options: Mapping[str, str], fps: int, pixels: Literal["rgb24", "yuv420p"]
) -> io.BytesIO:
    """Encode [T, H, W, 3] to Matroska in a pixel format."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream(encoder, rate=fps, options={**options, "threads": "1"})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        for array in frames:
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            container.mux(stream.encode(_yuv(frame) if pixels == "yuv420p" else frame))
        container.mux(stream.encode(None))
    buffer.seek(0)
    return buffer
