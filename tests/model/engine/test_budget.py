"""The longest chunk that fits into the memory, and the memory there is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.engine.budget import available_bytes, halves_beside, longest_chunk, needed_bytes
from model.engine.loading import load_model
from model.engine.upscaler import Upscaler

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Upscaler:
    return load_model("tiny", weights_dir=tmp_path_factory.mktemp("weights"), device="cpu", precision="fp32", threads=1)


@pytest.mark.parametrize(("wanted", "lookahead", "fits"), [(4, 0, 4), (10, 0, 10), (11, 0, 10), (64, 4, 6), (1, 10, 0)])
def test_chunk_and_lookahead_share_the_memory(model: Upscaler, wanted: int, lookahead: int, fits: int) -> None:
    budget = needed_bytes(model, 1000, 10)
    assert longest_chunk(model, 1000, wanted, lookahead, budget=budget) == fits


def test_more_bits_take_more_memory(model: Upscaler) -> None:
    budget = needed_bytes(model, 1000, 10)
    assert longest_chunk(model, 1000, 64, 0, sample_bytes=2, budget=budget) < 10


def test_two_chunks_at_a_time_take_more_memory_than_one_and_less_than_two(model: Upscaler) -> None:
    one = needed_bytes(model, 1000, 10)
    fits = [halves_beside(model, 1000, 10, budget=parts * one // 4) for parts in (2, 4, 8, 12)]
    assert fits[:2] == [0, 0]
    assert 1 <= fits[2] < fits[3]


def test_results_of_a_gpu_fit_into_main_memory(model: Upscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "device", torch.device("cuda"))
    free = {"cuda": 10**12, "cpu": 10**9}
    monkeypatch.setattr("model.engine.budget.usable_bytes", lambda device: free[device.type])
    frame = 1000 * 3 * model.scale**2
    for sample_bytes in (1, 2):
        fits = longest_chunk(model, 1000, 10**6, 0, sample_bytes=sample_bytes)
        assert fits * frame * sample_bytes * 4 <= free["cpu"], "two chunks, each rounded up to a power of two"
        assert fits * frame * sample_bytes * 5 > free["cpu"]
    assert longest_chunk(model, 1000, 24, 2) == 24


def test_a_control_group_limits_the_memory(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("300000000\n")
    (tmp_path / "memory.current").write_text("260000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 10000000\n")
    assert available_bytes(CPU, cgroup=tmp_path) == 50_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(CPU, cgroup=tmp_path) > 50_000_000
