"""The encoder's rate comes from the frames where the header's is no usual one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from media.demux.rate import DEFAULT_RATE, is_usual, nominal_rate
from media.probe import probe
from media.spec import output_spec
from tests.support.media import upscale, write_clip


@pytest.mark.parametrize(
    ("header", "step", "unit", "right"),
    [
        (None, 40, Fraction(1, 1000), Fraction(25)),
        (Fraction(600), 2, Fraction(1, 1000), DEFAULT_RATE),
        (Fraction(62, 1000), 3000, Fraction(1, 90000), Fraction(30)),
        (Fraction(240), 4, Fraction(1, 1000), Fraction(240)),
        (Fraction(240), 1, Fraction(1, 240), Fraction(240)),
        (Fraction(1), 1000, Fraction(1, 1000), Fraction(1)),
        (Fraction(30000, 1001), 33, Fraction(1, 1000), Fraction(30000, 1001)),
        (Fraction(5000), 1, Fraction(1, 5000), DEFAULT_RATE),
    ],
)
def test_the_rate_is_that_of_the_frames(header: Fraction | None, step: int, unit: Fraction, right: Fraction) -> None:
    assert nominal_rate(header, [step * place for place in range(20)], unit) == right


def test_the_header_is_trusted_where_it_is_usual_or_alone() -> None:
    assert is_usual(Fraction(24000, 1001))
    assert not is_usual(Fraction(600))
    assert not is_usual(None)
    assert nominal_rate(Fraction(5), [0], Fraction(1, 1000)) == 5
    assert nominal_rate(Fraction(600), [0], Fraction(1, 1000)) == DEFAULT_RATE


def test_squeezed_times_do_not_cost_quality(tmp_path: Path) -> None:
    """Thirty frames in 50 ms get as many bits as thirty frames in a second."""
    sizes = []
    for unit in (Fraction(1, 600), Fraction(1, 25)):
        clip = write_clip(tmp_path / "clip.mp4", times=range(30), unit=unit, width=64, height=48)
        result = upscale(clip, tmp_path, chunk=30)
        sizes.append(sum(len(path.read_bytes()) for path in result.segments))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_long_holds_do_not_slow_the_rate_down(tmp_path: Path) -> None:
    times = [0, *range(42000, 42000 + 20 * 4, 4), 102_200]
    clip = write_clip(tmp_path / "clip.mp4", times=times, unit=Fraction(1, 100))
    info = probe(clip)
    assert info.video.frame_rate is not None
    assert info.video.frame_rate < 1
    assert output_spec(info).frame_rate == info.video.frame_rate
    assert output_spec(info).encoder_rate == 25
