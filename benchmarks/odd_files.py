"""What becomes of odd and broken files: a table of file → done or refused, with the reason, and of what is left behind.

    python benchmarks/odd_files.py FOLDER [--scale 2] [--frames 60]

Each file goes through probe, reader, writer and assemble as a job does, with pixels repeated in place of the network.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import av

from media.assemble import assemble
from media.errors import MediaError
from media.limits import DEFAULT_LIMITS
from media.probe import probe
from media.reader import VideoReader
from media.spec import NETWORK_SCALE, OutputSpec, output_spec
from media.writer import SegmentWriter


@dataclass
class Outcome:
    """What came of one file."""

    name: str
    done: bool
    said: str
    seconds: float
    left_behind: str


def upscale(source: Path, folder: Path, *, scale: int, chunk: int = 24, most: int | None = None) -> str:
    """Upscale by repeating pixels; returns a line on the result. Raises MediaError."""
    info = probe(source)
    spec = output_spec(info, scale=scale)
    segments: list[Path] = []
    times: list[int] = []
    with VideoReader(source) as reader:
        frames = iter(reader)
        while group := [frame for frame, _ in zip(frames, range(chunk), strict=False)]:
            segments.append(folder / f"{len(segments):05d}.mp4")
            with SegmentWriter(segments[-1], spec) as writer:
                for frame in group:
                    writer.write(frame.rgb.repeat(NETWORK_SCALE, 0).repeat(NETWORK_SCALE, 1), frame.pts)
            times += [frame.pts for frame in group]
            if most is not None and len(times) >= most:
                break
        warnings = [*info.warnings, *reader.warnings]
    out = folder / "result.mp4"
    warnings += assemble(segments, source, out, spec)
    return f"{len(times)} frames {spec.width}×{spec.height}, {_checked(out, times, spec)}" + "".join(
        f"; {warning}" for warning in warnings
    )


def _checked(out: Path, times: list[int], spec: OutputSpec) -> str:
    with av.open(str(out)) as container:
        stream = next(s for s in container.streams.video if s.width == spec.width)
        frames = container.decode(stream)
        seen = [frame.pts * frame.time_base for frame in frames if frame.pts is not None and frame.time_base]
        audio = len(container.streams.audio)
    expected = [pts * spec.time_base for pts in times]
    return f"{'all times kept' if seen == expected else 'TIMES DIFFER'}, {audio} audio"


def run(source: Path, *, scale: int, most: int | None) -> Outcome:
    """One file through the whole way, and what it left."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            said, done = upscale(source, folder, scale=scale, most=most), True
            for path in folder.iterdir():
                path.unlink()
        except (MediaError, OSError) as error:
            said, done = f"{type(error).__name__}: {error}", False
        left = [path.name for path in folder.iterdir() if path.suffix != ".mp4"] + _children()
    return Outcome(source.name, done, said, time.monotonic() - begun, ", ".join(left) or "nothing")


def _children() -> list[str]:
    return Path("/proc/self/task/self/children").read_text().split() if Path("/proc/self/task/self").exists() else []


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=int, default=2, choices=(2, 3, 4))
    parser.add_argument("--frames", type=int, default=None, help="stop each file after about so many frames")
    arguments = parser.parse_args()
    print(f"libav {'.'.join(map(str, av.library_versions['libavcodec']))}, limits: {DEFAULT_LIMITS}\n")
    print("| file | outcome | message | s | left behind |\n|---|---|---|---|---|")
    for path in sorted(arguments.folder.iterdir()):
        outcome = run(path, scale=arguments.scale, most=arguments.frames)
        verdict = "done" if outcome.done else "refused"
        print(
            f"| {outcome.name} | {verdict} | {outcome.said} | {outcome.seconds:.1f} | {outcome.left_behind} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
