"""Sound, subtitles and attachments are copied if the container can hold them, else converted or dropped."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from media.boxes import read_outer_box
from media.probe import probe
from media.tracks.cue_merger import Cue, CueMerger
from media.tracks.languages import three_letters
from media.tracks.subtitles import plain_text
from tests.support.media import packets, upscale, with_subtitles, write_clip


def _sound(codec: str, rate: int = 48000) -> Any:
    return lambda target: [(target.add_stream(codec, rate=rate, layout="mono"), 0)]


@pytest.mark.parametrize("codec", ["aac", "libmp3lame", "ac3", "flac", "libopus", "pcm_s16le"])
def test_sound_of_mp4_codecs_is_copied(tmp_path: Path, codec: str) -> None:
    source = write_clip(tmp_path / "in.mkv", tone=_sound(codec))
    result = upscale(source, tmp_path)
    assert result.warnings == ()
    before, after = packets(source, "audio"), packets(result.path, "audio")
    assert [data for _, data in before] == [data for _, data in after]
    # Matroska counts milliseconds.
    assert max(abs(a - b) for (a, _), (b, _) in zip(before, after, strict=True)) <= Fraction(1, 1000)


@pytest.mark.parametrize("codec", ["adpcm_ms", "pcm_mulaw", "pcm_u8"])
def test_other_sound_is_converted_and_reported(tmp_path: Path, codec: str) -> None:
    source = write_clip(tmp_path / "in.avi", codec="mpeg4", tone=_sound(codec, 16000))
    result = upscale(source, tmp_path)
    assert len(result.warnings) == 1
    assert "converted to aac" in result.warnings[0]
    assert result.info.warnings == result.warnings, "the warning appears before the job starts"
    (track,) = probe(result.path).audio
    assert (track.codec, track.sample_rate, track.channels) == ("aac", 16000, 1)
    with av.open(str(source)) as a, av.open(str(result.path)) as b:
        lengths = [sum(frame.samples for frame in container.decode(audio=0)) for container in (a, b)]
    assert abs(lengths[0] - lengths[1]) <= 2048


@pytest.mark.parametrize(
    ("codec", "rate", "layout", "container", "becomes"),
    [
        ("ac3", 48000, "5.1(side)", "webm", ("opus", 48000, 6)),  # a layout that libopus refuses
        ("libmp3lame", 11025, "mono", "mp4", ("aac", 11025, 1)),  # a rate at which mp4 refuses mp3
        ("flac", 192000, "stereo", "mov", ("alac", 192000, 2)),  # a codec that mov refuses: no loss of samples
    ],
)
def test_sound_that_the_muxer_refuses_late_is_converted(
    tmp_path: Path, codec: str, rate: int, layout: str, container: str, becomes: tuple[str, int, int]
) -> None:
    source = write_clip(
        tmp_path / "in.mkv", tone=lambda target: [(target.add_stream(codec, rate=rate, layout=layout), 0)]
    )
    result = upscale(source, tmp_path, container=container)
    assert [f"converted to {becomes[0]}" in warning for warning in result.info.warnings] == [True]
    (track,) = probe(result.path).audio
    assert (track.codec, track.sample_rate, track.channels) == becomes


@pytest.mark.parametrize(("rate", "layout"), [(48000, "mono"), (44100, "stereo"), (32000, "mono")])
def test_converted_sound_may_change_on_the_way(tmp_path: Path, rate: int, layout: str) -> None:
    """A broadcast changes from stereo to mono, or to another rate."""
    parts = []
    for begins, (hertz, channels) in zip((0, 13), ((48000, "stereo"), (rate, layout)), strict=True):

        def tone(target: Any, begins: int = begins, hertz: int = hertz, channels: str = channels) -> Any:
            return [(target.add_stream("mp2", rate=hertz, layout=channels), begins * hertz // 25)]

        part = tmp_path / f"{begins}.ts"
        parts.append(write_clip(part, times=range(begins, begins + 12), container_format="mpegts", tone=tone))
    source = tmp_path / "in.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    result = upscale(source, tmp_path, container="webm")
    with av.open(str(result.path)) as container:
        samples = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    assert abs(samples.shape[1] - 48000) < 4800, "one second, half of it from each part"
    for half in (samples[:, 5000:20000], samples[:, 30000:45000]):
        assert (np.abs(half).max(1) > 0.1).all()
    times = [time for time, _ in packets(result.path, "audio")]
    assert max(b - a for a, b in itertools.pairwise(times)) < Fraction(1, 10)


def test_subtitles_become_text_of_mp4(tmp_path: Path) -> None:
    result = upscale(with_subtitles(tmp_path / "in.mkv"), tmp_path)
    assert [w.split(" is ")[0] for w in result.warnings] == [
        "Subtitle track 1 (subrip)",
        "The attachment font.ttf",
    ]
    info = probe(result.path)
    assert [(s.codec, s.language) for s in info.subtitles] == [("mov_text", "fra")]
    said = [(time, plain_text("mov_text", data)) for time, data in packets(result.path, "subtitles")]
    assert [line for line in said if line[1]] == [
        (Fraction(40, 1000), "Hello"),
        (Fraction(280, 1000), "Second line\nand third"),
    ]


@pytest.mark.parametrize("container", ["mp4", "mov"])
@pytest.mark.parametrize("sound", [None, _sound("aac")])
def test_subtitles_that_overlap_are_shown_together(tmp_path: Path, container: str, sound: Any) -> None:
    lines = [(500, 2500, "A"), (1000, 1000, "B"), (4000, 500, "C")]
    source = with_subtitles(tmp_path / "in.mkv", font=False, lines=lines, tone=sound)
    result = upscale(source, tmp_path, container=container)
    with av.open(str(result.path)) as opened:
        said = [
            (p.pts * p.time_base, p.duration * p.time_base, plain_text("mov_text", bytes(p)))
            for p in opened.demux(subtitles=0)
            if p.size > 2
        ]
    half = Fraction(1, 2)
    assert said == [(half, half, "A"), (1, 1, "A\nB"), (2, 1, "A"), (4, half, "C")]


def _one_at_a_time(*cues: Cue) -> list[tuple[int, int | None, str]]:
    said = CueMerger()
    pieces = [piece for cue in cues for piece in said.add(cue)]
    return [(piece.start, piece.end, piece.text) for piece in [*pieces, *said.flush()]]


def test_cues_are_split_where_others_begin_or_end() -> None:
    assert _one_at_a_time(Cue(0, 3, "A"), Cue(1, 5, "B"), Cue(3, 4, "C"), Cue(7, 8, "D")) == [
        (0, 1, "A"),
        (1, 3, "A\nB"),
        (3, 4, "B\nC"),
        (4, 5, "B"),
        (7, 8, "D"),
    ]
    assert _one_at_a_time(Cue(0, 2, "sign"), Cue(0, 2, "sign"), Cue(1, 2, "")) == [(0, 1, "sign"), (1, 2, "sign")]
    assert _one_at_a_time(Cue(0, None, "A"), Cue(2, None, "B"), Cue(2, 3, "C"), Cue(4, None, "D")) == [
        (0, 2, "A"),
        (2, 3, "B\nC"),
        (3, 4, "B"),
        (4, None, "D"),
    ]
    assert _one_at_a_time(Cue(5, 9, "A"), Cue(2, 7, "late")) == [(5, 7, "A\nlate"), (7, 9, "A")]


def test_a_cue_is_delayed_at_most_to_its_end() -> None:
    said = CueMerger()
    assert not list(said.add(Cue(0, 5, "A")))
    assert not list(said.until(4))
    assert list(said.until(5)) == [Cue(0, 5, "A")]


def test_crowds_of_cues_stay_small() -> None:
    pieces = _one_at_a_time(*(Cue(start, 10_000, str(start)) for start in range(2000)))
    assert pieces[-1][1] == 10_000
    assert max(text.count("\n") for _, _, text in pieces) < 20


def test_a_text_that_is_too_long_for_a_sample_is_cut(tmp_path: Path) -> None:
    source = with_subtitles(tmp_path / "in.mkv", font=False, lines=[(40, 200, "ü" * 40_000)])
    said = [plain_text("mov_text", data) for _, data in packets(upscale(source, tmp_path).path, "subtitles")]
    assert [text for text in said if text] == ["ü" * 32_767]


def test_matroska_keeps_subtitles_and_attachments_as_they_are(tmp_path: Path) -> None:
    source = with_subtitles(tmp_path / "in.mkv")
    result = upscale(source, tmp_path, container="mkv")
    assert result.warnings == ()
    info = probe(result.path)
    assert info.attachments == ("font.ttf",)
    assert packets(source, "subtitles") == packets(result.path, "subtitles")


@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_statistics_of_the_source_are_not_copied(tmp_path: Path, container: str) -> None:
    counted = {"BPS": "1", "BPS-eng": "1", "DURATION-eng": "1", "NUMBER_OF_FRAMES": "1", "NUMBER_OF_BYTES-eng": "1"}
    counted |= {"_STATISTICS_TAGS": "BPS", "_STATISTICS_WRITING_APP-eng": "mkvmerge", "ENCODER": "an old one"}

    def say(target: Any, video: Any) -> None:
        for stream in target.streams:
            stream.metadata.update({**counted, "title": "Titled", "DIRECTOR": "Someone"})

    source = write_clip(tmp_path / "in.mkv", tone=_sound("aac"), prepare=say)
    with av.open(str(source)) as opened:
        assert all(counted.keys() <= stream.metadata.keys() for stream in opened.streams)
    with av.open(str(upscale(source, tmp_path, container=container).path)) as opened:
        for stream in opened.streams:
            said = {name.upper(): value for name, value in stream.metadata.items()}
            assert not {name: value for name, value in counted.items() if said.get(name) == value}
            assert "Titled" in said.values()
            assert container != "mkv" or said["DIRECTOR"] == "Someone"


@pytest.mark.parametrize(
    ("codec", "data", "words"),
    [
        ("ass", b"0,0,Default,,0,0,0,,{\\i1}One, two{\\i0}\\Nthree", "One, two\nthree"),
        ("ass", b"0,0,Default,,0,0,0,,{\\p1}m 0 0 l 100 0{\\p0}", ""),
        ("ass", b"0,0,Default,,0,0,0,,{\\an8\\p2}m 0 0{\\p0}Sign", "Sign"),
        ("webvtt", b"<v Anna>Hi</v>", "Hi"),
        ("mov_text", b"\x00\x02Hi\x00\x00\x00\x0cstyl", "Hi"),
        ("subrip", b"a\r\nb\xff", "a\nb\ufffd"),
    ],
)
def test_words_are_unpacked(codec: str, data: bytes, words: str) -> None:
    assert plain_text(codec, data) == words


@pytest.mark.parametrize(("layout", "channels"), [("mono", 1), ("stereo", 2), ("5.1", 6), ("8 channels", 8)])
@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
def test_samples_without_positions_are_copied(tmp_path: Path, container: str, layout: str, channels: int) -> None:
    """Matroska, AVI and MXF store the number of channels alone. MP4 needs positions, and complains at its end."""
    source = write_clip(
        tmp_path / "in.mkv", tone=lambda target: [(target.add_stream("pcm_s16le", rate=48000, layout=layout), 0)]
    )
    result = upscale(source, tmp_path, container=container)
    (track,) = probe(result.path).audio
    assert (track.codec, track.channels) == ("pcm_s16le", channels)
    assert b"".join(data for _, data in packets(result.path, "audio")) == b"".join(
        data for _, data in packets(source, "audio")
    )
    named = container == "mp4" and channels > 2
    assert ["labels the channels" in warning for warning in result.warnings] == [True] * named
    assert result.info.warnings == result.warnings, "the warning appears before the job starts"
    assert probe(source, target="auto").target == ("mkv" if channels > 2 else "mp4")


def test_what_a_container_refuses_at_its_end_is_converted(tmp_path: Path) -> None:
    def nine_channels(target: Any, video: Any) -> None:
        stream = target.add_stream("pcm_s16le", rate=48000, layout="9 channels")
        packet: Any = av.Packet(bytes(9 * 2 * 4800))
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 48000)
        target.mux(packet)

    source = write_clip(tmp_path / "in.mkv", prepare=nine_channels)
    result = upscale(source, tmp_path, container="mp4")
    assert result.info.warnings == ("Audio track 1 (pcm_s16le) is converted to aac because mp4 can't hold it.",)


@pytest.mark.parametrize(
    ("codec", "chosen"),
    [
        ("pcm_s24le", "mkv"),
        ("pcm_f32le", "mkv"),
        ("dts", "mkv"),
        ("truehd", "mkv"),
        ("pcm_s16le", "mp4"),
        ("ac3", "mp4"),
    ],
)
def test_auto_avoids_mp4_for_sound_that_few_players_find_there(tmp_path: Path, codec: str, chosen: str) -> None:
    def announce(target: Any, video: Any) -> None:
        target.add_mux_stream(codec, rate=48000)

    if codec in ("dts", "truehd"):  # libav has no encoder for them
        source = write_clip(tmp_path / "in.mkv", prepare=announce)
    else:
        source = write_clip(tmp_path / "in.mkv", tone=_sound(codec))
    assert probe(source, target="auto").target == chosen


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
def test_a_time_code_is_kept_and_not_said_to_be_lost(tmp_path: Path, container: str) -> None:
    def stamp(target: Any, video: Any) -> None:
        video.metadata["timecode"] = "01:02:03:04"

    source = write_clip(tmp_path / "in.mov", prepare=stamp)
    with av.open(str(source)) as opened:
        assert len(opened.streams.data) == 1
    result = upscale(source, tmp_path, container=container)
    assert result.warnings == ()
    with av.open(str(result.path)) as opened:
        tags = {name.lower(): value for name, value in opened.streams.video[0].metadata.items()}
        assert tags["timecode"] == "01:02:03:04"
        assert len(opened.streams.data) == (container != "mkv")


@pytest.mark.parametrize(
    ("language", "code", "extended"),
    [
        ("es", "spa", None),
        ("en-US", "eng", b"en-US"),
        ("pt_BR", "por", b"pt-BR"),
        ("fra", "fra", None),
        ("und", None, None),
    ],
)
@pytest.mark.parametrize("container", ["mp4", "mov"])
def test_languages_get_three_letters(
    tmp_path: Path, container: str, language: str, code: str | None, extended: bytes | None
) -> None:
    def say(target: Any, video: Any) -> None:
        target.streams.audio[0].metadata["language"] = language

    source = write_clip(tmp_path / "in.mkv", tone=_sound("aac"), prepare=say)
    result = upscale(source, tmp_path, container=container)
    assert result.warnings == ()
    (track,) = probe(result.path).audio
    assert track.language in (code, "und" if code is None else code)
    with result.path.open("rb") as file:
        tracks = [box for box in read_outer_box(file, b"moov").inner if box.name == b"trak"]
    names = [box.find(b"mdia", b"elng") for box in tracks]
    assert [bytes(name.fields[4:-1]) for name in names if name] == ([extended] if extended else [])
    assert names[0] is None, "only the sound has the language"


def test_a_language_without_a_code_is_named(tmp_path: Path) -> None:
    def say(target: Any, video: Any) -> None:
        target.streams.audio[0].metadata["language"] = "Klingon"

    source = write_clip(tmp_path / "in.mkv", tone=_sound("aac"), prepare=say)
    (warning,) = upscale(source, tmp_path, container="mp4").warnings
    assert warning == "Audio track 1 (aac) loses its language (Klingon) because mp4 can't hold it."
    result = upscale(source, tmp_path, container="mkv")
    assert result.warnings == ()
    assert probe(result.path).audio[0].language == "Klingon"


def test_language_codes() -> None:
    assert [three_letters(tag) for tag in ("de", "DE", "zh-Hant-TW", "jpn", "xx", "english", "")] == [
        *("deu", "deu", "zho", "jpn"),
        *(None, None, None),
    ]


@pytest.mark.parametrize("container", ["mp4", "mov", "webm"])
@pytest.mark.parametrize("codec", ["subrip", "ass"])
def test_a_text_ends_at_its_first_zero_byte(tmp_path: Path, container: str, codec: str) -> None:
    source = with_subtitles(tmp_path / "in.mkv", font=False, codec=codec, lines=[(40, 200, "Words\0\x01 rubbish")])
    result = upscale(source, tmp_path, container=container)
    kind = {"webm": "webvtt"}.get(container, "mov_text")
    said = [plain_text(kind, data) for _, data in packets(result.path, "subtitles")]
    assert [text for text in said if text] == ["Words"]
