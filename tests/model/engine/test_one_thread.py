"""One thread for all work on a GPU; the CPU stands in for the GPU."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.engine import one_thread
from model.engine.loading import load_model
from model.engine.upscaler import Group, Request, Upscaler

FRAMES = np.random.default_rng(1).integers(0, 256, (6, 32, 48, 3), np.uint8)
GROUPS = [Group(FRAMES[:3], False, lambda _: None), Group(FRAMES[3:], True, lambda _: None)]


@pytest.fixture
def model(tmp_path: Path) -> Upscaler:
    return load_model("tiny", weights_dir=tmp_path, device="cpu", precision="fp32", threads=1)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the threads in which networks compute."""
    names: set[str] = set()
    plan = Upscaler._plan

    def watched(self: Upscaler, *given: Any) -> Any:
        names.add(threading.current_thread().name)
        return plan(self, *given)

    monkeypatch.setattr(Upscaler, "_plan", watched)
    return names


def streamed(model: Upscaler) -> list[Any]:
    return [result.frames for result in model.stream(GROUPS, None, lookahead=0)]


def all_ways(model: Upscaler) -> list[Any]:
    """Frames from each method that computes, called from threads of their own, as jobs and streams do."""
    request = Request(FRAMES[:3], None, 0, True, "off")
    calls: tuple[Callable[[], list[Any]], ...] = (
        lambda: streamed(model),
        lambda: streamed(model),
        lambda: [model.forward(FRAMES[:3], None, lookahead=0, last=True).frames],
        lambda: [result.frames for result in model.forward_many([request])],  # type: ignore[union-attr]
    )
    found = []
    for call in calls:
        with ThreadPoolExecutor(1) as thread:
            found += thread.submit(call).result()
    return found


def test_all_work_on_a_gpu_has_one_thread(model: Upscaler, seen: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = all_ways(model)
    assert len(seen) == 4, "on a CPU each caller computes itself"
    assert not any(name.startswith("gpu") for name in seen)
    seen.clear()
    monkeypatch.setattr(one_thread, "_is_gpu", lambda device: True)
    assert all(np.array_equal(a, b) for a, b in zip(all_ways(model), expected, strict=True))
    assert seen == {"gpu_0"}
    assert model.dense_seconds(32, 48, 1) > 0


def test_errors_and_the_end_of_a_stream_reach_the_gpus_thread(
    model: Upscaler, seen: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_thread, "_is_gpu", lambda device: True)
    results = model.stream(GROUPS, None, lookahead=0)
    next(results)
    results.close()
    assert next(results, None) is None
    broken = model.stream([Group(FRAMES[0], True, lambda _: None)], None, lookahead=0)
    with pytest.raises(ValueError, match="frames must be"):
        next(broken)
    with pytest.raises(ValueError, match="frames must be"):
        model.forward(FRAMES[0], None, lookahead=0, last=True)


def test_a_gpu_has_no_crew_of_threads(model: Upscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads beside each other would build each plan twice."""
    monkeypatch.setattr(model, "device", torch.device("cuda"))
    monkeypatch.setattr(one_thread, "_is_gpu", lambda device: False)
    monkeypatch.setattr("model.engine.upscaler.Crew", None)
    monkeypatch.setattr("model.engine.upscaler.torch.get_num_threads", lambda: 8)
    assert len(streamed(model)) == 2
