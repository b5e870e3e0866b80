"""The streaming engine: `forward(chunk, state) -> (frames, state)` over a stream of any length.

The forward branch carries its hidden features from chunk to chunk without loss. The backward branch starts anew in each
chunk, `lookahead` frames beyond its end. So with `lookahead` at least what is left of the stream the result equals that
of the whole clip, for every chunk size, and with `lookahead=0` and one frame a chunk the stream is causal.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.cuts import find_cuts
from model.device import resolve_device, resolve_dtype, set_threads
from model.errors import DeviceError, StateMismatch
from model.estimator import Estimator, estimator_path, load_estimator
from model.execute import Carried, normalised, run_chunk
from model.network import SCALE, BasicVSR, NetworkConfig
from model.plan import ChunkPlan, dense_plan, plan_chunk
from model.routing import LIGHT_OVERHEAD, Preset, RoutingReport, preset
from model.skipping import Skipper, make_skipper
from model.state import RecurrentState
from model.weights import default_name, load_network

CALIBRATION_FRAMES, CALIBRATION_ROUNDS = 4, 3
"""How the dense network's time is measured, once for each size of frame."""

T = TypeVar("T")
Frames = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class ChunkResult:
    """What one call of `Upscaler.forward` gives back."""

    frames: Frames
    """[T', 4 H, 4 W, 3] in the type of the input."""
    state: RecurrentState
    reports: list[RoutingReport]
    """One for each emitted frame."""
    cuts: list[int] = field(default_factory=list)
    """Indices into `frames` at which a new scene starts."""

    @property
    def dense_seconds(self) -> float:
        """What the dense network takes for these frames, measured on this machine, under the same load."""
        return sum(report.dense_seconds for report in self.reports)

    @property
    def seconds(self) -> float:
        """What these frames took, calibration not counted."""
        return sum(report.seconds for report in self.reports)


