"""How a run of the pipeline ends early: between two chunks, between two steps, and while frames are read or written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jobs.schema import JobOptions
from media.errors import DecoderCrashed
from media.reader import Frame, VideoReader
from model.engine.overlap import Group
from model.engine.upscaler import ChunkResult, Upscaler
from pipeline.checkpoint import Identity, Manifest
from pipeline.events import ChunkDone, Event, Finished, Stopped, Working
from pipeline.stages import DecodeStage
from pipeline.task import UpscaleTask
from pipeline.upscale import upscale
from tests.support.runs import finish, task


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
