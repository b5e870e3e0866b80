"""The path of accelerators, run on a CPU, computes the frames of the CPU's own path."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.engine import region_flow
from model.engine.chunk import ChunkResult, Frames
from model.engine.upscaler import Upscaler, groups
from model.network.basicvsr import BasicVSR, NetworkConfig

CONFIGS = {
    "light": NetworkConfig(8, 2, "light", "light", coupled=True),
    "light, folded": NetworkConfig(8, 2, "light", "light", coupled=True, scale=2),
    "full": NetworkConfig(8, 2),
}


def _model(config: NetworkConfig, accelerated: bool) -> Upscaler:
    torch.manual_seed(0)
    network = BasicVSR(config)
    for parameter in network.spynet.parameters():
        parameter.data.normal_(0, 0.03)
    return Upscaler("seeded", network, "seeded:0", torch.device("cpu"), torch.float32, accelerated=accelerated)


def _frames(count: int) -> Frames:
    return np.random.default_rng(0).integers(0, 65536, (count, 24, 40, 3), np.uint16)


def _results(model: Upscaler, frames: Frames, chunk: int) -> list[ChunkResult]:
    made, state = list[ChunkResult](), None
    for group, last in groups(frames, chunk, 2):
        made.append(model.forward(np.stack(group), state, lookahead=2, last=last))
        state = made[-1].state
    return made


def _assert_close(one: Frames, other: Frames) -> None:
    """Within a level of 65,535: 1.5e-5 after rounding."""
    assert np.abs(one.astype(np.int32) - other.astype(np.int32)).max() <= 1


@pytest.mark.parametrize("name", CONFIGS)
def test_the_frames_are_those_of_the_cpu(name: str) -> None:
    here, there = (
        _model(CONFIGS[name], accelerated).forward(_frames(4), None, lookahead=1, last=False)
        for accelerated in (False, True)
    )
    _assert_close(here.frames, there.frames)
    assert here.state.feat is not None
    assert there.state.feat is not None
    assert torch.allclose(here.state.feat, there.state.feat, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_chunks_of_every_size_give_the_frames_of_the_whole_clip(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, frames = _model(CONFIGS[name], accelerated=True), _frames(5)
    whole = model.forward(frames, None, lookahead=8, last=True).frames
    for chunk in (3, 4):
        parts = _results(model, frames, chunk)
        _assert_close(np.concatenate([part.frames for part in parts]), whole)
    monkeypatch.setattr(region_flow, "FLOW_BYTES", 0)  # no batches
    _assert_close(model.forward(frames, None, lookahead=8, last=True).frames, whole)


def test_batches_of_flows_keep_within_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = _model(CONFIGS["light"], accelerated=True), list[int]()
    plainly = model.network.flow_between

    def flow_between(ref: region_flow.Pyramid, supp: region_flow.Pyramid) -> torch.Tensor:
        seen.append(len(ref.images[0]))
        return plainly(ref, supp)

    monkeypatch.setattr(model.network, "flow_between", flow_between)
    model.forward(_frames(5), None, lookahead=0, last=True)
    monkeypatch.setattr(region_flow, "FLOW_BYTES", 5 * region_flow.flow_bytes(model.network) * 24 * 40)
    model.forward(_frames(5), None, lookahead=0, last=True)
    assert seen == [8, 4, 4]
