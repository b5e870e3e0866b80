"""Plan a request: join the frames, find the scene cuts, and plan each scene."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from model.device import one_thread
from model.engine.chunk import Chunk, Frames, Request, Scene
from model.engine.clock import Seconds
from model.engine.scene_cuts import find_scene_cuts
from model.engine.state import RecurrentState
from model.engine.transfers import Transfers
from model.errors import StateMismatch
from model.gates.estimator import Estimator
from model.gates.skipping import make_skipper
from model.mask.plan import plan_chunk
from model.network.basicvsr import BasicVSR
from model.network.folding import fold_frames
from model.routing import Preset


class Planner:
    """Plans the chunks of streams for one network on a device."""

    def __init__(self, network: BasicVSR, estimator: Estimator | None, fingerprint: str, device: torch.device) -> None:
        self._network, self._estimator, self._fingerprint, self._device = network, estimator, fingerprint, device
        self._transfers = Transfers(device)

    def plan(self, request: Request, numbers: Preset, spent: Seconds) -> Chunk:
        """Return the next chunk of a stream, planned with the numbers of a preset.

        The state of the request needs no features and no HR frame. `spent` becomes the chunk's time of planning. Raises
        StateMismatch if the state belongs to another model or another frame size.
        """
        state = request.state
        stored = self.join(request.frames, state)
        emit = len(stored) if request.last else max(len(stored) - request.lookahead, 0)
        before = state.to(self._device) if state is not None else self._fresh(stored)
        with one_thread():
            cuts = find_scene_cuts(stored, before.last) if emit else []
            scenes = self._scenes(stored, emit, before, cuts, numbers)
        return Chunk(stored, emit, request.last, before, cuts, scenes, spent, request.yuv)

    def join(self, frames: Frames, state: RecurrentState | None) -> Tensor:
        """Return the pending frames of a state and the new frames [T, H, W, 3] as one tensor on the device."""
        if frames.dtype not in (np.uint8, np.uint16) or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(f"frames must be uint8 or uint16 [T, H, W, 3], not {frames.dtype} {list(frames.shape)}")
        new = self._transfers.upload(frames)
        if state is None:
            return new
        if state.model != self._fingerprint:
            raise StateMismatch(
                f"the state belongs to model {state.model}, this is {self._fingerprint}; start the stream again"
            )
        if state.size != tuple(new.shape[1:3]) or state.pending.dtype != new.dtype:
            (h, w), kind = state.size, str(state.pending.dtype).removeprefix("torch.")
            raise StateMismatch(
                f"the stream began with {w}x{h} {kind} frames and continues with "
                f"{frames.shape[2]}x{frames.shape[1]} {frames.dtype} frames; start a new stream when the size changes"
            )
        return torch.cat([state.pending.to(self._device), new])

    def _scenes(
        self, stored: Tensor, emit: int, before: RecurrentState, cuts: list[int], numbers: Preset
    ) -> list[Scene]:
        """Plan the scenes of `stored` [T, H, W, 3] that have frames to emit."""
        scenes = []
        for start, end in pairwise([0, *(cut for cut in cuts if cut), len(stored)]):
            if start >= emit:
                break  # a scene of look-ahead frames only: a later chunk plans that scene
            frames, due = stored[start:end], min(end, emit) - start
            folded = fold_frames(frames, self._network.fold)
            state = before if start not in cuts else self._fresh(stored)  # only the first scene can begin without a cut
            index = 0 if state.index is None else int(state.index)
            gates = make_skipper(self._network, self._estimator, numbers, folded)
            plan = plan_chunk(folded, due, state.reference, index, numbers)
            scenes.append(Scene(frames, folded, due, state, index, plan, gates))
        return scenes

    def _fresh(self, stored: Tensor) -> RecurrentState:
        """Return the state at the start of a scene."""
        return RecurrentState(self._fingerprint, stored[:0])
