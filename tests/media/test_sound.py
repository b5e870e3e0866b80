"""Converted sound: its rate, layout and samples, its place beside the picture, and no gaps."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from benchmarks.footage.facts import file_facts
from benchmarks.footage.measures import sound, tone
from media.tracks.continuity import Continuity
from media.tracks.sound_format import SoundFormat
from tests.support.media import packets, stripes, upscale
from tests.support.paths import DATA

RATE = 48000


def write(
    path: Path,
    codec: str,
    *,
    form: str | None = None,
    rate: int = RATE,
    layout: str = "stereo",
    hertz: tuple[float, ...] = (1000, 10000),
    seconds: float = 1.0,
    start: float = 0.0,
    sample: str = "s16",
    block: int = 1024,
    frames: int = 25,
    video: str = "mpeg2video",
) -> Path:
    """A second of picture with tones, in any container."""
    with av.open(str(path), "w", format=form) as container:
        picture: Any = container.add_stream(video, rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        stream: Any = container.add_stream(codec, rate=rate, layout=layout)
        if codec == "wmav2":
            stream.codec_context.bit_rate = 32000
        count = int(seconds * rate)
        wave = sum(np.sin(2 * np.pi * f * np.arange(count) / rate) for f in hertz) / (2 * len(hertz))
        resampler = av.AudioResampler(stream.codec_context.format, layout, rate, frame_size=None)
        coded = []
        for at in range(0, count, block):
            part = np.clip(wave[at : at + block], -1, 1)
            channels = np.stack(
                [part] * len(stream.codec_context.layout.channels or [0] * stream.codec_context.channels)
            )
            samples = {"s16": (channels * 32000).astype(np.int16), "s32": (channels * 2**30).astype(np.int32)}[sample]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T.reshape(1, -1)), sample, layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, round(start * rate) + at, Fraction(1, rate)
            for ready in resampler.resample(frame):
                coded += stream.encode(ready)
        coded += stream.encode(None)
        pictures = []
        for n in range(frames):
            shown = av.VideoFrame.from_ndarray(stripes(n, 64, 48), format="rgb24")
            shown.pts = n
            pictures += picture.encode(shown)
        pictures += picture.encode(None)
        for packet in sorted([*pictures, *coded], key=lambda p: p.dts * p.time_base):
            container.mux(packet)
    return path


def test_the_rate_of_unlisted_codecs_is_kept(tmp_path: Path) -> None:
    """A DVD's PCM: mp4 gets AAC with both tones, mkv and mov get the same samples."""
    source = write(tmp_path / "in.vob", "pcm_dvd", form="vob")
    for container in ("mp4", "mkv", "mov"):
        result = upscale(source, tmp_path, container=container)
        wave, rate, _ = sound(result.path)
        assert rate == RATE
        if container == "mp4":
            spectrum = np.abs(np.fft.rfft(wave[0] * np.hanning(wave.shape[1])))
            peaks = [spectrum[round(f * wave.shape[1] / rate) - 20 :][:40].max() for f in (1000, 10000)]
            assert min(peaks) > 20 * np.median(spectrum)
            assert max(peaks) < 2 * min(peaks)
        else:
            before, _, _ = sound(source)
            assert np.array_equal(wave, before)
        assert f"(pcm_dvd) is converted to {'aac' if container == 'mp4' else 'pcm_s16le'}" in result.warnings[0]


@pytest.mark.parametrize(
    ("codec", "form", "sample", "container", "becomes"),
    [
        ("pcm_s8", "mov", "s16", "mkv", "pcm_u8"),
        ("pcm_s24be", "mov", "s32", "mkv", "pcm_s24le"),
        ("flac", "matroska", "s32", "mov", "alac"),
        ("wavpack", "matroska", "s16", "mov", "alac"),
    ],
)
def test_samples_stay_samples(tmp_path: Path, codec: str, form: str, sample: str, container: str, becomes: str) -> None:
    source = write(tmp_path / "in", codec, form=form, sample=sample)
    result = upscale(source, tmp_path, container=container)
    with av.open(str(result.path)) as opened:
        found = opened.streams.audio[0].codec_context.codec.canonical_name
    (before, _, _), (after, rate, _) = sound(source), sound(result.path)
    assert found in (becomes, codec)
    assert rate == RATE
    assert np.array_equal(after, before)


