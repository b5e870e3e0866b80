"""A reading that resumes in the middle gives the same bits as one from the start, and decodes few other frames."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from media.jailed.decode import Decoder
from media.limits import DEFAULT_LIMITS
from media.reader import Frame, VideoReader
from tests.support.media import write_clip

VFR = tuple(int(t) for t in np.cumsum([40, 7, 83, 1, 269, 33, 34] * 6)[:40])

OPEN_GOP = {"x264-params": "open-gop=1:keyint=8:min-keyint=8:bframes=3:scenecut=0"}
CLIPS: dict[str, dict[str, object]] = {
    "b-frames": {"options": {"g": "10", "bf": "3"}},
    "b-frames mkv": {"options": {"g": "10", "bf": "3"}, "suffix": "mkv"},
    "open groups": {"options": OPEN_GOP},
    "open groups mkv": {"options": OPEN_GOP, "suffix": "mkv"},
    "open groups hevc": {
        "codec": "libx265",
        "options": {"x265-params": "log-level=none:keyint=8:min-keyint=8:open-gop=1:bframes=3"},
        "width": 64,
        "height": 64,
    },
    "vfr": {"times": VFR, "unit": Fraction(1, 1000), "options": {"g": "6", "bf": "2"}},
    "vfr mkv": {"times": VFR, "unit": Fraction(1, 1000), "options": {"g": "6", "bf": "2"}, "suffix": "mkv"},
    "late start": {"times": tuple(range(500, 540)), "options": {"g": "7"}},
    "mpeg-4": {"codec": "mpeg4", "options": {"g": "9", "bf": "2"}},
    "mpeg-2 mkv": {"codec": "mpeg2video", "options": {"g": "9", "bf": "2"}, "suffix": "mkv"},
    "av1": {"codec": "libsvtav1", "options": {"g": "8", "preset": "12"}, "width": 64, "height": 64},
    "vp9 webm": {"codec": "libvpx-vp9", "options": {"g": "8", "deadline": "realtime"}, "suffix": "webm"},
    "ten bits": {"pixel_format": "yuv420p10le", "options": {"g": "10", "bf": "3"}},
    "one keyframe": {"options": {"g": "1000"}},
}
"""Forty frames each. All but the last clip have several groups of pictures."""


def make(folder: Path, name: str) -> Path:
    spec = {"times": tuple(range(40)), **CLIPS[name]}
    return write_clip(folder / f"clip.{spec.pop('suffix', 'mp4')}", **spec)  # type: ignore[arg-type]


def read(path: Path, after: int | None = None, before: int | None = None) -> list[Frame]:
    with VideoReader(path, start_after_pts=after, frames_before=before) as reader:
        frames = list(reader)
        assert reader.warnings == ()
        assert reader.video.written.frames == len(frames) + (before or 0)
    return frames


def decoded_in_vain(path: Path, after: int, before: int) -> int:
    """Number of frames that were decoded and skipped."""
    frames = Decoder(path, DEFAULT_LIMITS, start_after_pts=after, frames_before=before).frames()
    return sum(1 for frame in frames if frame.rgb is None)


@pytest.mark.parametrize("name", CLIPS)
def test_resuming_gives_the_rest_exactly(tmp_path: Path, name: str) -> None:
    clip = make(tmp_path, name)
    every = read(clip)
    assert len(every) == 40
    assert all(frame.clean for frame in every)
    for count in (1, 8, 9, 17, 30, 39):
        rest = read(clip, every[count - 1].pts, count)
        assert [frame.pts for frame in rest] == [frame.pts for frame in every[count:]]
        assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(rest, every[count:], strict=True)), count
        in_vain = decoded_in_vain(clip, every[count - 1].pts, count)
        most = count if name == "one keyframe" else 17
        assert 1 <= in_vain <= most, "decoding began at the last keyframe, or the one before"


def test_inexact_seeking_falls_back_to_the_start(tmp_path: Path) -> None:
    """libav searches MPEG-TS by bytes, and the frames of a raw stream have no timestamps."""
    for name, muxer in (("clip.ts", "mpegts"), ("clip.h264", "h264")):
        clip = write_clip(tmp_path / name, times=range(24), options={"g": "6"}, container_format=muxer)
        with VideoReader(clip) as reader:
            every = list(reader)
        with VideoReader(clip, start_after_pts=every[14].pts, frames_before=15) as reader:
            rest = list(reader)
        assert [f.pts for f in rest] == [f.pts for f in every[15:]]
        assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(rest, every[15:], strict=True))
        assert decoded_in_vain(clip, every[14].pts, 15) == 15


def test_resuming_after_a_change_of_size_keeps_the_first_size(tmp_path: Path) -> None:
    parts = [
        write_clip(tmp_path / f"{number}.ts", times=range(12 * number, 12 * number + 12), width=w, height=h)
        for number, (w, h) in enumerate([(64, 48), (96, 80)])
    ]
    clip = tmp_path / "clip.ts"
    clip.write_bytes(b"".join(part.read_bytes() for part in parts))
    with VideoReader(clip) as reader:
        every = list(reader)
    assert {frame.rgb.shape for frame in every} == {(48, 64, 3)}
    for count in (6, 12, 18):
        with VideoReader(clip, start_after_pts=every[count - 1].pts, frames_before=count) as reader:
            rest = list(reader)
        assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(rest, every[count:], strict=True)), count
        assert [w for w in reader.warnings if "12 frames were scaled" in w]


def test_resuming_after_a_timestamp_without_a_frame(tmp_path: Path) -> None:
    clip = make(tmp_path, "vfr")
    every = read(clip)
    after = every[20].pts + 1
    assert after < every[21].pts
    with VideoReader(clip, start_after_pts=after, frames_before=21) as reader:
        assert [frame.pts for frame in reader] == [frame.pts for frame in every[21:]]


def test_interlaced_and_damaged_video_is_not_clean(tmp_path: Path) -> None:
    """Deinterlacing and error concealment depend on previous frames, so resuming by seeking is not exact."""
    fields = write_clip(
        tmp_path / "fields.mp4",
        options={"x264-params": "interlaced=1:tff=1", "g": "6"},
        width=64,
        height=64,
        times=range(24),
    )
    with VideoReader(fields) as reader:
        every = list(reader)
    assert not any(frame.clean for frame in every)
    # If a caller claims a clean frame, the rest is still that of an uninterrupted reading.
    with VideoReader(fields, start_after_pts=every[13].pts, frames_before=14) as reader:
        rest = list(reader)
    assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(rest, every[14:], strict=True))

    whole = write_clip(tmp_path / "whole.mp4", options={"g": "8"}, times=range(32), width=64, height=48)
    data = bytearray(whole.read_bytes())
    start, end = data.index(b"mdat") + 4, len(data)
    middle = (start + end) // 2
    if data.index(b"moov") > start:
        end = data.index(b"moov")
        middle = (start + end) // 2
    data[middle : middle + 300] = bytes(300)
    whole.write_bytes(data)
    with VideoReader(whole) as reader:
        every = list(reader)
        assert reader.warnings != ()
    assert every[0].clean
    assert not every[-1].clean
