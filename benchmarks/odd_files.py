"""Outcome of odd and hostile files: a table of file → done or refused, with the reason, and what is left behind.

    python -m benchmarks.odd_files FOLDER [--scale 2] [--frames 60]

Each file passes probe, reader, encoder and muxer as in a job. Repeated pixels replace the network.
`python -m tests.support.hostile FOLDER` writes the hostile files.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.footage.facts import file_facts
from media.assemble import assemble
from media.encode.segment import SegmentWriter
from media.errors import MediaError
from media.probe import probe
from media.reader import VideoReader
from media.spec import DEFAULT_SCALE, OutputSpec, output_spec
from media.types import counted


@dataclass
class Outcome:
    """Outcome of one file."""

    name: str
    done: bool
    message: str
    left_behind: str


def upscale(source: Path, folder: Path, *, scale: int, chunk: int = 24, most: int | None = None) -> str:
    """Upscale by repeating pixels. Returns a sentence about the result, and the warnings. Raises MediaError.

    Args:
        chunk: frames of a segment.
        most: stop after about this many frames.
    """
    info = probe(source)
    spec = output_spec(info, scale=scale)
    segments: list[Path] = []
    times: list[int] = []
    with VideoReader(source, canvas=info.video.canvas) as reader:
        frames = iter(reader)
        while group := [frame for _, frame in zip(range(chunk), frames, strict=False)]:
            segments.append(folder / f"{len(segments):05d}.mp4")
            with SegmentWriter(segments[-1], spec) as writer:
                for frame in group:
                    writer.write(frame.rgb.repeat(DEFAULT_SCALE, 0).repeat(DEFAULT_SCALE, 1), frame.pts)
            times += [frame.pts for frame in group]
            if most is not None and len(times) >= most:
                break
        warnings = [*info.warnings, *reader.warnings]
    out = folder / "result.mp4"
    warnings += assemble(segments, source, out, spec).warnings
    facts = f"{counted(len(times), 'frame')} {spec.width}×{spec.height}, {_verdict(out, times, spec)}."
    return " ".join([facts, *warnings])


def _verdict(out: Path, times: list[int], spec: OutputSpec) -> str:
    """Whether the result's timestamps are the source's, and the number of its audio tracks."""
    facts = file_facts(out, decode=True)
    seen = facts.picture.times if facts.picture else []
    audio = sum(track.kind == "audio" for track in facts.tracks)
    expected = [pts * spec.time_base for pts in times]
    return f"{'all timestamps kept' if seen == expected else 'TIMESTAMPS DIFFER'}, {audio} audio"


def run(source: Path, *, scale: int, most: int | None) -> Outcome:
    """Upscale one file, and look for files and processes that are left behind."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            message, done = upscale(source, folder, scale=scale, most=most), True
            for path in folder.iterdir():
                path.unlink()
        except (MediaError, OSError) as error:
            message, done = f"{type(error).__name__}: {error}", False
        left = [path.name for path in folder.iterdir() if path.suffix != ".mp4"] + _children()
    return Outcome(source.name, done, message, ", ".join(left) or "nothing")


def _children() -> list[str]:
    return Path("/proc/self/task/self/children").read_text().split() if Path("/proc/self/task/self").exists() else []


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=int, default=2, choices=(2, 3, 4))
    parser.add_argument("--frames", type=int, default=None, help="stop each file after about this many frames")
    arguments = parser.parse_args()
    print("| file | outcome | message | left behind |\n|---|---|---|---|")
    before = _resident_mb()
    for path in sorted(arguments.folder.iterdir()):
        outcome = run(path, scale=arguments.scale, most=arguments.frames)
        verdict = "done" if outcome.done else "refused"
        print(f"| {outcome.name} | {verdict} | {outcome.message} | {outcome.left_behind} |", flush=True)
    print(f"\nMemory of this process: {before} MB before, {_resident_mb()} MB after.")


def _resident_mb() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1000


if __name__ == "__main__":
    main()