class Upscaler:
    """A network on a device, ready to run. It holds no stream's state: one serves any number of streams in turn."""

    scale = SCALE

    def __init__(
        self,
        name: str,
        network: BasicVSR,
        fingerprint: str,
        device: torch.device,
        dtype: torch.dtype,
        estimator: Estimator | None = None,
    ) -> None:
        self.name = name
        self.fingerprint = f"{fingerprint}:{str(dtype).removeprefix('torch.')}"
        self.device, self.dtype = device, dtype
        network = network.eval().requires_grad_(False).to(dtype).to(device)
        self.estimator = estimator.ready(device, dtype) if estimator is not None else None
        self._dense_timings: dict[tuple[object, ...], dict[tuple[int, int], list[float]]] = {}
        self.network: BasicVSR = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def config(self) -> NetworkConfig:
        """The network's hyperparameters."""
        return self.network.config

    @torch.inference_mode()
    def forward(
        self, frames: Frames, state: RecurrentState | None, *, lookahead: int, last: bool, routing: str | Preset = "off"
    ) -> ChunkResult:
        """Upscale the next frames of a stream.

        `frames` [T, H, W, 3] uint8 or uint16 RGB follow those of earlier calls; `state` is what the call before
        returned, None at the start. The last `lookahead` frames are held back until more come, or until `last` says
        that none will. A scene cut starts both branches anew: frames before it get nothing from behind it, and those
        after it are as if the stream began there. Raises StateMismatch where the state is another model's, or the
        frames have another size or type than before, and DeviceError where the device is out of memory (the state given
        is still good then).
        """
        started, busy = time.perf_counter(), self._clock()
        numbers = self.preset(routing) if isinstance(routing, str) else routing
        stored = self._join(frames, state)
        emit = len(stored) if last else max(len(stored) - lookahead, 0)
        before = state.to(self.device) if state is not None else RecurrentState(self.fingerprint, stored[:0])
        begin = before
        if not emit:
            empty = np.empty((0, frames.shape[1] * SCALE, frames.shape[2] * SCALE, 3), frames.dtype)
            return ChunkResult(empty, replace(before, pending=stored), [])
        cuts = find_cuts(stored, before.last)
        parts: list[Tensor] = []
        plans: list[tuple[ChunkPlan, Skipper | None]] = []
        bounds = [0, *(cut for cut in cuts if cut), len(stored)]
        for start, end in pairwise(bounds):
            if start >= emit:
                break  # a scene of the look-ahead alone: its turn comes
            if start in cuts:
                before = RecurrentState(self.fingerprint, stored[:0])
            scene = stored[start:end]
            gates = make_skipper(self.network, self.estimator, numbers, scene.shape[1] * scene.shape[2])
            part, plan, before = self._scene(scene, min(end, emit) - start, before, numbers, gates)
            parts.append(part)
            plans.append((plan, gates))
        after = replace(before, pending=stored[emit:].clone())
        upscaled = torch.cat(parts) if len(parts) > 1 else parts[0]
        out = upscaled.cpu().numpy()
        seconds, busy = (time.perf_counter() - started) / emit, (self._clock() - busy) / emit
        routed = any(plan.halo or gates for plan, gates in plans)
        dense = seconds * self._dense_seconds(stored, emit, begin, last=last) / busy if routed else seconds
        reports = [report for plan, gates in plans for report in self._reports(plan, gates, seconds, dense)]
        return ChunkResult(out, after, reports, cuts=[cut for cut in cuts if cut < emit])

    def _scene(
        self, frames: Tensor, emit: int, before: RecurrentState, numbers: Preset, gates: Skipper | None
    ) -> tuple[Tensor, ChunkPlan, RecurrentState]:
        """Frames of one scene, of which the first `emit` are emitted: their HR frames, and the state after them."""
        index = 0 if before.index is None else int(before.index)
        plan = plan_chunk(frames, emit, before.reference, index, numbers)
        try:
            upscaled, feat = run_chunk(
                self.network, [normalised(frame) for frame in frames], plan, self._carried(before), frames.dtype, gates
            )
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"{self.device} ran out of memory at {frames.shape[2]}x{frames.shape[1]} with {len(frames)} frames; "
                "use a smaller chunk or a smaller model"
            ) from error
        after = RecurrentState(
            self.fingerprint,
            pending=frames[:0],
            last=frames[emit - 1].clone(),
            feat=feat[0].contiguous(),  # here, not when it is saved: that is another thread (see `load_model`)
            hr=upscaled[-1].clone(),
            reference=plan.reference,
            index=torch.tensor(index + emit),
        )
        return upscaled, plan, after

    def preset(self, name: str, **changes: float) -> Preset:
        """The preset of that name, for this network, with some of its numbers changed. Raises ModelError."""
        light = {"overhead": LIGHT_OVERHEAD} if self.config.tail == "light" else {}
        return preset(name, **{**light, **changes})

    def _clock(self) -> float:
        """Seconds that tell a routed chunk from a dense one, and not a busy machine from an idle one.

        On a CPU those of this thread, which has its share of all that the network computes, without the time in which
        the cores were others': an encoder's, another stream's. So a chunk and the dense frames of another time compare.
        """
        return time.thread_time() if self.device.type == "cpu" else time.perf_counter()

    def _dense_seconds(self, stored: Tensor, emit: int, before: RecurrentState, *, last: bool) -> float:
        """What a frame of this size takes densely, by `_clock`: measured in the first chunks, then kept.

        Of a long chunk on a few frames, whose look-ahead's share does not count: that makes the speed-up that is told
        from it the smaller. A short one is run again as it is, for there the look-ahead is most of the work. What is
        left of a stream at its end is held to the chunks before it.
        """
        if emit > CALIBRATION_FRAMES:
            stored, emit = stored[:CALIBRATION_FRAMES], CALIBRATION_FRAMES
            before = RecurrentState(self.fingerprint, stored[:0])
        by_chunk = self._dense_timings.setdefault((*stored.shape[1:3], stored.dtype), {})
        chunk = (emit, len(stored))
        timings = next(reversed(by_chunk.values())) if last and by_chunk else by_chunk.setdefault(chunk, [])
        if not timings:
            self._run_densely(stored, emit, before)  # kernels are prepared for a size when they first meet it
        if len(timings) < CALIBRATION_ROUNDS and not (last and timings):
            started = self._clock()
            self._run_densely(stored, emit, before)
            timings.append((self._clock() - started) / emit)
        return median(timings)

    def _run_densely(self, frames: Tensor, emit: int, before: RecurrentState) -> None:
        plan, carried = dense_plan(frames, emit), self._carried(before)
        run_chunk(self.network, [normalised(frame) for frame in frames], plan, carried, frames.dtype)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _carried(self, before: RecurrentState) -> Carried | None:
        if before.last is None or before.feat is None or before.hr is None:
            return None
        feat = before.feat[None].contiguous(memory_format=torch.channels_last)
        return Carried(normalised(before.last), feat, before.hr)

    def _reports(self, plan: ChunkPlan, gates: Skipper | None, seconds: float, dense: float) -> list[RoutingReport]:
        """The look-ahead frames' work is shared out among the emitted ones."""
        emit, blocks, tiles = len(plan.forward), self.config.blocks, plan.tiles[0] * plan.tiles[1]
        backward = [plan.computed(boxes) for boxes in plan.backward]
        shares = gates.shares if gates else {"backward": [0.0] * len(backward), "forward": [0.0] * emit}
        backward_share = shares["backward"][::-1]
        backward_skipped = [n * share for n, share in zip(backward, backward_share, strict=True)]
        beyond, beyond_run = (len(backward) - emit) * tiles / emit, sum(backward[emit:]) / emit
        beyond_skipped = sum(backward_skipped[emit:]) / emit
        reports = []
        for i, boxes in enumerate(plan.forward):
            forward = plan.computed(boxes)
            total, met = blocks * (2 * tiles + beyond), blocks * (forward + backward[i] + beyond_run)
            skipped = blocks * (forward * shares["forward"][i] + backward_skipped[i] + beyond_skipped)
            reused = round(total - met)
            run = plan.painted(boxes) * (1 - shares["forward"][i])
            run = run + plan.painted(plan.backward[i]) * (1 - backward_share[i])
            left_out = (1 - run / 2).astype(np.float32)
            reports.append(
                RoutingReport(round(total), reused, round(skipped), tiles - forward, seconds, dense, left_out)
            )
        return reports

    def _join(self, frames: Frames, state: RecurrentState | None) -> Tensor:
        """The frames held back and the new ones, on the device, as they came in."""
        if frames.dtype not in (np.uint8, np.uint16) or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(f"frames must be uint8 or uint16 [T, H, W, 3], not {frames.dtype} {list(frames.shape)}")
        new = torch.from_numpy(np.ascontiguousarray(frames)).to(self.device)
        if state is None:
            return new
        if state.model != self.fingerprint:
            raise StateMismatch(
                f"the state was made by {state.model}, this is {self.fingerprint}; start the stream again"
            )
        if state.size != tuple(new.shape[1:3]) or state.pending.dtype != new.dtype:
            (h, w), kind = state.size, str(state.pending.dtype).removeprefix("torch.")
            raise StateMismatch(
                f"the stream began with {w}x{h} {kind} frames and goes on with {frames.shape[2]}x{frames.shape[1]} "
                f"{frames.dtype} ones; start a new stream where the size changes"
            )
        return torch.cat([state.pending.to(self.device), new])


