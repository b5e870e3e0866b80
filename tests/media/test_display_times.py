"""Display times: right ones stay, decoding times are sorted, wrong ones are filled between their neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Final

import av
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from media.demux.display_times import DisplayTimes
from media.demux.timestamps import decoding_times, reorder_depth
from media.jailed.decode import Decoder
from media.ledger import TrackLedger
from media.limits import DEFAULT_LIMITS
from tests.support.media import stripes

quick: Final = settings(max_examples=60, deadline=None)

STEP: Final = 40
UNIT: Final = Fraction(1, 1000)


def groups(b_frames: int, pyramid: bool) -> list[int]:
    """Display places of one group in coding order: the last frame first, then the frames before."""
    between = list(range(b_frames))
    if pyramid and b_frames > 2:
        middle = b_frames // 2
        between = [middle, *range(middle), *range(middle + 1, b_frames)]
    return [b_frames, *between]


def coding_order(count: int, structure: Sequence[tuple[int, bool]]) -> list[int]:
    """Display places of `count` frames in coding order: a first frame, then groups with B-frames."""
    order, at, number = [0], 1, 0
    while at < count:
        b_frames, pyramid = structure[number % len(structure)]
        b_frames = min(b_frames, count - at - 1)
        order += [at + place for place in groups(b_frames, pyramid)]
        at, number = at + b_frames + 1, number + 1
    return order


def stamped(
    order: Sequence[int], pts: Sequence[int | None], dts: Sequence[int | None], **options: Any
) -> tuple[list[int], TrackLedger, bool]:
    """Times of the frames in display order. `pts` and `dts` belong to the packets in coding order."""
    track = TrackLedger()
    times = DisplayTimes[int](UNIT, STEP, track, **options)
    out: list[tuple[int, int]] = []
    depth = reorder_depth(order)
    ready, shown = set[int](), 0
    numbers = {}
    for place, own, decoding in zip(order, pts, dts, strict=True):
        numbers[place] = times.coded(own, decoding)
        ready.add(place)
        while shown in ready and (len(ready) - shown > depth or len(ready) == len(order)):
            out += times.shown(shown, numbers[shown], pts[numbers[shown]], depth)
            shown += 1
    for place in range(shown, len(order)):
        out += times.shown(place, numbers[place], pts[numbers[place]], depth)
    out += times.rest()
    assert [frame for frame, _ in out] == sorted(order)
    return [time for _, time in out], track, times.exact


structures = st.lists(st.tuples(st.integers(0, 7), st.booleans()), min_size=1, max_size=4)
steps = st.lists(st.integers(1, 3000), min_size=1, max_size=60)


@quick
@given(structures, steps, st.integers(-5000, 5000))
def test_right_times_stay(structure: list[tuple[int, bool]], gaps: list[int], begin: int) -> None:
    display = list(accumulate([begin, *gaps]))
    order = coding_order(len(display), structure)
    pts = [display[place] for place in order]
    times, track, exact = stamped(order, pts, decoding_times(pts, reorder_depth(pts)))
    assert times == display
    assert track.flawless
    assert exact


@quick
@given(structures, st.integers(20, 80), st.sampled_from([1, 33, STEP]), st.booleans(), st.integers(0, 100))
def test_decoding_times_become_even(
    structure: list[tuple[int, bool]], count: int, step: int, avi: bool, begin: int
) -> None:
    order = coding_order(count, structure)
    display = [begin + step * place for place in range(count)]
    guesses = [time + 1 for time in display] if avi else display
    times, track, _ = stamped(order, guesses, display, decoding_times=avi)
    if step == STEP or max(b for b, _ in structure) == 0:
        assert times == display
    assert times[: count - 16] == display[: count - 16]
    assert track.repaired_times == 0


@quick
@given(structures, st.integers(20, 60), st.data())
def test_one_wrong_time_is_filled_between_its_neighbours(
    structure: list[tuple[int, bool]], count: int, data: st.DataObject
) -> None:
    order = coding_order(count, structure)
    display = [STEP * place for place in range(count)]
    wrong = data.draw(st.integers(1, count - 2))
    value = data.draw(st.sampled_from([None, 0, STEP * (wrong - 1), STEP * (wrong + 1), 10**7, -(10**7)]))
    pts = [value if place == wrong else display[place] for place in order]
    dts: list[int | None] = [STEP * number for number in range(count)]
    times, track, _ = stamped(order, pts, dts)
    assert len([1 for a, b in zip(times, display, strict=True) if a != b]) <= 1
    assert all(b - a >= STEP // 2 for a, b in pairwise(times))
    assert track.repaired_times == 1
    assert track.restarts == 0


@quick
@given(st.lists(st.one_of(st.none(), st.integers(-(10**6), 10**6)), max_size=60), structures, st.booleans())
def test_any_times_become_increasing_ones(
    values: list[int | None], structure: list[tuple[int, bool]], avi: bool
) -> None:
    order = coding_order(len(values), structure)[: len(values)]
    times, _, _ = stamped(order, values, values, decoding_times=avi)
    assert all(a < b for a, b in pairwise(times))


@quick
@given(structures, st.integers(12, 40), st.integers(12, 40))
def test_times_that_start_over_follow_the_earlier_ones(
    structure: list[tuple[int, bool]], first: int, second: int
) -> None:
    parts = [coding_order(first, structure), coding_order(second, structure)]
    order = parts[0] + [first + place for place in parts[1]]
    pts = [5000 + STEP * place for place in parts[0]] + [STEP * place for place in parts[1]]
    times, track, _ = stamped(order, pts, [None] * len(pts))
    assert times == [5000 + STEP * place for place in range(first + second)]
    assert track.restarts == 1
    assert track.repaired_times == 0


def test_a_wrong_time_in_a_remuxed_file() -> None:
    """As in a public file: the second coded picture, shown fifth, has the time of another."""
    order = [0, 4, 2, 1, 3, 8, 6, 5, 7]
    pts = [0, 133, 113, 79, 146, 313, 246, 213, 279]
    times, track, _ = stamped(order, pts, [None] * 9)
    assert times == [0, 79, 113, 146, 180, 213, 246, 279, 313]
    assert track.repaired_times == 1


def test_a_first_empty_sample_is_no_longer_step() -> None:
    """As in a public AVI file, whose second sample is empty because the encoder's delay is two frames."""
    order = coding_order(21, [(3, True)])
    times, _, _ = stamped(order, [None] * 21, [0, *range(2, 22)], decoding_times=True)
    assert all(b - a == 1 for a, b in pairwise(times[:-2]))


