"""The flow of a chunk: each frame is reduced once, and both directions equal the flow of the frames alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.engine.calibration import StepTimes, Stopwatch
from model.engine.region_flow import FlowTask, chunk_flows
from model.mask.plan import dense_plan
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.network.propagation import completed


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
        to_next, to_previous = completed(chunk_flows(network, frames[1:], plan, frames[0], times, lambda task: None))
        assert len(reduced) == 4
        for i in range(2):
            found = to_next[i]
            assert found is not None
            assert torch.allclose(found.flow, network.flow(frames[i + 1], frames[i + 2]), atol=1e-5)
            back = to_previous[i]
            assert back is not None
            assert torch.allclose(back.flow, network.flow(frames[i + 1], frames[i]), atol=1e-5)
    assert to_next[2] is None


@pytest.mark.parametrize("emit", [1, 4])
def test_a_negated_flow_is_estimated_once_and_the_same_for_every_chunk(emit: int) -> None:
    torch.manual_seed(0)
    network = BasicVSR(NetworkConfig(8, 1, "light")).eval()
    for p in network.spynet.parameters():
        p.data.normal_(0, 0.05)
    frames, times = list(torch.rand(4, 1, 3, 20, 36).unbind(0)), StepTimes(Stopwatch(torch.device("cpu")))
    plan = replace(dense_plan(torch.zeros(4, 20, 36, 3, dtype=torch.uint8), emit), negated_flow=True)
    tasks: list[FlowTask] = []
    with torch.inference_mode():
        to_next, to_previous = completed(chunk_flows(network, frames, plan, None, times, tasks.append))
        assert [task.directions for task in tasks] == [1, 1, 1]
        assert [flow is None for flow in to_previous] == [True] + [False] * (emit - 1)
        for i in range(3):
            found = to_next[i]
            assert found is not None
            assert torch.allclose(found.flow, -network.flow(frames[i + 1], frames[i]), atol=1e-5)
            if i + 1 < emit:
                back = to_previous[i + 1]
                assert back is not None
                assert torch.equal(back.flow, -found.flow)
