"""The finished result is compared with what was handed to the muxer."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from media.errors import Unwritable
from media.jailed import verify
from media.jailed.verify import Promise, Verification
from tests.support.media import upscale, write_clip


def _sound(target: Any) -> Any:
    return [(target.add_stream("aac", rate=48000, layout="mono"), 0)]


def _name(target: Any, video: Any) -> None:
    target.metadata["title"] = "A title"
    target.streams.audio[0].metadata["language"] = "fra"


VIDEO = Promise("The video", "video", 12, Fraction(0), Fraction(12, 25), None, Fraction(25))
SOUND = Promise("Audio track 1", "audio", 24, Fraction(0), Fraction(1, 2), "fra")


@pytest.fixture(scope="module", params=["mp4", "mkv", "webm"])
def result(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    source = write_clip(folder / "in.mkv", tone=_sound, prepare=_name)
    done = upscale(source, folder, container=request.param)
    assert [warning for warning in done.warnings if "converted" not in warning] == []
    return done.path


def _said(path: Path, *promises: Promise, tags: dict[str, str] | None = None) -> list[str]:
    check = Verification(path, dict(enumerate(promises)), tags or {"TITLE": "A title", "empty": ""})
    list(check)
    return check.warnings


def test_what_was_kept_needs_no_word(result: Path) -> None:
    assert _said(result, VIDEO, SOUND) == []


def test_differences_are_named(result: Path) -> None:
    assert _said(result, replace(VIDEO, packets=13), SOUND) == ["The result has 12 of 13 frames."]
    assert _said(result, VIDEO, SOUND, SOUND) == ["Audio track 1 is missing in the result."]
    (late,) = _said(result, VIDEO, replace(SOUND, begin=Fraction(-1)))
    assert "too late in the result" in late
    (short,) = _said(result, VIDEO, replace(SOUND, seconds=Fraction(2)))
    assert short.startswith("Audio track 1 lasts 0.")
    assert short.endswith(" s in the result, not 2.000 s.")
    assert _said(result, VIDEO, replace(SOUND, language="deu")) == [
        "Audio track 1 has the language fra in the result, not deu."
    ]
    assert _said(result, VIDEO, SOUND, tags={"artist": "Somebody", "Date": "2001", "title": "A title"}) == [
        "The result lacks 2 tags of the file: Date, artist."
    ]
    rate = _said(result, replace(VIDEO, frame_rate=Fraction(30)), SOUND)
    stated = ["The result states 25.000 frames a second, not 30.000."]
    assert rate == (stated if result.suffix == ".mp4" else []), "Matroska states a duration of frames instead"


def test_a_result_without_half_of_the_frames_is_refused(result: Path) -> None:
    with pytest.raises(Unwritable, match="12 of 25 frames"):
        _said(result, replace(VIDEO, packets=25), SOUND)


def test_a_result_that_is_no_video_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "result.mp4"
    broken.write_bytes(b"\0" * 1000)
    with pytest.raises(Unwritable, match=r"can't be read again \([a-z ]+\)\."):
        _said(broken, VIDEO)


def test_only_the_beginning_of_a_long_file_is_read(result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_READ_BYTES", 100)
    monkeypatch.setattr(verify, "_FIRST_PACKETS", 3)
    assert _said(result, VIDEO, SOUND) == []
    check = Verification(result, {0: replace(VIDEO, begin=Fraction(0)), 1: replace(SOUND, begin=Fraction(-1))}, {})
    assert len(list(check)) == (0 if result.suffix == ".mp4" else 3)
    assert any("too late" in warning for warning in check.warnings)


def test_sound_that_cannot_be_converted_is_named(tmp_path: Path) -> None:
    def announce(target: Any, video: Any) -> None:
        """A track of packets that no decoder takes."""
        stream = target.add_stream("ac3", rate=44100, layout="stereo")
        for number in range(10):
            packet: Any = av.Packet(b"\xff" * 50)
            packet.stream, packet.pts, packet.dts, packet.duration = stream, number * 2048, number * 2048, 2048
            packet.time_base = Fraction(1, 44100)
            target.mux(packet)

    source = write_clip(tmp_path / "in.nut", prepare=announce)
    warnings = upscale(source, tmp_path, container="webm").warnings
    assert any("could not be converted" in warning or "lasts" in warning for warning in warnings), warnings
