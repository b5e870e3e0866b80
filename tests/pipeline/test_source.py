"""The border between jobs and media: limits, facts and errors, without torch."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from jobs.errors import DecoderFailed, SkipVsrError, TooLarge, UnsupportedMedia, UnusableVideo
from jobs.settings import Settings
from media import errors
from media.probe import probe
from media.spec import output_spec
from pipeline.source import media_limits, stream_facts, user_error, user_errors
from tests.support.clips import make_clip
from tests.support.paths import ROOT


def test_limits_follow_the_settings(settings: Settings) -> None:
    changed = settings.model_copy(update={"max_pixels": 1234, "max_decoder_seconds": 5.0})
    limits = media_limits(changed)
    assert (limits.max_pixels, limits.max_decoder_seconds) == (1234, 5.0)
    assert limits.max_frames == settings.max_frames


def test_the_facts_of_a_result_use_the_names_of_its_specification(tmp_path: Path) -> None:
    info = probe(make_clip(tmp_path / "clip.mp4", frames=6, sound=True), target="mkv")
    facts = stream_facts(info)
    assert (facts.codec, facts.width, facts.height, facts.frames, facts.audio) == ("h264", 32, 24, 6, ["aac"])
    result = stream_facts(info, output_spec(info, codec="hevc"))
    assert (result.container, result.codec) == ("mkv", "hevc")
    assert (stream_facts(info, frames=7).frames, stream_facts(info, frame_rate=Fraction(5, 2)).frame_rate) == (7, 2.5)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.UnsupportedFile("no video"), UnsupportedMedia),
        (errors.OverLimit("too many pixels", setting="max_pixels"), TooLarge),
        (errors.UnusableVideo("no frames"), UnusableVideo),
        (errors.DecoderCrashed("the decoder crashed"), DecoderFailed),
    ],
)
def test_errors_of_media_get_a_status_and_keep_their_message(
    error: errors.MediaError, expected: type[SkipVsrError]
) -> None:
    converted = user_error(error)
    assert type(converted) is expected
    assert str(converted) == str(error)
    with pytest.raises(expected) as raised, user_errors():
        raise error
    assert raised.value.__cause__ is error


def test_the_module_works_without_torch() -> None:
    script = "import sys, pipeline.source; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