@pytest.mark.parametrize(
    ("codec", "samples", "encoder"),
    [
        ("s302m", "s16", "pcm_s16le"),
        ("s302m", "s32", "pcm_s24le"),
        ("pcm_bluray", "s32", "pcm_s24le"),
        ("pcm_s32be", "s32", "pcm_s32le"),
        ("pcm_f64be", "dbl", "pcm_f64le"),
        ("pcm_s64be", "s64", None),
    ],
)
def test_encoder_of_the_same_samples(codec: str, samples: str, encoder: str | None) -> None:
    assert SoundFormat(codec, RATE, "stereo", 2, samples).pcm_encoder == encoder


def test_companded_samples_are_not_pcm() -> None:
    assert not SoundFormat("pcm_alaw", 8000, "mono", 1, "s16").is_pcm


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_leading_frames_without_a_time_begin_with_their_packet(tmp_path: Path, container: str) -> None:
    source = DATA / "wma_superframes.asf"
    with av.open(str(source)) as opened:
        assert next(opened.decode(audio=0)).pts is None
    (begins, _), *_, (last, _) = packets(source, "audio")
    picture = packets(source, "video")[0][0]
    result = upscale(source, tmp_path, container=container)
    times = [time for time, _ in packets(result.path, "audio")]
    unit = Fraction(1024, 8000)
    assert max(b - a for a, b in itertools.pairwise(times)) <= unit + Fraction(1, 500)
    assert abs(times[0] + unit - (begins - picture)) < Fraction(2, 100), "the codec's priming comes first"
    heard = file_facts(result.path, decode=False).heard_offset
    assert heard is not None
    assert abs(heard - (begins - picture)) < Fraction(2, 100), "and players skip the priming"
    assert abs(times[-1] - last) < Fraction(3, 10)


def test_undecodable_sound_is_named_and_silent(tmp_path: Path) -> None:
    source = write(tmp_path / "in.asf", "wmav2", rate=44100, hertz=(440,), video="msmpeg4v3", seconds=2, frames=50)
    broken = tmp_path / "broken.asf"
    with av.open(str(source)) as whole, av.open(str(broken), "w") as target:
        streams = {s.index: target.add_stream_from_template(s, opaque=True) for s in whole.streams}
        sounds = 0
        for packet in whole.demux():
            if not packet.size:
                continue
            if packet.stream.type == "audio":
                sounds += 1
                if 10 <= sounds < 20:
                    packet = _empty_like(packet)
            packet.stream = streams[packet.stream_index]  # type: ignore[assignment]
            target.mux(packet)
    result = upscale(broken, tmp_path)
    assert any("10 packets of audio track" in w and "silence" in w for w in result.warnings), result.warnings
    wave, rate, _ = sound(result.path)
    assert abs(wave.shape[1] / rate - 2) < 0.15


def _empty_like(packet: av.Packet[Any]) -> av.Packet[Any]:
    """A packet of the same time that no decoder takes."""
    broken: av.Packet[Any] = av.Packet(b"\0")
    broken.pts, broken.dts, broken.time_base, broken.duration = (
        packet.pts,
        packet.dts,
        packet.time_base,
        packet.duration,
    )
    broken.stream = packet.stream
    return broken


def _frame(start: int | None, samples: int, value: int = 1000, rate: int = 8000, form: str = "s16") -> av.AudioFrame:
    data = np.full((1, samples), value, {"s16": np.int16, "u8": np.uint8}[form])
    frame = av.AudioFrame.from_ndarray(data, form, "mono")
    frame.sample_rate, frame.pts = rate, start
    frame.time_base = Fraction(1, 1000)
    return frame


