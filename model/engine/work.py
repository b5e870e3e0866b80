"""The work of a chunk, step by step: how much is done, and a chance to stop between two steps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from model.engine.calibration import FLOW_PACE, OUTPUT_PACE
from model.engine.region_flow import planned_flows
from model.mask.plan import ChunkPlan
from model.network.basicvsr import BasicVSR
from model.network.macs import SIDE, step_macs

Observer = Callable[[float], None]
"""Called before the first step and after each step of a chunk, with the fraction of the chunk's work that is done.

The calls come one at a time, perhaps from several threads; the fraction never falls. A step is the flow between two
frames, a backward step or a forward step. The fraction is 1 while the dense network is measured. The observer may raise
`Interrupted`. The call of the network then ends, and the state before the chunk stays valid; a chunk that is complete
still comes out, without a measured speedup.
"""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class StepCosts:
    """Relative cost of each kind of step for a feature pixel."""

    flow: float
    """In one direction."""
    backward: float
    forward: float
    """With the reconstruction of the HR frame."""

    @classmethod
    def of(cls, network: BasicVSR) -> StepCosts:
        """Estimate the costs of a network from its multiply-accumulates."""
        macs, area = step_macs(network), SIDE**2
        flow, output = macs.flow * FLOW_PACE, macs.output * OUTPUT_PACE
        return cls(flow / area, macs.backward / area, (macs.forward + output) / area)

    def of_plan(self, plan: ChunkPlan, h: int, w: int, *, continues: bool) -> float:
        """Estimate the cost of a plan for frames of `h` x `w` feature pixels; `continues`: a frame comes before."""
        flow = sum(task.region.area * task.directions for task in planned_flows(plan, h, w, continues=continues))
        backward = sum(r.area for index in range(len(plan.backward)) for r in plan.backward_trunk(index))
        forward = sum(rectangle.area for rectangles in plan.forward for rectangle in rectangles)
        return flow * self.flow + backward * self.backward + forward * self.forward


class Interrupted(Exception):
    """An observer ends the call of the network."""


class Work:
    """Counts the finished steps of a chunk, and tells an observer. Thread-safe.

    Args:
        costs: the cost of each kind of step.
        total: cost of the whole chunk; 0: the fraction is always 1.
        observer: called at once, and after each step.
    """

    def __init__(self, costs: StepCosts, total: float, observer: Observer) -> None:
        self.costs = costs
        self._total, self._observer, self._done = total, observer, 0.0
        self._lock = threading.Lock()
        self.add(0.0)

    @classmethod
    def finished(cls, observer: Observer) -> Work:
        """Steps beyond the work of a chunk."""
        return cls(StepCosts(0.0, 0.0, 0.0), 0.0, observer)

    def add(self, cost: float) -> None:
        """Count a finished step."""
        with self._lock:
            self._done += cost
            if not self._total:
                self._observer(1.0)
            elif self._done < self._total * (1 - _ROUNDING):
                self._observer(self._done / self._total)
            else:
                with suppress(Interrupted):  # the last step is done: nothing is left to interrupt
                    self._observer(1.0)
