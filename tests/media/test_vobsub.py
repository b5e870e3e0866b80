"""VobSub subtitles keep palette, pictures, and the size of their plane."""

from __future__ import annotations

import dataclasses
import re
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from media.boxes import Box, read_outer_box
from media.jailed.mp4_header import Mp4Header, finish
from media.probe import probe
from media.tracks.vobsub import mp4_description
from tests.support.media import packets, upscale, write_clip

PALETTE = ["000000", "0000fe", "00fe00", "fc0000", "fefe00", "fefefe", *["828282"] * 10]


def _with_vobsub(path: Path) -> Path:
    """A Matroska file with VobSub subtitles, whose header has a palette and no size."""

    def add(target: Any, video: Any) -> None:
        text = target.add_stream("dvdsub", options={"palette": ",".join(PALETTE)})
        text.time_base, text.metadata["language"] = Fraction(1, 1000), "eng"
        line: Any = av.Packet(bytes(range(40)))
        line.stream, line.time_base, line.pts, line.dts, line.duration = text, Fraction(1, 1000), 40, 40, 200
        target.mux(line)

    return write_clip(path, prepare=add)


def _as_mp4(source: Path, path: Path, plane: tuple[int, int]) -> Path:
    with av.open(str(source)) as original, av.open(str(path), "w") as target:
        tracks = [target.add_stream_from_template(stream, opaque=True) for stream in original.streams]
        for packet in original.demux():
            if packet.size:
                packet.stream = tracks[packet.stream_index]
                target.mux(packet)
        found = mp4_description(original, original.streams.subtitles[0])
    assert found is not None
    list(finish(path, Mp4Header(vobsubs={1: dataclasses.replace(found, plane=plane)})))
    return path


def _track(path: Path) -> Box:
    with path.open("rb") as file:
        return [box for box in read_outer_box(file, b"moov").inner if box.name == b"trak"][1]


def _size(track: Box) -> list[int]:
    header = track.find(b"tkhd")
    assert header is not None
    return [side >> 16 for side in struct.unpack(">2I", header.fields[-8:])]


def _sample_entry(track: Box) -> bytes:
    entries = track.find(b"mdia", b"minf", b"stbl", b"stsd")
    assert entries is not None
    return bytes(entries.inner[0])


def _header(path: Path) -> str:
    with av.open(str(path)) as container:
        return (container.streams.subtitles[0].codec_context.extradata or b"").decode()


def _colors(path: Path) -> list[int]:
    palette = _header(path).partition("palette:")[2]
    return [int(color[at : at + 2], 16) for color in re.findall("[0-9a-f]{6}", palette) for at in (0, 2, 4)]


def test_matroska_to_mp4(tmp_path: Path) -> None:
    source = _with_vobsub(tmp_path / "in.mkv")
    result = upscale(source, tmp_path, container="mp4")
    assert result.warnings == ()
    track = _track(result.path)
    assert _size(track) == [720, 480], "a DVD's, because the source has none"
    assert b"palette" not in _sample_entry(track), "MP4's palette is no text"
    assert packets(result.path, "subtitles") == packets(source, "subtitles")
    assert max(abs(a - b) for a, b in zip(_colors(source), _colors(result.path), strict=True)) <= 2
    assert probe(source, target="auto").target == "mkv"


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_mp4_keeps_the_size_of_the_plane(tmp_path: Path, container: str) -> None:
    source = _as_mp4(_with_vobsub(tmp_path / "in.mkv"), tmp_path / "in.mp4", (1280, 720))
    result = upscale(source, tmp_path, container=container)
    assert result.warnings == ()
    assert packets(result.path, "subtitles") == packets(source, "subtitles")
    assert _colors(result.path) == _colors(source)
    if container == "mp4":
        assert _size(_track(result.path)) == [1280, 720]
        assert _sample_entry(_track(result.path)) == _sample_entry(_track(source))
    else:
        assert _header(result.path).startswith("size: 1280x720\n")
        again = upscale(result.path, tmp_path, container="mp4")
        assert _size(_track(again.path)) == [1280, 720]
