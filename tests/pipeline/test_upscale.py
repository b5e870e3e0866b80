"""The pipeline from file to file, with the tiny network and without a server."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from media.encode.segment import SegmentWriter
from media.errors import DecoderCrashed, UnsupportedFile
from media.probe import probe
from media.reader import Frame, VideoReader
from model.engine.budget import needed_bytes
from model.engine.loading import load_model
from model.engine.upscaler import ChunkResult, Upscaler
from pipeline.events import ChunkDone, Event, Finished, Started
from pipeline.feed import ChunkFeed
from pipeline.upscale import upscale
from tests.support.clips import make_clip, make_scenes, times_of
from tests.support.fields import interlaced_clip
from tests.support.runs import finish, task
from tests.support.user_models import TINY, write_model


def test_all_frames_and_sound_come_out(clip: Path, model: Upscaler, tmp_path: Path) -> None:
    started, *chunks, finished = list(upscale(task(clip, tmp_path / "w"), model))
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert [chunk.frames for chunk in chunks if isinstance(chunk, ChunkDone)] == [4] * 5 + [6]
    out = probe(finished.path)
    assert (out.video.width, out.video.height, out.video.frames) == (128, 96, 26)
    assert [track.codec for track in out.audio] == ["aac"]
    assert times_of(finished.path) == times_of(clip)
    metrics = finished.metrics
    assert len(metrics.chunk_seconds) == 6
    assert min(metrics.decode_seconds, metrics.model_seconds, metrics.encode_seconds) > 0
    assert finished.progress.frames_done == finished.progress.frames_total == 26


@pytest.mark.parametrize(("options", "size"), [({"scale": 2}, (64, 48)), ({"height": 72}, (96, 72))])
def test_other_sizes(
    clip: Path, model: Upscaler, tmp_path: Path, options: dict[str, int], size: tuple[int, int]
) -> None:
    video = probe(finish(upscale(task(clip, tmp_path / "w", **options), model)).path).video
    assert (video.width, video.height) == size


@pytest.mark.parametrize(("stops", "lookahead"), [((1, 2, 5), 2), ((3,), 0), ((1,), 9), ((6,), 2)])
def test_a_resumed_run_is_byte_identical(
    clip: Path, model: Upscaler, tmp_path: Path, stops: tuple[int, ...], lookahead: int
) -> None:
    _compare_with_a_resumed_run(clip, model, tmp_path, stops, lookahead)


def test_a_resumed_run_of_a_network_for_two_is_byte_identical(tmp_path: Path) -> None:
    write_model(tmp_path, "double", config=replace(TINY, scale=2))
    double = load_model("double", weights_dir=tmp_path, device="cpu", precision="fp32", threads=1)
    odd = make_clip(tmp_path / "odd.mp4", frames=14, width=34, height=26)
    whole = _compare_with_a_resumed_run(odd, double, tmp_path, (1, 2), 2)
    assert (probe(whole).video.width, probe(whole).video.height) == (68, 52)


def _compare_with_a_resumed_run(
    clip: Path, model: Upscaler, tmp_path: Path, stops: tuple[int, ...], lookahead: int
) -> Path:
    """Closing the generator after the n-th chunk leaves the same files as a kill between two chunks."""
    whole = finish(upscale(task(clip, tmp_path / "whole", lookahead=lookahead), model)).path.read_bytes()
    parts = task(clip, tmp_path / "parts", lookahead=lookahead)
    for stop in stops:
        events = upscale(parts, model)
        for event in events:
            if isinstance(event, ChunkDone) and event.number == stop - 1:
                break
        events.close()
        (parts.folder / "segment-000099.mp4.partial").write_bytes(b"remains of an interrupted chunk")
    resumed = list(upscale(parts, model))
    assert isinstance(resumed[0], Started)
    assert resumed[0].resumed
    numbers = [event.number for event in resumed if isinstance(event, ChunkDone)]
    assert not numbers or numbers[0] == stops[-1], "a chunk was computed again or is missing"
    assert isinstance(resumed[-1], Finished)
    assert resumed[-1].path.read_bytes() == whole
    assert not (parts.folder / "segment-000099.mp4.partial").exists()
    return resumed[-1].path


def test_a_frame_is_encoded_before_its_chunk_is_complete(
    clip: Path, model: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network waits after the first frame until that frame is encoded."""
    steps: list[str] = []
    encoded = threading.Event()
    put, write, finished = ChunkFeed.put, SegmentWriter.write, ChunkFeed.finish

    def patient(feed: ChunkFeed, rgb: Any) -> None:
        put(feed, rgb)
        encoded.wait(60)

    def noted(writer: SegmentWriter, rgb: Any, pts: int) -> None:
        write(writer, rgb, pts)
        steps.append("encoded")
        encoded.set()

    def complete(feed: ChunkFeed, result: ChunkResult) -> None:
        steps.append("complete")
        finished(feed, result)

    monkeypatch.setattr(ChunkFeed, "put", patient)
    monkeypatch.setattr(SegmentWriter, "write", noted)
    monkeypatch.setattr(ChunkFeed, "finish", complete)
    events = upscale(task(clip, tmp_path / "w"), model)
    assert any(isinstance(event, ChunkDone) for event in events)
    assert steps[0] == "encoded"


