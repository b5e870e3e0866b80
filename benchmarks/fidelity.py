"""Fidelity of the pipeline: facts of one file that upscalers often lose, before and after.

    python -m benchmarks.fidelity [--container mp4] [--codec hevc] [--keep FOLDER]

The source is made here: 10-bit HDR10 in HEVC, variable frame rate, rotation by 90 degrees, pixels of 4:3, two audio
tracks in two languages, one of them delayed, subtitles, chapters, tags. The whole pipeline upscales the source with the
network `tiny`. libav reads all facts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np

from benchmarks.footage.facts import TrackFacts, file_facts
from benchmarks.footage.job import run_job, tiny
from jobs.schema import JobOptions
from media.color.hdr import mastering_display
from media.probe import probe
from pipeline.task import UpscaleTask

UNIT: Final = Fraction(1, 90000)
TIMES: Final = tuple(90 * ms for ms in (80, 120, 127, 210, 211, 480, 513, 547, 980, 981, 1014, 1400, 1433, 1467, 1990))
"""Timestamps of the frames in UNIT, from 1 to 523 ms apart."""
LINES: Final = ((100, 400, "Guten Tag"), (600, 700, "Second line\nand third"))
"""Subtitles: start in ms, duration in ms, text."""
_X265: Final = (
    "log-level=none:hdr10=1:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:range=limited:chromaloc=2:"
    "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400"
)
_WIDTH, _HEIGHT = 96, 64


@dataclass(frozen=True)
class Fact:
    """One property of a file."""

    name: str
    before: str
    after: str
    expected: bool
    """Whether `after` is as in the source, or as requested."""


def make_source(path: Path) -> Path:
    """Write the source: an MP4 file of about two seconds."""
    options = {"video_track_timescale": str(UNIT.denominator), "movie_timescale": "90000"}
    with av.open(str(path), "w", container_options=options) as container:
        video: Any = container.add_stream("libx265", rate=25, options={"x265-params": _X265})
        video.width, video.height, video.pix_fmt = _WIDTH, _HEIGHT, "yuv420p10le"
        video.time_base = video.codec_context.time_base = UNIT
        video.codec_context.sample_aspect_ratio = Fraction(4, 3)
        video.set_display_rotation(90)
        sounds = [_add_sound(container, *facts) for facts in (("eng", 48000, True), ("deu", 44100, False))]
        text: Any = container.add_stream("mov_text")
        text.codec_context.subtitle_header = b"[Script Info]\r\n\r\n[Events]\r\n"
        text.time_base, text.metadata["language"] = Fraction(1, 1000), "fra"
        container.metadata.update({"title": "A test of everything", "artist": "SkipVSR", "comment": "Ärger & Öl"})
        container.set_chapters([_chapter(number, name) for number, name in enumerate(("Beginning", "Ende"))])
        for number, sound in enumerate(sounds):
            _write_sound(container, sound, start_seconds=Fraction(number, 10))
        for index, pts in enumerate(TIMES):
            frame = av.VideoFrame.from_ndarray(_picture(index), format="rgb48le")
            frame.pts, frame.time_base = pts, UNIT
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for start, duration, words in LINES:
            data = words.encode()
            line: Any = av.Packet(len(data).to_bytes(2, "big") + data)
            line.stream, line.time_base, line.pts, line.dts = text, Fraction(1, 1000), start, start
            line.duration = duration
            container.mux(line)
    return path


def _add_sound(container: Any, language: str, rate: int, default: bool) -> Any:
    stream = container.add_stream("aac", rate=rate, layout="stereo")
    stream.metadata["language"] = language
    stream.disposition = av.stream.Disposition.default if default else av.stream.Disposition.comment
    return stream


def _write_sound(container: Any, stream: Any, *, start_seconds: Fraction) -> None:
    rate = stream.codec_context.sample_rate
    wave = (8000 * np.sin(np.arange(2 * rate) * 440 * 2 * np.pi / rate)).astype(np.float32) / 32768
    for at in range(0, len(wave) - 1023, 1024):
        block = av.AudioFrame.from_ndarray(np.stack([wave[at : at + 1024]] * 2), "fltp", "stereo")
        block.sample_rate, block.pts, block.time_base = rate, at + int(start_seconds * rate), Fraction(1, rate)
        container.mux(stream.encode(block))
    container.mux(stream.encode(None))


def _chapter(number: int, title: str) -> Any:
    bounds = {"start": 1000 * number, "end": 1000 * number + 1000}
    return {"id": number, **bounds, "time_base": Fraction(1, 1000), "metadata": {"title": title}}


def _picture(index: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    y, x = np.mgrid[0:_HEIGHT, 0:_WIDTH]
    wave = 32768 + 20000 * np.sin((x + 2 * y + 3 * index) / 9)
    return np.ascontiguousarray(np.stack([wave, np.roll(wave, index, axis=1), 65535 - wave], -1).astype(np.uint16))


def describe(path: Path) -> dict[str, str]:
    """Collect all facts of a file as text."""
    info = probe(path)
    video, color = info.video, info.video.color
    display = mastering_display(video.mastering_display)
    facts = {
        "container": info.container,
        "video": f"{video.codec} {video.width}×{video.height}",
        "bits a sample": f"{video.bit_depth} ({video.pixel_format})",
        "sample aspect ratio": str(video.sample_aspect_ratio),
        "rotation": f"{video.rotation}°, matrix {video.display_matrix}",
        "primaries, transfer, matrix": f"{color.primaries}, {color.transfer}, {color.matrix}",
        "range, chroma location": f"{color.range.name.lower()}, {color.chroma_location}",
        "mastering display": "none" if display is None else ", ".join(_numbers(display)),
        "MaxCLL, MaxFALL": str(video.content_light),
    }
    whole = file_facts(path, decode=True)
    times = whole.picture.times if whole.picture else []
    facts["frames"] = str(len(times))
    facts["every frame's time (ms)"] = " ".join(f"{float(1000 * time):g}" for time in times)
    facts["chapters"] = "; ".join(whole.chapters)
    facts["tags"] = "; ".join(f"{name}: {whole.tags.get(name)}" for name in ("title", "artist", "comment"))
    others = [track for track in whole.tracks if track.kind in ("audio", "subtitle")]
    for number, track in enumerate(others):
        facts |= {f"track {number + 1}, {name}": value for name, value in _track(track, times[0])}
    return facts


def _track(track: TrackFacts, first_picture: Fraction) -> Iterator[tuple[str, str]]:
    yield "codec and language", f"{track.kind} {track.codec}, {track.language}"
    yield "dispositions", ", ".join(name for name in track.dispositions if name in ("default", "comment")) or "none"
    if track.kind == "audio":
        yield "packets", f"{track.packets}, SHA-256 {track.sha256}…"
        yield "offset to the picture (ms)", f"{float(1000 * ((track.first or 0) - first_picture)):.3f}"
    else:
        yield "lines", "; ".join(track.lines)


def _numbers(display: Any) -> Iterator[str]:
    for name in ("red", "green", "blue", "white"):
        x, y = getattr(display, name)
        yield f"{name} {float(x):.4f} {float(y):.4f}"
    yield f"{float(display.darkest):g} to {float(display.brightest):g} cd/m²"


def compare(before: dict[str, str], after: dict[str, str], *, container: str, codec: str, scale: int) -> list[Fact]:
    """Compare each fact of the source with the result's.

    Codec, size and container must be the requested ones. In Matroska, sound may move by a millisecond, and MP4's
    subtitles become SubRip.
    """
    requested = {
        "container": container,
        "video": f"{codec} {scale * _WIDTH}×{scale * _HEIGHT}",
    }
    if container == "mkv":
        requested["track 3, codec and language"] = "subtitle subrip, fra"
    facts = []
    for name, value in before.items():
        now = after.get(name, "missing")
        expected = now == requested.get(name, value)
        if container == "mkv" and name.endswith("(ms)") and "offset" in name:
            expected = abs(float(now) - float(value)) <= 1  # Matroska counts milliseconds
        facts.append(Fact(name, value, now, expected))
    return facts


def run(folder: Path, *, container: str = "mp4", codec: str = "hevc", scale: int = 4) -> tuple[list[Fact], list[str]]:
    """Make the source and upscale it. Returns the facts and the job's warnings."""
    source = make_source(folder / "source.mp4")
    options = JobOptions.model_validate(
        {"model": "tiny", "chunk": 4, "lookahead": 2, "codec": codec, "container": container, "scale": scale}
    )
    work = folder / "work"
    work.mkdir()
    last, _ = run_job(UpscaleTask(source, work, options), tiny())
    facts = compare(describe(source), describe(last.path), container=container, codec=codec, scale=scale)
    return facts, last.warnings


def table(facts: Sequence[Fact]) -> str:
    """Format the facts in Markdown."""
    rows = ["| fact | before | after | |", "|---|---|---|---|"]
    for fact in facts:
        after = "the same" if fact.after == fact.before else fact.after
        verdict = ("kept" if after == "the same" else "as requested") if fact.expected else "DIFFERS"
        rows.append(f"| {fact.name} | {fact.before} | {after} | {verdict} |")
    return "\n".join(rows)


def main() -> int:
    """Print the table. Status 1 if a fact is not as expected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--container", choices=["mp4", "mkv"], default="mp4")
    parser.add_argument("--codec", choices=["h264", "hevc"], default="hevc")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep source and result in this folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.keep or Path(name)
        facts, warnings = run(folder, container=arguments.container, codec=arguments.codec)
    print(table(facts))
    print("\nWarnings: " + ("; ".join(warnings) or "none"))
    return 0 if all(fact.expected for fact in facts) else 1


if __name__ == "__main__":
    sys.exit(main())
