"""Encoding one chunk of frames as a segment of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from media.color import conversion as colors
from media.demux.timing import decoding_times, reorder_depth
from media.encode.encoders import configure
from media.encode.hardware import accelerator
from media.errors import MediaError
from media.reader import Pixels
from media.spec import OutputSpec, output_spec

__all__ = ["OutputSpec", "SegmentWriter", "output_spec"]


SHIFT_TAG: Final = "comment"
"""Tag of a segment with what is to be added to its times, if they would be negative."""


class SegmentWriter:
    """Encodes frames to a segment: one closed group of pictures (or several), by an encoder of its own.

    The same frames, times and spec give the same bytes on every run. The file appears at `path` only when it is
    complete; leaving the `with` block by an exception leaves nothing behind.

    Raises:
        MediaError: the encoder refused the spec or failed.
        ValueError: a frame of another size or type than before, or a pts that is not above the one before.
    """

    def __init__(self, path: Path, spec: OutputSpec) -> None:
        self.path, self.spec = path, spec
        self.frames = 0
        self._partial = path.with_name(path.name + ".partial")
        self._times: list[int] = []
        # A segment is written at its end, when it is known how far its frames were reordered. What waits is compressed.
        self._packets: list[av.Packet[VideoStream]] = []
        self._closed = False
        self._to_yuv = colors.RgbToYuv(spec.color, spec.pixel_format)
        self._downscaler = VideoReformatter()
        units = str(spec.time_base.denominator)
        # libav keeps a file that it opened itself open when its last write fails, and a full disk would never get the
        # space back.
        self._file = self._partial.open("wb", buffering=0)
        self._container: OutputContainer = av.open(
            self._file,
            "w",
            format="mp4",
            container_options={"video_track_timescale": units, "movie_timescale": units, "fflags": "+bitexact"},
        )
        try:
            self._stream: VideoStream = self._container.add_stream(  # type: ignore[assignment]
                spec.encoder, spec.frame_rate, hwaccel=accelerator(spec.encoder)
            )
            configure(self._stream, spec)
        except (av.error.FFmpegError, ValueError, LookupError) as e:
            self._abandon()
            raise MediaError(f"the encoder {spec.encoder} can't be set up for {spec.width}×{spec.height}: {e}") from e

    def write(self, rgb: Pixels, pts: int) -> None:
        """Encode one frame [H, W, 3] (uint8 or uint16), scaled to the spec's size, shown at `pts` (spec.time_base)."""
        if self._times and pts <= self._times[-1]:
            raise ValueError(f"pts {pts} is not above the one before, {self._times[-1]}")
        frame = self._yuv(rgb)
        # The encoder counts frames; the real times are put on the packets. So odd time bases and gaps of a VFR clip
        # never reach its rate control.
        frame.pts, frame.time_base = self.frames, self._stream.codec_context.time_base
        self._times.append(pts)
        self.frames += 1
        try:
            self._packets += self._stream.encode(frame)
        except av.error.FFmpegError as e:
            raise MediaError(f"encoding with {self.spec.encoder} failed: {e}") from e

    def _yuv(self, rgb: Pixels) -> VideoFrame:
        spec = self.spec
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"not an RGB frame: {rgb.dtype} {rgb.shape}")
        whole: Pixels = np.ascontiguousarray(rgb)  # type: ignore[assignment]  # of the dtype just checked
        frame = VideoFrame.from_numpy_buffer(whole, "rgb24" if rgb.dtype == np.uint8 else "rgb48le")
        if (frame.width, frame.height) != (spec.width, spec.height):
            frame = self._downscaler.reformat(frame, spec.width, spec.height, interpolation=colors.DOWNSCALE, threads=1)
        return self._to_yuv(frame)

    def close(self) -> None:
        """Finish the segment and put it in place.

        Raises:
            MediaError: there are no frames, or the encoder failed.
            OSError: the disk is full.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if not self.frames:
                raise MediaError("a segment without frames")
            self._packets += self._stream.encode(None)
            if (begins := min(self._times)) < 0:  # what ends before zero is cut off where MP4 is read
                self._container.metadata[SHIFT_TAG] = str(begins)
                self._times = [time - begins for time in self._times]
            for packet in self._stamped():
                self._container.mux(packet)
            self._container.close()
            self._file.close()
            self._partial.replace(self.path)
        except av.error.FFmpegError as e:
            raise MediaError(f"encoding with {self.spec.encoder} failed: {e}") from e
        finally:
            self._abandon()

    def _stamped(self) -> Iterator[av.Packet[VideoStream]]:
        times = [self._times[packet.pts or 0] for packet in self._packets]
        step = max(1, round(1 / (self.spec.frame_rate * self.spec.time_base)))
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
