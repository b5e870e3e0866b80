"""Side data that the result can't hold causes a warning, wherever in the video it begins."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import av
import pytest

from media.probe import probe
from tests.support.media import upscale, write_clip

_CAPTIONS = bytes([0xB5, 0, 0x31]) + b"GA94" + bytes([3, 0x41, 0xFF, 0xFC, 0x94, 0x2C, 0xFF])
_SEI = b"\0\0\0\1\x06\x04" + bytes([len(_CAPTIONS)]) + _CAPTIONS + b"\x80"


def _with_captions(path: Path, at: int) -> Path:
    """Raw H.264 with CEA-708 captions at its `at`-th picture."""
    data = write_clip(path, container_format="h264", options={"bf": "0"}).read_bytes()
    slices = [found.start() for found in re.finditer(rb"\x00\x00\x01[\x41\x65]", data)]
    assert len(slices) == 12
    place = slices[at] - (data[slices[at] - 1] == 0)
    path.write_bytes(data[:place] + _SEI + data[place:])
    return path


@pytest.mark.parametrize("at", [0, 7])
def test_captions_inside_the_picture_are_named(tmp_path: Path, at: int) -> None:
    result = upscale(_with_captions(tmp_path / "in.h264", at), tmp_path)
    assert [w for w in result.warnings if "CEA-608/708" in w], "the warning appears at the end at the latest"
    assert len([w for w in result.warnings if "dropped" in w]) == 1
    assert any("CEA-608/708" in w for w in result.info.warnings) == (at == 0), (
        "and before the start if the first frame has captions"
    )


def test_stereoscopic_pictures_are_named(tmp_path: Path) -> None:
    result = upscale(write_clip(tmp_path / "in.mp4", options={"x264-params": "frame-packing=3"}), tmp_path)
    assert [w.split(" is ")[0] for w in result.warnings] == ["The stereoscopic (3D) picture"]
    assert result.info.warnings == result.warnings


@pytest.mark.parametrize(("orientation", "degrees"), [(1, 0), (3, 180), (6, 90), (8, 270)])
def test_side_data_unknown_to_pyav_is_harmless(tmp_path: Path, orientation: int, degrees: int) -> None:
    """EXIF, which rotates the picture."""
    plain = write_clip(tmp_path / "plain.mov", codec="mjpeg", pixel_format="yuvj420p", times=range(3))
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x112, 3, 1, orientation, 0)
    path = tmp_path / "in.mov"
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(video=0):
            if packet.size:
                jpeg = bytes(packet)
                copy = av.Packet(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.stream, copy.duration = stream, packet.duration
                target.mux(copy)
    result = upscale(path, tmp_path)
    assert len(result.times) == 3
    assert probe(path).video.rotation == probe(result.path).video.rotation == degrees
