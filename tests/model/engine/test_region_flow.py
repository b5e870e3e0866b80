"""The flow of a chunk: each frame is reduced once, and both directions equal the flow of the frames alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.engine.calibration import StepTimes, Stopwatch
from model.engine.region_flow import chunk_flows
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