def test_an_error_of_the_source_comes_after_the_chunks_before(
    clip: Path, model: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder fails while the network reads ahead."""
    decoded = VideoReader.__iter__

    def broken(reader: VideoReader) -> Iterator[Frame]:
        for number, frame in enumerate(decoded(reader)):
            if number == 12:  # the group of frames 8 to 11 would need to know whether more follow
                raise DecoderCrashed("no more frames")
            yield frame

    monkeypatch.setattr(VideoReader, "__iter__", broken)
    with pytest.raises(DecoderCrashed):
        list(upscale(task(clip, tmp_path / "w", lookahead=0), model))
    assert len(list((tmp_path / "w").glob("segment-*.mp4"))) == 2


def test_a_text_file_is_unsupported(model: Upscaler, tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("not a video")
    with pytest.raises(UnsupportedFile):
        list(upscale(task(text, tmp_path / "w"), model))


def test_scene_cuts_are_counted_from_the_start_of_the_video(model: Upscaler, tmp_path: Path) -> None:
    """Two scene cuts after the first chunk, one at the start of a chunk; both survive a resumption."""
    clip = make_scenes(tmp_path / "clip.mp4", frames=14, cuts=(6, 8))
    work = task(clip, tmp_path / "w")
    events = upscale(work, model)
    next(event for event in events if isinstance(event, ChunkDone) and event.number == 1)
    events.close()  # type: ignore[attr-defined]
    assert finish(upscale(work, model)).metrics.cuts == [6, 8]


def test_the_network_s_thread_shares_no_cores_with_other_openmp_threads(tmp_path: Path) -> None:
    """A second set of OpenMP threads makes all threads sleep at barriers, and a run takes 1.45 times as long."""
    clip = make_clip(tmp_path / "clip.mp4", frames=8, width=160, height=96)
    (tmp_path / "w").mkdir()
    script = f"""
import os
from pathlib import Path
import torch
from jobs.schema import JobOptions
from model.engine.loading import load_model
from pipeline.task import UpscaleTask
from pipeline.upscale import upscale
torch.set_num_threads(2)
before = len(os.listdir("/proc/self/task"))
model = load_model("tiny", weights_dir=Path(), device="cpu", precision="bf16", threads=2)
options = JobOptions(model="tiny", chunk=2, lookahead=1)
for _ in upscale(UpscaleTask(Path({str(clip)!r}), Path({str(tmp_path / "w")!r}), options), model):
    pass
print(len(os.listdir("/proc/self/task")) - before)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["0"]


def test_long_chunks_are_shortened_and_stay_so(clip: Path, model: Upscaler, tmp_path: Path) -> None:
    """A job resumes with the chunks it started with, on a worker with more memory, to the same bytes."""
    budget = needed_bytes(model, 32 * 24, 3 + 2)
    small = replace(task(clip, tmp_path / "whole", chunk=24), max_model_bytes=budget)
    whole = finish(upscale(small, model))
    assert any("uses chunks of 3 frames" in warning for warning in whole.warnings)
    again = replace(task(clip, tmp_path / "again", chunk=24), max_model_bytes=budget)
    events = upscale(again, model)
    for event in events:
        if isinstance(event, ChunkDone):
            assert event.frames == 3
            break
    events.close()
    assert finish(upscale(replace(again, max_model_bytes=0), model)).path.read_bytes() == whole.path.read_bytes()


def test_a_job_keeps_the_threads_of_its_encoder(
    clip: Path, model: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job resumes with the threads it started with, on a worker with more cores: they decide about the bytes."""
    monkeypatch.setattr("pipeline.upscale.job_threads", lambda cores, shared: 1)
    work = task(clip, tmp_path / "w")
    events = upscale(work, model)
    assert _threads(events) == 1
    assert next(event for event in events if isinstance(event, ChunkDone))
    events.close()
    monkeypatch.setattr("pipeline.upscale.job_threads", lambda cores, shared: 4)
    assert _threads(upscale(work, model)) == 1
    assert _threads(upscale(task(clip, tmp_path / "fresh"), model)) == 4


def _threads(events: Iterator[Event]) -> int:
    """Threads of the encoder of a run that has not begun."""
    started = next(events)
    assert isinstance(started, Started)
    return started.spec.threads


def test_a_frame_of_each_field_resumes_byte_for_byte(model: Upscaler, tmp_path: Path) -> None:
    clip = interlaced_clip(tmp_path / "clip.mp4", 9, sound=True)
    started, *_, whole = upscale(task(clip, tmp_path / "whole", deinterlace="field"), model)
    assert isinstance(started, Started)
    assert started.progress.frames_total == 18
    assert started.spec.frame_rate == 50
    assert isinstance(whole, Finished)
    assert whole.progress.frames_done == 18
    assert times_of(whole.path) == pytest.approx([n / 50 for n in range(18)])
    parts = task(clip, tmp_path / "parts", deinterlace="field")
    for stop in (1, 3):
        events = upscale(parts, model)
        for event in events:
            if isinstance(event, ChunkDone) and event.number == stop - 1:
                break
        events.close()
    assert finish(upscale(parts, model)).path.read_bytes() == whole.path.read_bytes()