def load_model(
    name: str, *, weights_dir: Path, device: str = "auto", precision: str = "auto", threads: int = 0
) -> Upscaler:
    """Load a model by name (`auto`: the best one for the device) onto a device. Raises ModelError."""
    where = resolve_device(device)
    dtype = resolve_dtype(precision, where)
    if where.type == "cpu":
        set_threads(threads)
    if name == "auto":
        name = default_name(where, weights_dir)

    def load() -> Upscaler:
        network, fingerprint = load_network(name, weights_dir)
        estimator = load_estimator(estimator_path(name), fingerprint)
        return Upscaler(name, network, fingerprint, where, dtype, estimator)

    # Each thread that runs torch on several cores keeps OpenMP threads of its own; where they are more than the cores,
    # all of them sleep at each barrier, and BasicVSR takes 1.45 times as long. Loading, which is torch's work too, is
    # therefore left to a thread that ends: the cores belong to the one that calls `forward`.
    with ThreadPoolExecutor(1) as passing:
        return passing.submit(load).result()


def groups(items: Iterable[T], chunk: int, lookahead: int) -> Iterator[tuple[list[T], bool]]:
    """Cut a stream into what `Upscaler.forward` is to be given call by call, so that it emits `chunk` frames each time.

    Yields (items, last): first chunk + lookahead of them, then `chunk` at a time, and whatever is left with last=True.
    A group is empty only if the stream is.
    """
    iterator = iter(items)
    group = list(islice(iterator, chunk + lookahead))
    while True:
        following = list(islice(iterator, chunk))
        yield group, not following
        if not following:
            return
        group = following
