"""One video over two workers against one: wall-clock time, equality, and the seams.

    python -m benchmarks.segments CLIP… [--model small] [--size 128x72] [--seconds 120] [--video FILE]

The clips, each forwards and backwards until its share of the time is full, become the scenes of one video: seven clips
make six cuts, one clip makes none. Scenes have unequal lengths. Each worker process has one thread, and one core for
itself and its decoder and encoder, as on a machine of its own. First one worker has the job, then two share a second
job with `segments`. Times are those of the job documents, from the claim to the result.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.lookahead import psnr
from benchmarks.report import machine, write_json
from benchmarks.targets import redis_in
from jobs.presence import Presence
from jobs.schema import Job, JobOptions
from jobs.settings import Settings
from jobs.storage import Storage, new_id
from jobs.store import JobStore
from media.encode.hardware import choose
from media.encode.segment import SegmentWriter
from media.probe import probe
from media.reader import Pixels, VideoReader
from media.spec import plain_spec
from pipeline.source import stream_facts

_RATE: Final = 25
_LENGTHS: Final = (3, 5, 2, 6, 4, 3, 2)
"""Lengths of the scenes, in proportion."""
_SEEN: Final = 8
"""Frames behind each seam that are compared."""


def main() -> None:
    """Print the times, and compare the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP")
    parser.add_argument("--model", default="small")
    parser.add_argument("--weights-dir", type=Path, default=Path("data/weights"))
    parser.add_argument("--size", default="128x72")
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--segments", default="auto")
    parser.add_argument("--video", type=Path, help="the video, made if the file does not exist")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    with tempfile.TemporaryDirectory() as folder, redis_in(Path(folder)) as url:
        settings = Settings(
            data_dir=Path(folder) / "data", weights=args.weights_dir, model=args.model, threads=1, redis_url=url
        )
        video = args.video or Path(folder) / "video.mp4"
        if not video.exists():
            make_video(video, args.clips, args.seconds * _RATE, width, height)
        rows = measure(settings, video, args.model, args.segments)
    for name, value in rows.items():
        print(f"{name:28} {value}")
    if args.json:
        facts = {"model": args.model, "size": args.size, "seconds": args.seconds}
        write_json(args.json, {"machine": machine(torch.device("cpu")), **facts, **rows})


def measure(settings: Settings, video: Path, model: str, segments: str) -> dict[str, Any]:
    """Run the job on one worker, and on two."""
    store, storage = JobStore.from_settings(settings), Storage.from_settings(settings)
    storage.prepare()
    with worker(settings, 0):
        wait(lambda: len(Presence(store.redis).workers()) == 1)
        one = run(store, storage, video, model, "off")
        with worker(settings, 1):
            wait(lambda: len(Presence(store.redis).workers()) == 2)
            two = run(store, storage, video, model, segments)
    files = [storage.result_path(job.id) for job in (one, two)]
    seconds = [took(job) for job in (one, two)]
    return {
        "frames": two.progress.frames_done,
        "one worker, s": round(seconds[0], 1),
        "two workers, s": round(seconds[1], 1),
        "ratio": round(seconds[0] / seconds[1], 3),
        "segments": two.segments.model_dump() if two.segments is not None else None,
        "equal bytes": files[0].read_bytes() == files[1].read_bytes(),
        **differences(*files),
    }


def run(store: JobStore, storage: Storage, video: Path, model: str, segments: str) -> Job:
    """Queue a job like the service, and wait for its end."""
    job_id = new_id()
    upload = storage.uploads / f"{job_id}.part"
    shutil.copyfile(video, upload)
    storage.adopt(upload, job_id)
    options = JobOptions(model=model, segments=segments)
    store.create(Job(id=job_id, filename=video.name, options=options, input=stream_facts(probe(video))))
    wait(lambda: store.get(job_id).state.final)
    job = store.get(job_id)
    if job.error is not None:
        raise SystemExit(job.error.detail)
    return job


def took(job: Job) -> float:
    """Seconds from the claim to the result."""
    assert job.started_at is not None
    assert job.finished_at is not None
    return (job.finished_at - job.started_at).total_seconds()


def differences(one: Path, two: Path) -> dict[str, Any]:
    """Number of frames that differ, and PSNR of Y of the first frames of each run of such frames."""
    runs: list[list[float]] = []
    differ, count, last = 0, 0, -_RATE
    with VideoReader(one) as first, VideoReader(two) as second:
        for count, (ours, theirs) in enumerate(zip(first, second, strict=True), 1):
            if np.array_equal(ours.rgb, theirs.rgb):
                continue
            differ += 1
            if count > last + _RATE:
                runs.append([])
            last = count
            if len(runs[-1]) < _SEEN:
                runs[-1].append(psnr(theirs.rgb[None].astype(np.uint8), ours.rgb[None].astype(np.uint8)))
    return {
        "frames compared": count,
        "frames that differ": differ,
        "seams, dB": [round(float(np.mean(values)), 1) for values in runs],
        "worst frame, dB": round(min((value for values in runs for value in values), default=100.0), 1),
    }


def make_video(path: Path, clips: list[Path], count: int, width: int, height: int) -> None:
    """Write the clips, one after the other, as one video."""
    lengths = list(islice(cycle(_LENGTHS), len(clips)))
    scenes = [(clip, count * length // sum(lengths)) for clip, length in zip(clips, lengths, strict=True)]
    frames = chain.from_iterable(islice(there_and_back(clip, width, height), share) for clip, share in scenes)
    spec = plain_spec("h264", choose("h264", "software", width, height), width, height)
    with SegmentWriter(path, spec) as writer:
        for number, rgb in enumerate(frames):
            writer.write(rgb, number)


def there_and_back(clip: Path, width: int, height: int) -> Iterator[Pixels]:
    """The frames of a clip forwards and backwards, without end and without a cut."""
    with VideoReader(clip) as reader:
        frames = [fitted(frame.rgb, width, height) for frame in islice(reader, 300)]
    return cycle([*frames, *frames[-2:0:-1]])


def fitted(rgb: Pixels, width: int, height: int) -> Pixels:
    """The centre of a frame, in the size of the video."""
    rows, columns = rgb.shape[:2]
    side = min(rows / height, columns / width)
    rows, columns = round(height * side), round(width * side)
    top, left = (rgb.shape[0] - rows) // 2, (rgb.shape[1] - columns) // 2
    part = (
        torch.from_numpy(rgb[top : top + rows, left : left + columns].astype(np.uint8)).permute(2, 0, 1)[None].float()
    )
    small = F.interpolate(part, (height, width), mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    made: Pixels = small.round().clamp(0, 255).byte().contiguous().numpy()
    return made


@contextmanager
def worker(settings: Settings, core: int) -> Iterator[None]:
    """A worker process on one core."""
    given = settings.model_dump(mode="json", exclude_unset=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith("SKIPVSR_")}
    env |= {f"SKIPVSR_{name.upper()}": str(value) for name, value in given.items() if value is not None}
    cores = sorted(os.sched_getaffinity(0))
    command = ["taskset", "-c", str(cores[core % len(cores)]), sys.executable, "-m", "worker"]
    with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)


def wait(happened: Callable[[], bool]) -> None:
    """Wait until something has happened."""
    while not happened():
        time.sleep(0.2)


if __name__ == "__main__":
    main()
