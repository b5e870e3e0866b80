"""Checkpoints of other runs: which ones a run goes on with, and which ones it leaves."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.schema import JobOptions
from jobs.storage import Fenced
from model.engine.loading import load_model
from model.engine.upscaler import Upscaler
from pipeline.checkpoint import Checkpoints, Identity
from pipeline.events import ChunkDone, Finished, Started
from pipeline.task import UpscaleTask
from pipeline.upscale import upscale
from tests.support.clips import make_clip
from tests.support.runs import finish, task


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
