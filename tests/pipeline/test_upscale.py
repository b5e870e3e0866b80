"""The pipeline from file to file, with the tiny network and without a server."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jobs.schema import JobOptions
from jobs.storage import Fenced
from media.encode.segment import SegmentWriter
from media.errors import DecoderCrashed, UnsupportedFile
from media.probe import probe
from media.reader import Frame, VideoReader
from model.engine.budget import needed_bytes
from model.engine.overlap import Group
from model.engine.upscaler import ChunkResult, Upscaler, load_model
from pipeline.checkpoint import Checkpoints, Identity, Manifest
from pipeline.events import ChunkDone, Event, Finished, Started, Stopped, Working
from pipeline.feed import ChunkFeed
from pipeline.stages import DecodeStage
from pipeline.task import UpscaleTask
from pipeline.upscale import upscale
from tests.support.clips import make_clip, make_scenes, times_of
from tests.support.fields import interlaced_clip
from tests.support.user_models import TINY, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Upscaler:
    return load_model("tiny", weights_dir=tmp_path_factory.mktemp("weights"), device="cpu", precision="fp32", threads=1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=26, sound=True)


def task(clip: Path, folder: Path, **options: object) -> UpscaleTask:
    folder.mkdir(exist_ok=True)
    return UpscaleTask(
        clip, folder, JobOptions.model_validate({"model": "tiny", "chunk": 4, "lookahead": 2, **options})
    )


def finish(events: Iterator[Event]) -> Finished:
    *_, last = events
    assert isinstance(last, Finished)
    return last


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


def test_stop_ends_at_a_checkpoint(clip: Path, model: Upscaler, tmp_path: Path) -> None:
    whole = finish(upscale(task(clip, tmp_path / "whole"), model)).path.read_bytes()
    stop, work = threading.Event(), task(clip, tmp_path / "w")
    seen: list[Event] = []
    for event in upscale(work, model, stop=stop):
        seen.append(event)
        if isinstance(event, ChunkDone):
            stop.set()
    assert isinstance(seen[-1], Stopped)
    # The chunk in the encoder, and two that wait for the encoder if encoding is slower than the network.
    assert sum(isinstance(event, ChunkDone) for event in seen) <= 3
    assert finish(upscale(work, model)).path.read_bytes() == whole


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


@pytest.fixture
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events come as often as the network's steps."""
    monkeypatch.setattr("pipeline.upscale._PAUSE", 0.001)


class Paced(Upscaler):
    """A network that waits after each step until the caller has got another event: no number is left out."""

    def __init__(self, model: Upscaler) -> None:
        self.__dict__.update(model.__dict__)
        self._told = threading.Event()

    def events(self, work: UpscaleTask, **stops: threading.Event) -> Iterator[Event]:
        for event in upscale(work, self, **stops):
            yield event
            self._told.set()

    def stream(self, groups: Iterable[Group], state: Any, **options: Any) -> Generator[ChunkResult]:
        paced = (replace(group, observer=partial(self._pace, group.observer)) for group in groups)
        return super().stream(paced, state, **options)

    def _pace(self, observer: Callable[[float], None], fraction: float) -> None:
        observer(fraction)
        self._told.clear()
        while not self._told.wait(0.05):
            observer(fraction)  # raises Interrupted if nobody wants more events


@pytest.mark.usefixtures("_often")
def test_frames_count_one_by_one(clip: Path, model: Upscaler, tmp_path: Path) -> None:
    events = list(Paced(model).events(task(clip, tmp_path / "w", chunk=12)))
    done = [event.progress.frames_done for event in events if isinstance(event, Working | ChunkDone)]
    assert done == sorted(done)
    assert len(set(done)) > 12, "the numbers between two chunks are missing"
    working = [event for event in events if isinstance(event, Working) and 0 < event.progress.frames_done < 26]
    for event in working:
        assert event.progress.frames_total == 26
        assert event.progress.fps
        assert event.progress.eta_seconds
        assert event.checkpoint_seconds is not None
        assert event.progress.frames_saved in (0, 12, 24)


