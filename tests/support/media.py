"""Clips with one special property each, upscaling without a network, and inspection of results."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from media.assemble import assemble
from media.encode.segment import SegmentWriter
from media.limits import DEFAULT_LIMITS, Limits
from media.probe import probe
from media.reader import VideoReader
from media.spec import OutputSpec, output_spec
from media.types import MediaInfo
from tests.support.processes import own_children


def stripes(index: int, width: int, height: int) -> np.ndarray[Any, Any]:
    """A moving pattern, uint8 [H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    wave = 127 + 100 * np.sin((x + 2 * y + 3 * index) / 5)
    return np.stack([wave, np.roll(wave, index, axis=1), 255 - wave], axis=-1).astype(np.uint8)


def write_clip(
    path: Path,
    *,
    times: Sequence[int] = tuple(range(12)),
    unit: Fraction = Fraction(1, 25),
    width: int = 32,
    height: int = 24,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    prepare: Callable[[av.container.OutputContainer, Any], None] | None = None,
    tone: Callable[[av.container.OutputContainer], list[tuple[Any, int]]] | None = None,
    container_format: str | None = None,
    sample: str = "rgb24",
) -> Path:
    """Encode stripes with timestamps `times` in units of `unit` seconds.

    `prepare` receives (container, video stream) before the header is written. `tone` adds audio streams, and returns
    (stream, time of its first sample in samples) for each.
    """
    container_options = {"video_track_timescale": str(unit.denominator)} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", format=container_format, container_options=container_options) as container:
        video = container.add_stream(codec, rate=25, options=options or {})
        video.width, video.height, video.pix_fmt = width, height, pixel_format
        video.time_base = video.codec_context.time_base = unit
        if codec.startswith("libvpx"):
            video.codec_context.thread_count = 1  # its threads spin: 0.5 s took 18 s on busy cores
        sounds = tone(container) if tone else []
        if prepare:
            prepare(container, video)
        for stream, start in sounds:
            rate = stream.codec_context.sample_rate
            wave = (8000 * np.sin(np.arange(rate // 2) / 8)).astype(np.int16)[None]
            for at in range(0, wave.shape[1] - 1023, 1024):
                block = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, at : at + 1024]), "s16", "mono")
                block.sample_rate, block.pts, block.time_base = rate, start + at, Fraction(1, rate)
                container.mux(stream.encode(block))
            container.mux(stream.encode(None))
        for index, pts in enumerate(times):
            frame = av.VideoFrame.from_ndarray(stripes(index, width, height), format="rgb24")
            frame.pts, frame.time_base = pts, unit
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def as_ts(source: Path, path: Path, *, ahead: int = 0, without: int = 0) -> Path:
    """Remux to a transport stream, `ahead` seconds later, `without` some of the video's first packets."""
    with (
        av.open(str(source)) as original,
        av.open(str(path), "w", format="mpegts", container_options={"mpegts_copyts": "1"}) as target,
    ):
        streams = [target.add_stream_from_template(stream) for stream in original.streams]
        for packet in original.demux():
            if packet.size and packet.pts is not None and packet.dts is not None:
                if packet.stream.type == "video" and without > 0:
                    without -= 1
                    continue
                packet.pts += int(ahead / packet.time_base)
                packet.dts += int(ahead / packet.time_base)
                packet.stream = streams[packet.stream_index]
                target.mux(packet)
    return path


LINES = [(40, 200, "Hello"), (280, 160, "Second <i>line</i>\nand third")]


def with_subtitles(
    path: Path,
    *,
    font: bool = True,
    codec: str = "subrip",
    lines: Sequence[tuple[int, int, str]] = LINES,
    tone: Callable[[av.container.OutputContainer], list[tuple[Any, int]]] | None = None,
) -> Path:
    """A Matroska file with French subtitles (start in ms, duration in ms, text) and a font."""
    plain = write_clip(path.with_suffix(".plain.mkv"), tone=tone)
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        tracks = {s.index: target.add_stream_from_template(s, opaque=True) for s in source.streams}
        text: Any = target.add_stream(codec)
        text.codec_context.subtitle_header = b"[Script Info]\r\n\r\n[Events]\r\n"
        text.metadata["language"] = "fra"
        if font:
            target.add_attachment("font.ttf", "font/ttf", b"not really a font")
        for packet in source.demux():
            if packet.size:
                packet.stream = tracks[packet.stream_index]  # type: ignore[assignment]
                target.mux(packet)
        for number, (start, duration, words) in enumerate(lines):
            words = words if codec == "subrip" else f"{number},0,Default,,0,0,0,,{words}"
            line: Any = av.Packet(words.encode())
            line.stream, line.time_base, line.pts, line.dts = text, Fraction(1, 1000), start, start
            line.duration = duration
            target.mux(line)
    return path


def upscale(
    source: Path,
    folder: Path,
    *,
    chunk: int = 5,
    scale: int = 2,
    codec: str = "auto",
    container: str = "mp4",
    fields: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> Upscaled:
    """Upscale as the worker does. Repeated pixels replace the network."""
    info = probe(source, limits, target=container, fields=fields)
    spec = output_spec(info, scale=scale, codec=codec, limits=limits)
    segments: list[Path] = []
    times: list[int] = []
    with VideoReader(source, canvas=info.video.canvas, fields=fields, limits=limits) as reader:
        frames = iter(reader)
        while group := [frame for _, frame in zip(range(chunk), frames, strict=False)]:
            segments.append(folder / f"{len(segments):03d}.mp4")
            with SegmentWriter(segments[-1], spec) as writer:
                for frame in group:
                    writer.write(frame.rgb.repeat(4, 0).repeat(4, 1), frame.pts)
                    times.append(frame.pts)
    out = folder / f"result.{info.target}"
    lost = assemble(segments, source, out, spec, limits=limits).warnings
    return Upscaled(
        out,
        info,
        spec,
        times,
        tuple(dict.fromkeys([*info.warnings, *spec.warnings, *reader.warnings, *lost])),
        segments,
    )


@dataclass(frozen=True)
class Upscaled:
    """A result and its intermediate values."""

    path: Path
    info: MediaInfo
    spec: OutputSpec
    times: list[int]
    warnings: tuple[str, ...]
    segments: list[Path]


def shown(path: Path) -> list[Fraction]:
    """Timestamp in seconds of each decoded frame of the main video track."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]  # type: ignore[operator]


def packets(path: Path, kind: str, number: int = 0) -> list[tuple[Fraction, bytes]]:
    """(pts in seconds, bytes) of each packet of the `number`-th track of a kind (audio, subtitles)."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[number]
        return [
            (packet.pts * packet.time_base, bytes(packet))
            for packet in container.demux(stream)
            if packet.size and packet.pts is not None
        ]


def video_packets(path: Path) -> list[tuple[int, int, bool]]:
    """(pts, dts, keyframe) of each video packet, in coding order."""
    with av.open(str(path)) as container:
        return [(p.pts, p.dts, p.is_keyframe) for p in container.demux(video=0) if p.size]  # type: ignore[misc]


def children() -> list[int]:
    """Process ids of this process's decoders."""
    return [pid for pid in own_children() if _is_reader(pid)]


def _is_reader(pid: int) -> bool:
    try:
        return b"media.jailed.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def open_files() -> int:
    """Number of this process's file descriptors."""
    return len(os.listdir("/proc/self/fd"))
