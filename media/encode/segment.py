"""Encoding of a chunk of frames as a segment file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from media.color.pixels import Pixels
from media.color.planes import frame_of_planes
from media.color.yuv import DOWNSCALE, RgbToYuv
from media.demux.timestamps import SHIFT_TAG, decoding_times, reorder_depth
from media.encode.encoders import configure
from media.encode.hardware import accelerator
from media.errors import MediaError
from media.types import OutputSpec

__all__ = ["SegmentWriter"]


class SegmentWriter:
    """Encoder of one segment: closed groups of pictures, encoded independently of other segments.

    The same frames, timestamps and spec give the same bytes on every run. The complete file appears at `path`. If the
    `with` block raises, no file remains.

    Raises:
        MediaError: the encoder refuses the spec, or failed.
        ValueError: a frame with another size or type than the previous frames, or with a pts that does not increase.
    """

    def __init__(self, path: Path, spec: OutputSpec) -> None:
        self.path, self.spec = path, spec
        self.frames = 0
        self._partial = path.with_name(path.name + ".partial")
        self._times: list[int] = []
        # Compressed packets wait here until the end, when the reorder depth is known.
        self._packets: list[av.Packet[VideoStream]] = []
        self._drained = self._closed = False
        self._to_yuv = RgbToYuv(spec.color, spec.pixel_format)
        self._downscaler = VideoReformatter()
        units = str(spec.time_base.denominator)
        # If libav opens the file itself and its last write fails, the file stays open, and a full disk stays full.
        self._file = self._partial.open("wb", buffering=0)
        self._container: OutputContainer = av.open(
            self._file,
            "w",
            format="mp4",
            container_options={"video_track_timescale": units, "movie_timescale": units, "fflags": "+bitexact"},
        )
        try:
            self._stream: VideoStream = self._container.add_stream(  # type: ignore[assignment]
                spec.encoder, spec.encoder_rate or spec.frame_rate, hwaccel=accelerator(spec.encoder)
            )
            configure(self._stream, spec)
        except (av.error.FFmpegError, ValueError, LookupError) as e:
            self._abandon()
            raise MediaError(f"The encoder {spec.encoder} refuses {spec.width}×{spec.height}: {e}") from e

    def write(self, pixels: Pixels, pts: int) -> None:
        """Encode one frame.

        Args:
            pixels: RGB [H, W, 3], uint8 or uint16, scaled here to the spec's size; or [n], the planes of a frame in the
                spec's size and pixel format (`media.color.planes`).
            pts: timestamp in units of `spec.time_base`.
        """
        if self._times and pts <= self._times[-1]:
            raise ValueError(f"pts {pts} is not above the previous one, {self._times[-1]}")
        frame = frame_of_planes(pixels, self.spec) if pixels.ndim == 1 else self._yuv(pixels)
        # The encoder receives frame numbers, and the packets receive the timestamps. Odd time bases and gaps of a clip
        # with variable frame rate therefore do not affect rate control.
        frame.pts, frame.time_base = self.frames, self._stream.codec_context.time_base
        self._times.append(pts)
        self.frames += 1
        try:
            self._packets += self._stream.encode(frame)
        except av.error.FFmpegError as e:
            raise MediaError(f"Encoding with {self.spec.encoder} failed: {e}") from e

    def _yuv(self, rgb: Pixels) -> VideoFrame:
        spec = self.spec
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"not an RGB frame: {rgb.dtype} {rgb.shape}")
        contiguous: Pixels = np.ascontiguousarray(_flipped(rgb, spec.flip))  # type: ignore[assignment]  # the dtype was checked above
        frame = VideoFrame.from_numpy_buffer(contiguous, "rgb24" if rgb.dtype == np.uint8 else "rgb48le")
        if (frame.width, frame.height) != (spec.width, spec.height):
            frame = self._downscaler.reformat(frame, spec.width, spec.height, interpolation=DOWNSCALE, threads=1)
        return self._to_yuv(frame)

    def drain(self) -> Iterator[None]:
        """Encode the delayed frames before `close`, with a pause after each frame. Raises MediaError."""
        if not self.frames or self._drained:
            return
        self._drained = True
        try:
            for packet in self._stream.codec_context.encode_lazy(None):
                self._packets.append(packet)
                yield
        except av.error.FFmpegError as e:
            raise MediaError(f"Encoding with {self.spec.encoder} failed: {e}") from e

    def close(self) -> None:
        """Finish the segment, and move it to `path`.

        Raises:
            MediaError: there are no frames, or the encoder failed.
            OSError: the disk is full.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if not self.frames:
                raise MediaError("A segment needs at least one frame.")
            for _ in self.drain():
                pass
            if begins := min(self._times):
                # Readers of MP4 cut off frames before zero, and lose a later start if decoding times are below zero.
                self._container.metadata[SHIFT_TAG] = str(begins)
                self._times = [time - begins for time in self._times]
            for packet in self._stamped():
                self._container.mux(packet)
            self._container.close()
            self._file.close()
            self._partial.replace(self.path)
        except av.error.FFmpegError as e:
            raise MediaError(f"Encoding with {self.spec.encoder} failed: {e}") from e
        finally:
            self._abandon()

    def _stamped(self) -> Iterator[av.Packet[VideoStream]]:
        times = [self._times[packet.pts or 0] for packet in self._packets]
        # A longer step would make the decoding times begin so early that the track ends before its last frames.
        nominal = 1 / (self.spec.frame_rate * self.spec.time_base)
        step = max(1, min([round(nominal), *(b - a for a, b in pairwise(self._times))]))
        for packet, pts, dts in zip(
            self._packets, times, decoding_times(times, reorder_depth(times), step=step), strict=True
        ):
            packet.time_base = self.spec.time_base
            packet.pts, packet.dts, packet.duration = pts, dts, 0
            yield packet

    def _abandon(self) -> None:
        self._closed = True
        self._packets = []
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._abandon()


def _flipped(rgb: Pixels, flip: str) -> Pixels:
    if flip == "horizontal":
        return rgb[:, ::-1]
    return rgb[::-1] if flip == "vertical" else rgb