@pytest.mark.usefixtures("_often")
@pytest.mark.parametrize("frames", [1, 14])
def test_halt_stops_between_two_steps_and_a_resumed_run_is_byte_identical(
    clip: Path, model: Upscaler, tmp_path: Path, frames: int
) -> None:
    whole = finish(upscale(task(clip, tmp_path / "whole", chunk=12), model)).path.read_bytes()
    halt, work = threading.Event(), task(clip, tmp_path / "w", chunk=12)
    saved = 0
    for event in Paced(model).events(work, halt=halt):
        if isinstance(event, Working) and event.progress.frames_done >= frames:
            halt.set()
        if isinstance(event, ChunkDone):
            saved += event.frames
    assert isinstance(event, Stopped)
    assert event.progress.frames_done == event.progress.frames_saved == saved <= 24
    assert finish(upscale(work, model)).path.read_bytes() == whole


@pytest.mark.usefixtures("_often")
def test_halt_and_close_interrupt_the_network(clip: Path, tmp_path: Path, model: Upscaler) -> None:
    """The network is stuck in the middle of its first chunk until somebody wants the run to end."""

    class Stuck(Upscaler):
        def stream(self, groups: Iterable[Group], state: Any, **_: Any) -> Generator[ChunkResult]:
            for group in groups:
                while group.observer is not None:
                    group.observer(0.5)
                    time.sleep(0.01)
            yield from ()

    stuck = object.__new__(Stuck)
    stuck.__dict__.update(model.__dict__)
    halt = threading.Event()
    for event in upscale(task(clip, tmp_path / "halted"), stuck, halt=halt):
        if isinstance(event, Working):
            halt.set()
    assert isinstance(event, Stopped)
    events = upscale(task(clip, tmp_path / "closed"), stuck)
    next(event for event in events if isinstance(event, Working))
    events.close()


class _Seeking(VideoReader):
    """A decoder that seeks in a long film, and sends no frame until it is killed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.killed = threading.Event()
        super().__init__(*args, **options)

    def __iter__(self) -> Iterator[Frame]:
        assert self.killed.wait(60), "nobody killed the decoder"
        raise DecoderCrashed("killed")
        yield

    def kill(self) -> None:
        super().kill()
        self.killed.set()


@pytest.mark.usefixtures("_often")
def test_halt_stops_a_decoder_that_sends_no_frame(
    clip: Path, model: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that seeks in a long film takes minutes; its death is no error then."""
    monkeypatch.setattr("pipeline.stages.VideoReader", _Seeking)
    halt = threading.Event()
    for event in upscale(task(clip, tmp_path / "w"), model, halt=halt):
        if isinstance(event, Working):
            halt.set()
    assert isinstance(event, Stopped)


