"""Hostile files: no videos, corrupt videos, and decompression bombs. Small, and the same on every run.

python -m tests.support.hostile FOLDER    # for benchmarks/odd_files.py
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np

SIDE_OF_A_BOMB: Final = 16384
CORRUPT_PNG: Final = b"\x89PNG\r\n\x1a\n" + bytes(40)


def write_video(path: Path, *, frames: int = 24, codec: str = "libx264", faststart: bool = False) -> Path:
    """A clip of moving stripes, 64×48, with a keyframe every 8 frames."""
    with av.open(str(path), "w", container_options={"movflags": "+faststart"} if faststart else {}) as container:
        video: Any = container.add_stream(codec, rate=25, options={"g": "8"})
        video.width, video.height = 64, 48
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        y, x = np.mgrid[0:48, 0:64]
        for index in range(frames):
            wave = (127 + 100 * np.sin((x + 2 * y + 3 * index) / 5)).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.stack([wave, 255 - wave, wave], -1), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def png(width: int, height: int) -> bytes:
    """A black image of any size in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(width // 8 + 1)) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def png_video(path: Path, images: list[bytes]) -> None:
    """A container that claims 64×64 pixels, with PNG images of any size."""
    with av.open(str(path), "w") as container:
        stream = container.add_mux_stream("png", rate=25, width=64, height=64)
        for index, image in enumerate(images):
            packet = av.Packet(image)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, index, index, Fraction(1, 25)
            packet.is_keyframe = True
            container.mux_one(packet)


_FTYP = struct.pack(">I4s4sI4s", 20, b"ftyp", b"isom", 0, b"isom")
_DEPTHS = range(9000, 0, -1)
_WAVE = (
    b"RIFF"
    + struct.pack("<I", 8036)
    + b"WAVEfmt "
    + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    + b"data"
    + struct.pack("<I", 8000)
    + bytes(8000)
)
TEXTS: dict[str, tuple[str, bytes]] = {
    "empty": ("clip.mp4", b""),
    "one byte": ("clip.mp4", b"\0"),
    "text": ("clip.mp4", b"To whom it may concern: this is no video.\n" * 50),
    "zeros": ("clip.mkv", bytes(100_000)),
    "hls playlist": ("clip.mp4", b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"),
    "hls over http": ("clip.mp4", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/a.ts\n#EXT-X-ENDLIST\n"),
    "ffconcat": ("clip.mp4", b"ffconcat version 1.0\nfile '/etc/hostname'\n"),
    "concat in avi": ("clip.avi", b"ffconcat version 1.0\nfile clip2.mp4\n"),
    "dash": ("clip.mp4", b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>'),
    "sdp": ("clip.mp4", b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
    "tty art": ("clip.ans", b"\x1b[2J\x1b[1;1Hhello\x1b[31mred" * 40),
    "subtitles": ("clip.mp4", b"1\n00:00:00,000 --> 00:00:01,000\nHello\n\n" * 20),
    "ffmetadata": ("clip.mp4", b";FFMETADATA1\ntitle=x\n"),
    "png image": ("clip.mp4", png(64, 64)),
    "gif image": ("clip.gif", b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"),
    "wave": ("clip.mp4", _WAVE),
    "zip": ("clip.mp4", b"PK\x03\x04" + bytes(range(64))),
    "elf": ("clip.mkv", b"\x7fELF" + bytes(200)),
    "mp4 without a track": ("clip.mp4", _FTYP + struct.pack(">I4s", 8, b"moov")),
    "boxes within boxes": ("clip.mp4", _FTYP + b"".join(struct.pack(">I4s", 8 * n, b"moov") for n in _DEPTHS)),
    "endless box": ("clip.mp4", _FTYP + struct.pack(">I4sQ", 1, b"moov", 2**63 - 1)),
}  # fmt: skip


MUTATIONS: dict[str, Callable[[bytearray, np.random.Generator], bytearray]] = {
    "bits": lambda d, r: _each(d, r, lambda b, k: b ^ (1 << (k % 8)), len(d) // 200 + 1),
    "bytes": lambda d, r: _each(d, r, lambda b, k: k, len(d) // 500 + 1),
    "cut": lambda d, r: d[: int(r.integers(1, len(d)))],
    "drop": lambda d, r: d[: (a := int(r.integers(len(d))))] + d[a + int(r.integers(1, 400)) :],
    "double": lambda d, r: d[: (a := int(r.integers(len(d))))] + d[max(0, a - int(r.integers(1, 400))) :],
    "header": lambda d, r: _each(d[:600], r, lambda b, k: k, 6) + d[600:],
}


def _each(data: bytearray, random: np.random.Generator, change: Callable[[int, int], int], times: int) -> bytearray:
    for _ in range(times):
        at = int(random.integers(len(data)))
        data[at] = change(data[at], int(random.integers(256)))
    return data


def million_frames(path: Path, frames: int = 1_000_001) -> None:
    """A clip of three frames whose header claims a million and one, or another number."""
    data = bytearray(write_video(path, frames=3).read_bytes())
    stts, stsz = data.index(b"stts"), data.index(b"stsz")
    struct.pack_into(">III", data, stts + 8, 1, frames, 1)
    struct.pack_into(">II", data, stsz + 8, 1, frames)
    path.write_bytes(data)


def many_streams(path: Path, count: int = 40) -> None:
    """A file with forty audio tracks."""
    with av.open(str(path), "w") as container:
        sounds: list[Any] = [container.add_stream("pcm_s16le", rate=8000, layout="mono") for _ in range(count)]
        for sound in sounds:
            block = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
            block.sample_rate, block.pts, block.time_base = 8000, 0, Fraction(1, 8000)
            container.mux(sound.encode(block))
            container.mux(sound.encode(None))


def sound_only(path: Path) -> None:
    """AAC in MP4."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=48000, layout="mono")
        block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        block.sample_rate = 48000
        container.mux(stream.encode(block))
        container.mux(stream.encode(None))


def truncated(path: Path, whole: Path, tenth: int) -> None:
    """The first tenths of a file."""
    data = whole.read_bytes()
    path.write_bytes(data[: len(data) * tenth // 10])


def with_flipped_bits(path: Path, whole: Path, seed: int) -> None:
    """A file with one flipped bit in about every 200th byte."""
    path.write_bytes(MUTATIONS["bits"](bytearray(whole.read_bytes()), np.random.default_rng([200, seed])))


def write_all(folder: Path) -> None:
    """Write one file of each kind."""
    for name, (file, data) in TEXTS.items():
        (folder / f"{name}{Path(file).suffix}").write_bytes(data)
    whole = write_video(folder / "whole.mp4", faststart=True)
    for tenth in range(1, 10):
        truncated(folder / f"truncated {tenth} of 10, index in front.mp4", whole, tenth)
    write_video(whole)
    truncated(folder / "truncated 9 of 10, index at the end.mp4", whole, 9)
    for seed in range(10):
        with_flipped_bits(folder / f"flipped bits {seed}.mp4", whole, seed)
    whole.rename(folder / "mp4 with another suffix.txt")
    for side in (SIDE_OF_A_BOMB, 30000):
        png_video(folder / f"bomb {side}x{side}.mov", [png(side, side)])
    png_video(folder / "second frame 4000x4000.mov", [png(64, 64), png(4000, 4000)])
    png_video(folder / "8 of 10 frames corrupt.mov", [png(64, 64), *[CORRUPT_PNG] * 8, png(64, 64)])
    million_frames(folder / "a million frames.mp4")
    many_streams(folder / "forty streams.mkv")
    sound_only(folder / "sound only.mp4")
    unknown = folder / "codec that is not accepted.avi"
    write_video(unknown, codec="mjpeg")
    unknown.write_bytes(unknown.read_bytes().replace(b"MJPG", b"QxQy"))


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