def _joined(parts: list[tuple[av.AudioFrame, Fraction]]) -> tuple[Fraction, list[int]]:
    """Start, and all samples; asserts that they are continuous."""
    end = None
    samples: list[int] = []
    for frame, start in parts:
        assert end is None or start == end
        end = start + Fraction(frame.samples, frame.sample_rate)
        samples += frame.to_ndarray()[0].tolist()
    return parts[0][1], samples


def test_missing_times_follow_the_sound_before() -> None:
    place = Continuity()
    parts = [part for pts in (None, None, 128, None) for part in place.placed(_frame(pts, 512), Fraction(0))]
    start, samples = _joined(parts)
    assert start == 0
    assert samples == [1000] * 4 * 512


def test_a_gap_becomes_silence_and_an_overlap_is_dropped() -> None:
    place = Continuity()
    times = (100, 200, 500, 540)  # frames of 100 ms: a gap of 200 ms, and an overlap of 60 ms
    parts = [part for pts in times for part in place.placed(_frame(pts, 800), None)]
    start, samples = _joined(parts)
    assert start == Fraction(1, 10)
    assert samples == [1000] * 1600 + [0] * 1600 + [1000] * 800 + [1000] * 320


def test_rounded_times_leave_no_gap() -> None:
    place = Continuity()
    parts = [part for n in range(50) for part in place.placed(_frame(n * 64 + n % 3, 512), None)]
    _, samples = _joined(parts)
    assert len(samples) == 50 * 512


def test_silence_of_unsigned_samples_is_their_middle() -> None:
    place = Continuity()
    parts = [part for pts in (0, 300) for part in place.placed(_frame(pts, 800, 200, form="u8"), None)]
    _, samples = _joined(parts)
    assert samples == [200] * 800 + [128] * 1600 + [200] * 800


def test_one_wrong_time_does_not_cost_hours() -> None:
    place = Continuity()
    parts = [part for pts in (0, 10**9) for part in place.placed(_frame(pts, 800), None)]
    assert [start for _, start in parts] == [0, 10**6]


@pytest.mark.parametrize("seconds", [0.002, 0.03])
def test_very_short_sound(tmp_path: Path, seconds: float) -> None:
    source = write(tmp_path / "in.vob", "pcm_dvd", form="vob", seconds=seconds, hertz=(1000,))
    result = upscale(source, tmp_path, container="mkv")
    assert np.array_equal(sound(result.path)[0], sound(source)[0])
    assert packets(upscale(source, tmp_path).path, "audio")


@pytest.mark.parametrize("start", [0.0, 0.52])
def test_sound_that_begins_before_or_after_the_picture(tmp_path: Path, start: float) -> None:
    source = write(tmp_path / "in.avi", "adpcm_ms", start=start, rate=16000, layout="mono", hertz=(440,), video="mpeg4")
    before, _, at = sound(source)
    for container in ("mp4", "mkv", "mov", "webm"):
        result = upscale(source, tmp_path, container=container)
        after, rate, now = sound(result.path)
        # The beginning of the tone, wherever the container says that the codec's priming begins.
        begins = [
            first + np.flatnonzero(np.abs(w[0]) > 0.1)[0] / r
            for w, r, first in ((before, 16000, at), (after, rate, now))
        ]
        assert abs(begins[0] - begins[1]) < 0.01, container
        assert abs(tone(after, rate) - 440) < 5


@pytest.mark.parametrize(("channels", "becomes"), [(7, 7), (8, 8), (12, 2)])
def test_channels_without_positions(tmp_path: Path, channels: int, becomes: int) -> None:
    source = write(tmp_path / "in.avi", "pcm_s16le", layout=f"{channels} channels", video="mpeg4", hertz=(440,))
    result = upscale(source, tmp_path, container="webm")
    wave, _, _ = sound(result.path)
    assert wave.shape[0] == becomes
    assert np.abs(wave).max() > 0.05