BASES: Final = (Fraction(1, 25), Fraction(1001, 30000), Fraction(1, 1000), Fraction(1, 90000))
CODECS: Final = (
    ("libx264", {"bf": "0"}),
    ("libx264", {"bf": "1", "b-adapt": "0"}),
    ("libx264", {"bf": "3", "b-adapt": "0", "b-pyramid": "normal"}),
    ("libx264", {"bf": "5", "b-adapt": "0", "x264-params": "open-gop=1"}),
    ("mpeg4", {"bf": "0"}),
    ("mpeg4", {"bf": "2"}),
    ("mpeg2video", {"bf": "2"}),
)
SUFFIXES: Final = ("mp4", "mov", "mkv", "avi", "flv", "ts", "nut", "wmv")


def write(path: Path, codec: str, options: dict[str, str], base: Fraction, *, drop_pts: bool) -> list[Fraction]:
    """Write 30 frames at 25/s, or in steps of 1001 units. Returns the frames' times."""
    step = 1 if base.numerator > 1 else max(1, round(Fraction(1, 25) / base))
    scale = {"video_track_timescale": str(base.denominator)} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", container_options=scale) as container:
        video: Any = container.add_stream(codec, rate=1 / (base * step), options={"g": "12", **options})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = base
        packets: list[Any] = []
        for index in range(30):
            frame = av.VideoFrame.from_ndarray(stripes(index, 64, 48), format="rgb24")
            frame.pts, frame.time_base = step * index, base
            packets += video.encode(frame)
        packets += video.encode(None)
        begin = packets[0].dts
        for packet in packets:
            if drop_pts:
                packet.dts -= begin
                packet.pts = packet.dts
            container.mux(packet)
    return [step * base * index for index in range(30)]


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(codec=st.sampled_from(CODECS), base=st.sampled_from(BASES), drop_pts=st.booleans())
def test_every_container_gives_even_times(
    tmp_path: Path, suffix: str, codec: tuple[str, dict[str, str]], base: Fraction, drop_pts: bool
) -> None:
    path = tmp_path / f"clip.{suffix}"
    try:
        expected = write(path, *codec, base, drop_pts=drop_pts)
    except (av.error.FFmpegError, ValueError):
        return  # the container does not hold the codec
    decoder = Decoder(path, DEFAULT_LIMITS)
    frames = list(decoder.frames())
    times = [frame.pts * frame.time_base for frame in frames]
    unit = frames[0].time_base
    assert len(times) == 30
    offset = times[0] - expected[0]
    assert all(abs(a - b - offset) <= unit for a, b in zip(times, expected, strict=True)), codec
    assert decoder.track.repaired_times == 0
    assert decoder.track.missing == {}
    if not drop_pts and suffix in ("mp4", "mov", "mkv"):
        assert abs(offset) <= unit
    if suffix in ("avi", "wmv"):
        reordered = codec[0] == "libx264" and codec[1]["bf"] != "0"
        assert abs(offset - (times[1] - times[0] if reordered else 0)) <= unit
