"""The flow of a chunk: each frame is reduced once, and both directions equal the flow of the frames alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.engine.calibration import StepTimes, Stopwatch
from model.engine.region_flow import pair_flows, planned_flows
from model.mask.plan import dense_plan
from model.network.basicvsr import BasicVSR, NetworkConfig


@pytest.mark.parametrize("kind", ["light", "spynet"])
def test_each_frame_of_a_dense_chunk_is_reduced_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = BasicVSR(NetworkConfig(8, 1, kind)).eval()  # type: ignore[arg-type]
    for p in network.spynet.parameters():
        p.data.normal_(0, 0.05)
    frames = list(torch.rand(4, 1, 3, 20, 36).unbind(0))
    plan = dense_plan(torch.zeros(3, 20, 36, 3, dtype=torch.uint8), 2)
    reduced: list[Tensor] = []
    plainly, times = network.pyramid, StepTimes(Stopwatch(torch.device("cpu")))

    def pyramid(lr: Tensor) -> object:
        reduced.append(lr)
        return plainly(lr)

    with torch.inference_mode():
        monkeypatch.setattr(network, "pyramid", pyramid)
        tasks = planned_flows(plan, 20, 36, continues=True)
        found = list(pair_flows(network, frames[1:], tasks, frames[0], times))
        assert len(reduced) == 4
        assert [task.index for task, _, _ in found] == [1, 0, -1], "the backward branch begins at the last frame"
        for task, to_next, back in found:
            older, newer = frames[task.index + 1], frames[task.index + 2]
            for flow, wanted in ((to_next, (older, newer)), (back, (newer, older))):
                if flow is not None:
                    assert torch.allclose(flow.flow, network.flow(*wanted), atol=1e-3)  # pixels
    assert [(to_next is None, back is None) for _, to_next, back in found] == [
        (False, True), (False, False), (True, False)
    ]  # fmt: skip


@pytest.mark.parametrize("emit", [1, 4])
def test_a_negated_flow_is_estimated_once_and_the_same_for_every_chunk(emit: int) -> None:
    torch.manual_seed(0)
    network = BasicVSR(NetworkConfig(8, 1, "light")).eval()
    for p in network.spynet.parameters():
        p.data.normal_(0, 0.05)
    frames, times = list(torch.rand(4, 1, 3, 20, 36).unbind(0)), StepTimes(Stopwatch(torch.device("cpu")))
    plan = replace(dense_plan(torch.zeros(4, 20, 36, 3, dtype=torch.uint8), emit), negated_flow=True)
    with torch.inference_mode():
        tasks = planned_flows(plan, 20, 36, continues=False)
        found = list(pair_flows(network, frames, tasks, None, times))
        assert [task.directions for task in tasks] == [1, 1, 1]
        for task, to_next, back in found:
            assert to_next is not None
            assert torch.allclose(to_next.flow, -network.flow(frames[task.index + 1], frames[task.index]), atol=1e-3)
            assert (back is not None) == (task.index + 1 < emit)
            assert back is None or torch.equal(back.flow, -to_next.flow)
