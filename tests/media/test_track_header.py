"""What the container says about the picture: crop, encryption, Dolby Vision, a second view."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from media.errors import UnusableVideo
from media.jailed.header_checks import check_dolby_vision
from media.probe import probe
from tests.support.matroska import element, number, write_vp8
from tests.support.media import as_ts, upscale, write_clip

PATH = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
BARS = 8


def _picture(number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Grey between red bars of 8 lines, 64×48."""
    rgb = np.full((48, 64, 3), 20 * number, np.uint8)
    rgb[:BARS], rgb[-BARS:] = (255, 0, 0), (255, 0, 0)
    return rgb


def _barred(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"qp": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(_picture(index), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _with_box(path: Path, box: bytes) -> Path:
    """Add a box to the sample entry of an MP4 file whose index is behind the frames."""
    data = bytearray(path.read_bytes())
    at, end, grown = 0, len(data), []
    for name in PATH:
        while data[at + 4 : at + 8] != name:
            at += int.from_bytes(data[at : at + 4], "big")
            assert at < end
        grown.append(at)
        at += 16 if name == b"stsd" else 8
    grown.append(at)
    place = at + int.from_bytes(data[at : at + 4], "big")
    data[place:place] = box
    for start in grown:
        struct.pack_into(">I", data, start, int.from_bytes(data[start : start + 4], "big") + len(box))
    path.write_bytes(data)
    return path


def _clap(width: int, height: int, right: int = 0, down: int = 0) -> bytes:
    return struct.pack(">I4sIIIIiIiI", 40, b"clap", width, 1, height, 1, right, 1, down, 1)


def _grey(path: Path) -> bool:
    """Whether no pixel of the first picture is red."""
    with av.open(str(path)) as container:
        rgb = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    return bool(np.abs(rgb[..., 0] - rgb[..., 1]).max() < 30)


def test_the_clean_aperture_is_cut_out(tmp_path: Path) -> None:
    path = _with_box(_barred(tmp_path / "in.mp4"), _clap(64, 48 - 2 * BARS))
    assert not _grey(path)
    result = upscale(path, tmp_path)
    assert (result.spec.width, result.spec.height) == (128, 64)
    assert _grey(result.path)
    assert [w for w in result.info.warnings if "crops the picture of 64×48 to 64×32" in w]


@pytest.mark.parametrize("box", [_clap(0, 0), _clap(100, 100), _clap(64, 48), _clap(32, 32, right=90), bytes(8)])
def test_a_clean_aperture_without_sense_is_ignored(tmp_path: Path, box: bytes) -> None:
    assert probe(_with_box(_barred(tmp_path / "in.mp4"), box)).video.height == 48


CROPS = {"left": "54cc", "top": "54bb", "right": "54dd", "bottom": "54aa"}


def test_matroskas_crop_is_cut_out(tmp_path: Path) -> None:
    crop = number(CROPS["top"], BARS) + number(CROPS["bottom"], BARS) + number(CROPS["left"], 3)
    result = upscale(write_vp8(tmp_path / "in.webm", picture=_picture, video=crop), tmp_path)
    assert (result.spec.width, result.spec.height) == (122, 64)
    assert _grey(result.path)
    assert [w for w in result.info.warnings if "crops the picture of 64×48 to 61×32" in w]


def _encrypted_mp4(path: Path) -> Path:
    keys = {"encryption_key": 32 * "1", "encryption_kid": 32 * "2", "encryption_scheme": "cenc-aes-ctr"}
    with av.open(str(path), "w", container_options=keys) as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(_picture(index), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _encrypted_matroska(path: Path) -> Path:
    encryption = number("5031", 0) + number("5032", 1) + number("5033", 1) + element("5035", element("47e2", b"key"))
    return write_vp8(path, track=element("6d80", element("6240", encryption)))


def _encrypted_asf(path: Path) -> Path:
    """ASF with an empty Extended Content Encryption Object."""
    data = bytearray(write_clip(path, codec="wmv2", width=64, height=48, container_format="asf").read_bytes())
    mark = bytes.fromhex("14e68a292226174cb935dae07ee9289c") + (26).to_bytes(8, "little") + bytes(2)
    data[30:30] = mark
    struct.pack_into("<QI", data, 16, int.from_bytes(data[16:24], "little") + 26, data[24] + 1)
    path.write_bytes(data)
    return path


def _scrambled_ts(path: Path) -> Path:
    """A transport stream whose video packets have the scrambling control set, and other bytes."""
    plain = write_clip(path.with_suffix(".mp4"), width=64, height=48)
    data = bytearray(as_ts(plain, path).read_bytes())
    for at in range(0, len(data), 188):
        if int.from_bytes(data[at + 1 : at + 3], "big") & 0x1FFF == 0x100:
            data[at + 3] |= 0x80
    path.write_bytes(data)
    return path


def _scrambled_dvd(path: Path) -> Path:
    data = write_clip(path, codec="mpeg2video", width=64, height=48, container_format="vob").read_bytes()
    path.write_bytes(re.sub(rb"(?s)(\x00\x00\x01\xe0..)[\x80-\x8f]", lambda found: found[1] + b"\xb0", data))
    return path


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("in.mp4", _encrypted_mp4),
        ("in.mkv", _encrypted_matroska),
        ("in.wmv", _encrypted_asf),
        ("in.ts", _scrambled_ts),
        ("in.vob", _scrambled_dvd),
    ],
)
def test_encryption_is_named(tmp_path: Path, name: str, make: Callable[[Path], Path]) -> None:
    with pytest.raises(UnusableVideo, match="encrypted"):
        probe(make(tmp_path / name))


@pytest.mark.parametrize("name", ["in.ts", "in.vob", "in.wmv"])
def test_other_files_are_not_encrypted(tmp_path: Path, name: str) -> None:
    codec, container = {"ts": ("mpeg2video", "mpegts"), "vob": ("mpeg2video", "vob"), "wmv": ("wmv2", "asf")}[name[3:]]
    assert probe(write_clip(tmp_path / name, codec=codec, container_format=container, width=64, height=48))


def _record(profile: int, *, enhancement: int = 0, compatible: int = 0) -> bytes:
    """Dolby Vision's configuration record."""
    bits = profile << 9 | 1 << 3 | 1 << 2 | enhancement << 1 | 1
    return struct.pack(">BBHB19x", 1, 0, bits, compatible << 4)


def _dolby_vision(folder: Path, kind: str, record: bytes) -> Path:
    if kind == "mkv":
        mapping = number("41f0", 4) + element("41e7", b"dvcC") + element("41ed", record)
        return write_vp8(folder / "in.mkv", track=element("41e4", mapping))
    return _with_box(_barred(folder / "in.mp4"), struct.pack(">I4s", 8 + len(record), b"dvcC") + record)


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_dolby_vision_without_a_common_base_layer_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UnusableVideo, match="Dolby Vision profile 5"):
        probe(_dolby_vision(tmp_path, kind, _record(5)))


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
@pytest.mark.parametrize(("profile", "enhancement", "compatible"), [(7, 1, 6), (8, 0, 1), (10, 0, 1)])
def test_other_dolby_vision_keeps_its_base_layer(
    tmp_path: Path, kind: str, profile: int, enhancement: int, compatible: int
) -> None:
    record = _record(profile, enhancement=enhancement, compatible=compatible)
    warnings = probe(_dolby_vision(tmp_path, kind, record)).warnings
    assert "Dolby Vision metadata is dropped; the base layer is kept." in warnings
    assert ("The enhancement layer of Dolby Vision is dropped." in warnings) == bool(enhancement)


@pytest.mark.parametrize(("profile", "full_range", "refused"), [(0, 1, True), (0, 0, False), (1, 1, False)])
def test_dolby_vision_without_a_header_is_known_by_its_frames(profile: int, full_range: int, refused: bool) -> None:
    """libav's AVDOVIMetadata: offset of AVDOVIRpuDataHeader, and the header."""
    header = bytearray(20)
    header[4], header[10] = profile, full_range
    metadata = struct.pack("=Q", 48) + bytes(40) + header
    if not refused:
        check_dolby_vision(None, metadata)
        return
    with pytest.raises(UnusableVideo, match="Dolby Vision profile 5"):
        check_dolby_vision(None, metadata)