def test_a_decoder_abandoned_while_it_opens_reads_no_frame(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Opening(_Seeking):
        def __init__(self, *args: Any, **options: Any) -> None:
            stage.abandon()
            super().__init__(*args, **options)

    monkeypatch.setattr("pipeline.stages.VideoReader", Opening)
    identity = Identity(input_sha256="", model="", options=JobOptions())
    stage = DecodeStage(task(clip, tmp_path / "w"), Manifest(identity=identity))
    assert list(stage) == []


@pytest.mark.usefixtures("_often")
def test_halt_stops_the_writing_of_the_result(
    clip: Path, model: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, halt = task(clip, tmp_path / "w"), threading.Event()
    halt.set()
    assert isinstance(list(upscale(work, model, halt=halt))[-1], Stopped)
    halt.clear()
    for event in upscale(work, model, halt=halt):
        if isinstance(event, ChunkDone) and event.progress.frames_saved == 26:
            halt.set()
    assert isinstance(event, Stopped)
    assert event.progress.frames_saved == 26
    assert isinstance(list(upscale(work, model))[-1], Finished)


def other_input(work: UpscaleTask, patch: pytest.MonkeyPatch) -> UpscaleTask:
    return replace(work, source=make_clip(work.folder.parent / "other.mp4", frames=20))


def other_options(work: UpscaleTask, patch: pytest.MonkeyPatch) -> UpscaleTask:
    return replace(work, options=work.options.model_copy(update={"crf": 30}))


def other_gates(work: UpscaleTask, patch: pytest.MonkeyPatch) -> UpscaleTask:
    patch.setattr(Upscaler, "identity", lambda *_: "another")
    return work


def other_encoder(work: UpscaleTask, patch: pytest.MonkeyPatch) -> UpscaleTask:
    """The first run used a hardware encoder, which this machine lacks."""
    manifest = work.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"encoder":"libx264"', '"encoder":"h264_nvenc"'))
    return replace(work, encoder="nvenc")


def missing_segment(work: UpscaleTask, patch: pytest.MonkeyPatch) -> UpscaleTask:
    Checkpoints(work.folder).segment(0).unlink()
    return work


def damaged_state(work: UpscaleTask, patch: pytest.MonkeyPatch) -> UpscaleTask:
    next(work.folder.glob("state-*")).write_bytes(b"\0" * 64)
    return work


def damaged_manifest(work: UpscaleTask, patch: pytest.MonkeyPatch) -> UpscaleTask:
    (work.folder / "manifest.json").write_text("{")
    return work


CHANGES = (other_input, other_options, other_gates, other_encoder, missing_segment, damaged_state, damaged_manifest)


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_that_does_not_match_is_not_used(
    clip: Path,
    model: Upscaler,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[UpscaleTask, pytest.MonkeyPatch], UpscaleTask],
) -> None:
    work = task(clip, tmp_path / "w")
    events = upscale(work, model)
    for event in events:
        if isinstance(event, ChunkDone) and event.number == 2:
            break
    events.close()
    started, *_, finished = list(upscale(change(work, monkeypatch), model))
    assert isinstance(started, Started)
    assert not started.resumed
    assert any("started again" in warning for warning in started.warnings)
    assert isinstance(finished, Finished)
    assert any("started again" in warning for warning in finished.warnings)


def interrupted(work: UpscaleTask, model: Upscaler, chunks: int = 2) -> None:
    events = upscale(work, model)
    next(event for event in events if isinstance(event, ChunkDone) and event.number == chunks - 1)
    events.close()


def identity_of(model: Upscaler) -> Identity:
    return Identity(
        input_sha256="", model=model.identity("off"), weights=model.weights, place=model.place, options=JobOptions()
    )


def test_another_kind_of_device_goes_on_and_says_so(
    clip: Path, model: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU stands in for the GPU that began: the bytes stay those of one run, and the warning comes once."""
    whole, work = task(clip, tmp_path / "whole"), task(clip, tmp_path / "w")
    finish(upscale(whole, model))
    with monkeypatch.context() as patch:
        patch.setattr("model.engine.upscaler.device_kind", lambda device: "cuda")
        gpu = load_model("tiny", weights_dir=tmp_path, device="cpu", precision="fp32", threads=1)
        assert gpu.fingerprint == f"{model.fingerprint}:cuda"
        assert gpu.identity("off") != model.identity("off")
        there = identity_of(gpu)
        interrupted(work, gpu)
    assert identity_of(model).differs(there) == "device or number format"
    assert identity_of(model).differs(there, may_move=True) is None
    interrupted(work, model, chunks=4)
    started, *_, finished = list(upscale(work, model))
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert started.resumed
    (warning,) = (text for text in finished.warnings if "another device" in text)
    assert re.match(r"The first \d+ frames were computed on another device \(cuda, float32\) than the", warning)
    assert finished.path.read_bytes() == (whole.folder / finished.path.name).read_bytes()


def test_another_number_format_goes_on(clip: Path, model: Upscaler, tmp_path: Path) -> None:
    """A worker with other units for numbers takes over; features change their format, finished chunks stay."""
    work = task(clip, tmp_path / "w")
    interrupted(work, model)
    segment = Checkpoints(work.folder).segment(0).read_bytes()
    other = load_model("tiny", weights_dir=tmp_path, device="cpu", precision="bf16", threads=1)
    started, *_, finished = list(upscale(work, other))
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert started.resumed
    assert any("(cpu, float32) than the following ones (cpu, bfloat16)" in text for text in finished.warnings)
    assert Checkpoints(work.folder).segment(0).read_bytes() == segment
    assert finished.progress.frames_done == 26


def test_a_renamed_folder_raises_fenced(clip: Path, model: Upscaler, tmp_path: Path) -> None:
    work = task(clip, tmp_path / "work-1")
    events = upscale(work, model)
    next(event for event in events if isinstance(event, ChunkDone))
    work.folder.rename(tmp_path / "work-2")
    with pytest.raises(Fenced):
        list(events)
    assert not work.folder.exists()


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
from model.engine.upscaler import load_model
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
