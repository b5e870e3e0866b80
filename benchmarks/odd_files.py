"""What becomes of odd and broken files: a table of file → done or refused, with the reason, and of what is left behind.

    python -m benchmarks.odd_files [FOLDER] [--scale 2] [--frames 60]

Without a folder, over the hostile files that `benchmarks/hostile.py` makes. Each file goes through probe, reader,
writer and assemble as a job does, with pixels repeated in place of the network.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import av

from benchmarks import hostile
from media.assemble import assemble
from media.encode.segment import SegmentWriter
from media.errors import MediaError
from media.probe import probe
from media.reader import VideoReader
from media.spec import NETWORK_SCALE, OutputSpec, output_spec


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
        while group := [frame for _, frame in zip(range(chunk), frames, strict=False)]:
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
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--scale", type=int, default=2, choices=(2, 3, 4))
    parser.add_argument("--frames", type=int, default=None, help="stop each file after about so many frames")
    parser.add_argument("--flips", type=int, default=200, help="how many files get bits flipped")
    arguments = parser.parse_args()
    print("| file | outcome | message | s | left behind |\n|---|---|---|---|---|")
    before = _resident_mb()
    if arguments.folder is not None:
        for path in sorted(arguments.folder.iterdir()):
            _show(run(path, scale=arguments.scale, most=arguments.frames))
    else:
        with tempfile.TemporaryDirectory() as name:
            for what, path in hostile.make_all(Path(name)):
                _show(replace(run(path, scale=arguments.scale, most=arguments.frames), name=what))
            _show(_flipped(Path(name), arguments.flips, arguments.scale))
    print(f"\nMemory of this process: {before} MB before, {_resident_mb()} MB after.")


def _show(outcome: Outcome) -> None:
    verdict = "done" if outcome.done else "refused"
    print(
        f"| {outcome.name} | {verdict} | {outcome.said} | {outcome.seconds:.1f} | {outcome.left_behind} |", flush=True
    )


def _flipped(folder: Path, count: int, scale: int) -> Outcome:
    """Many files with flipped bits, in one line."""
    whole, broken = hostile.write_video(folder / "sound_file.mp4"), folder / "flipped.mp4"
    tally: Counter[str] = Counter()
    left: set[str] = set()
    begun = time.monotonic()
    for seed in range(count):
        hostile.with_flipped_bits(broken, whole, seed)
        outcome = run(broken, scale=scale, most=None)
        tally["done" if outcome.done else "refused as " + outcome.said.split(":")[0]] += 1
        left.add(outcome.left_behind)
    said = ", ".join(f"{number} {what}" for what, number in tally.most_common())
    return Outcome(
        f"{count} files with flipped bits", tally["done"] > 0, said, time.monotonic() - begun, ", ".join(sorted(left))
    )


def _resident_mb() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1000


if __name__ == "__main__":
    main()
