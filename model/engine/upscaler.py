"""The streaming engine: `forward(chunk, state) -> (frames, state)` over a stream of any length.

The forward branch carries its hidden features from chunk to chunk without loss. The backward branch starts anew in each
chunk, `lookahead` frames beyond its end. So with `lookahead` at least what is left of the stream the result equals that
of the whole clip, for every chunk size, and with `lookahead=0` and one frame a chunk the stream is causal.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.device import narrowed, one_thread, resolve_device, resolve_dtype, set_threads
from model.engine.calibration import DenseTimes
from model.engine.chunk import Chunk, ChunkResult, Frames, Request, Scene
from model.engine.execute import Carried, normalised, run_chunk
from model.engine.scene_cuts import find_cuts
from model.engine.state import RecurrentState
from model.errors import DeviceError, StateMismatch
from model.gates.estimator import Estimator, load_estimator
from model.gates.skipping import Skipper, make_skipper
from model.mask.crop_cost import crop_overhead
from model.mask.plan import ChunkPlan, dense_plan, plan_chunk
from model.network.basicvsr import SCALE, BasicVSR, NetworkConfig
from model.routing import Preset, RoutingReport, preset
from model.zoo.models import DEFAULT_MODEL, card, load_network, usable_estimator

__all__ = ["ChunkResult", "Frames", "Request", "Upscaler", "groups", "load_model"]

FULL_CONFIDENCE = 0.025
"""`Preset.confidence` of `fast` for the paper's network, where that was adapted to its gates: it is nearer to the truth
than a light one, and so has more to lose."""

A = TypeVar("A")
T = TypeVar("T")


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
        narrowed(network.eval().requires_grad_(False), dtype).to(device)
        self.estimator = estimator.ready(device, dtype) if estimator is not None else None
        self._dense_times = DenseTimes()
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
        return self._finish([self._begin(Request(frames, state, lookahead, last, routing))])[0]

    @torch.inference_mode()
    def forward_many(self, requests: Sequence[Request]) -> list[ChunkResult | Exception]:
        """`forward` for several streams that have nothing to do with each other: each one's result, or its error.

        Those that agree in size, type and number of frames, that begin a scene together or go on, and whose frames are
        computed as a whole (with routing, where all has changed), go through the network as one batch; the others one
        by one. A batch that fails is run again one by one, so that a failure is of the stream whose frames cause it.
        """
        outcomes: dict[int, ChunkResult | Exception] = {}
        batches: dict[object, list[tuple[int, Chunk]]] = {}
        for index, request in enumerate(requests):
            begun = _attempt(self._begin, request)
            if isinstance(begun, Exception):
                outcomes[index] = begun
            else:
                batches.setdefault(begun.kind or index, []).append((index, begun))
        for batch in batches.values():
            together = _attempt(self._finish, [chunk for _, chunk in batch])
            if not isinstance(together, Exception):
                outcomes.update(zip((index for index, _ in batch), together, strict=True))
            elif len(batch) == 1:
                outcomes[batch[0][0]] = together
            else:
                del together  # and the memory of what it was about
                for index, chunk in batch:
                    alone = _attempt(self._finish, [chunk])
                    outcomes[index] = alone if isinstance(alone, Exception) else alone[0]
        return [outcomes[index] for index in range(len(requests))]

    def _begin(self, request: Request) -> Chunk:
        """The chunk that is due, its scenes found and planned. Raises DeviceError where memory is short."""
        begun = self._clocks()
        routing, state = request.routing, request.state
        numbers = self.preset(routing) if isinstance(routing, str) else routing
        with self._memory_for(request.frames.shape):
            stored = self._join(request.frames, state)
            emit = len(stored) if request.last else max(len(stored) - request.lookahead, 0)
            before = state.to(self.device) if state is not None else RecurrentState(self.fingerprint, stored[:0])
            with one_thread():
                cuts, scenes = self._planned(stored, emit, before, numbers)
        return Chunk(stored, emit, request.last, before, cuts, scenes, self._clocks() - begun)

    def _planned(
        self, stored: Tensor, emit: int, before: RecurrentState, numbers: Preset
    ) -> tuple[list[int], list[Scene]]:
        """Where new scenes begin in `stored`, and the scenes that are due."""
        cuts = find_cuts(stored, before.last) if emit else []
        scenes = []
        for start, end in pairwise([0, *(cut for cut in cuts if cut), len(stored)]):
            if start >= emit:
                break  # a scene of the look-ahead alone: its turn comes
            goes_on = start not in cuts  # the first one does; any other begins with a cut
            frames, due = stored[start:end], min(end, emit) - start
            carried = before if goes_on else RecurrentState(self.fingerprint, stored[:0])
            index = 0 if carried.index is None else int(carried.index)
            gates = make_skipper(self.network, self.estimator, numbers, frames)
            plan = plan_chunk(frames, due, carried.reference, index, numbers)
            scenes.append(Scene(frames, due, carried, index, plan, gates))
        return cuts, scenes

    def _finish(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        """Compute chunks, several only if they are of one kind. Raises DeviceError where memory is short."""
        begun = self._clocks()
        upscaled: list[list[Tensor]] = [[] for _ in chunks]
        states = [chunk.before for chunk in chunks]
        with self._memory_for(chunks[0].stored.shape):
            for scenes in zip(*(chunk.scenes for chunk in chunks), strict=True):
                for index, (part, state) in enumerate(self._scenes(scenes)):
                    upscaled[index].append(part)
                    states[index] = state
            frames = [self._frames(chunk, parts) for chunk, parts in zip(chunks, upscaled, strict=True)]
        share = (self._clocks() - begun) / len(chunks)
        results = []
        for chunk, out, state in zip(chunks, frames, states, strict=True):
            after = replace(state, pending=chunk.stored[chunk.emit :].clone())
            reports = self._reports_of(chunk, share)
            cuts = [cut for cut in chunk.cuts if cut < chunk.emit]
            results.append(ChunkResult(out, after, reports, cuts, len(chunks)))
        return results

    @contextmanager
    def _memory_for(self, shape: Sequence[int]) -> Iterator[None]:
        """Raise DeviceError where it does not do for frames [T, H, W, 3]."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            count, h, w = shape[:3]
            raise DeviceError(
                f"{self.device} ran out of memory at {w}x{h} with {count} frames; "
                "use a smaller chunk or a smaller model"
            ) from error

    @staticmethod
    def _frames(chunk: Chunk, parts: list[Tensor]) -> Frames:
        if not parts:
            _, h, w, _ = chunk.stored.shape
            parts = [chunk.stored.new_empty(0, h * SCALE, w * SCALE, 3)]
        return (torch.cat(parts) if len(parts) > 1 else parts[0]).cpu().numpy()

    def _scenes(self, scenes: Sequence[Scene]) -> list[tuple[Tensor, RecurrentState]]:
        """Of each scene the HR frames, and the state after them. Several scenes are a batch."""
        first = scenes[0]
        lr = [_batched([normalised(scene.frames[i]) for scene in scenes]) for i in range(len(first.frames))]
        carried = self._carried([scene.before for scene in scenes])
        network = first.gates.network if first.gates else self.network
        upscaled, feat = run_chunk(network, lr, first.plan, carried, first.frames.dtype, first.gates)
        after = [
            RecurrentState(
                self.fingerprint,
                pending=scene.frames[:0],
                last=scene.frames[scene.emit - 1].clone(),
                feat=features.contiguous(),  # here, not when it is saved: that is another thread (see `load_model`)
                hr=out[-1].clone(),
                reference=scene.plan.reference,
                index=torch.tensor(scene.index + scene.emit),
            )
            for scene, out, features in zip(scenes, upscaled, feat, strict=True)
        ]
        return list(zip(upscaled, after, strict=True))

    def preset(self, name: str, **changes: float) -> Preset:
        """The preset of that name, for this network here, with some of its numbers changed. Raises ModelError."""
        numbers: dict[str, float] = {"overhead": crop_overhead(self.config, self.device, self.dtype)}
        made = preset(name, **{**numbers, **changes})
        if self.config.tail == "full" and made.confidence and "confidence" not in changes:
            # Frozen, the paper's network loses more by skipped blocks than by the upsampler's gate (model/LOG.md).
            adapted = self.estimator is not None and self.estimator.adapted is not None
            made = replace(made, confidence=FULL_CONFIDENCE if adapted else 0.0)
        return made

    def identity(self, routing: str) -> str:
        """What tells apart models that make different frames of the same ones: weights, type, the router's numbers, and
        gates if at work. What a crop costs is left out: it differs from machine to machine, on which a job may go on.
        """
        numbers = self.preset(routing, overhead=0)
        gated = self.estimator is not None and (numbers.confidence > 0 or numbers.tail_confidence > 0)
        told = f"{numbers}{self.estimator.digest if self.estimator is not None and gated else ''}"
        return f"{self.fingerprint}:{hashlib.sha256(told.encode()).hexdigest()[:16]}"

    def _clock(self) -> float:
        """Seconds that tell a routed chunk from a dense one, and not a busy machine from an idle one.

        On a CPU those of this thread, which has its share of all that the network computes, without the time in which
        the cores were others': an encoder's, another stream's. So a chunk and the dense frames of another time compare.
        """
        return time.thread_time() if self.device.type == "cpu" else time.perf_counter()

    def _clocks(self) -> NDArray[np.float64]:
        """Seconds on the wall, and by `_clock`."""
        return np.array([time.perf_counter(), self._clock()])

    def _run_densely(self, frames: Tensor, emit: int, before: RecurrentState | None) -> float:
        """Returns the seconds that it took, by `_clock`."""
        begun = self._clock()
        plan, carried = dense_plan(frames, emit), self._carried([before]) if before else None
        run_chunk(self.network, [normalised(frame) for frame in frames], plan, carried, frames.dtype)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self._clock() - begun

    @staticmethod
    def _carried(states: Sequence[RecurrentState]) -> Carried | None:
        known = [(s.last, s.feat, s.hr) for s in states]
        lasts = [normalised(last) for last, _, _ in known if last is not None]
        feats = [feat[None].contiguous(memory_format=torch.channels_last) for _, feat, _ in known if feat is not None]
        return (
            Carried(_batched(lasts), _batched(feats), [hr for _, _, hr in known if hr is not None]) if lasts else None
        )

    def _reports_of(self, chunk: Chunk, computing: NDArray[np.float64]) -> list[RoutingReport]:
        """One for each emitted frame. `computing` is what the chunk took beside its planning, by `_clocks`."""
        if not chunk.emit:
            return []
        seconds, busy = (chunk.clocks + computing).tolist()
        dense = seconds
        if chunk.kind is not None:
            # Planned or not, all of it was computed everywhere: but for the planning, that is the dense network's time.
            if any(scene.plan.halo for scene in chunk.scenes):
                dense *= float(computing[1]) / busy
        elif any(scene.plan.halo or scene.gates for scene in chunk.scenes):
            try:
                a_frame = self._dense_times.a_frame(
                    self._run_densely, chunk.stored, chunk.emit, chunk.before, took=busy, last=chunk.last
                )
            except torch.OutOfMemoryError:  # the frames are made: no gain is claimed, and no job lost
                a_frame = busy / chunk.emit
            dense *= chunk.emit / busy * a_frame
        each = seconds / chunk.emit, dense / chunk.emit
        return [report for scene in chunk.scenes for report in self._reports(scene.plan, scene.gates, *each)]

    def _reports(self, plan: ChunkPlan, gates: Skipper | None, seconds: float, dense: float) -> list[RoutingReport]:
        """The look-ahead frames' work is shared out among the emitted ones."""
        emit, blocks, tiles = len(plan.forward), self.config.blocks, plan.tiles[0] * plan.tiles[1]
        behind = [plan.painted(boxes) for boxes in plan.backward]
        backward = [int(mask.sum()) for mask in behind]
        shares = gates.shares if gates else {"backward": [0.0] * len(backward), "forward": [0.0] * emit}
        backward_share = shares["backward"][::-1]
        backward_skipped = [n * share for n, share in zip(backward, backward_share, strict=True)]
        beyond, beyond_run = (len(backward) - emit) * tiles / emit, sum(backward[emit:]) / emit
        beyond_skipped = sum(backward_skipped[emit:]) / emit
        reports = []
        for i, boxes in enumerate(plan.forward):
            ahead = plan.painted(boxes)
            forward = int(ahead.sum())
            total, met = blocks * (2 * tiles + beyond), blocks * (forward + backward[i] + beyond_run)
            skipped = blocks * (forward * shares["forward"][i] + backward_skipped[i] + beyond_skipped)
            reused = round(total - met)
            run = ahead * (1 - shares["forward"][i]) + behind[i] * (1 - backward_share[i])
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


def _batched(items: Sequence[Tensor]) -> Tensor:
    """[1, …] each -> [B, …]; one alone is not copied."""
    return items[0] if len(items) == 1 else torch.cat(list(items))


def _attempt(work: Callable[[A], T], given: A) -> T | Exception:
    """What it gives, or the error that it raises. (A frame of its own: where an error is kept, so are its frames.)"""
    try:
        return work(given)
    except Exception as error:
        return error


def load_model(
    name: str, *, weights_dir: Path, device: str = "auto", precision: str = "auto", threads: int = 0
) -> Upscaler:
    """Load a model by name (`auto`: the default) onto a device. Raises ModelError."""
    where = resolve_device(device)
    dtype = resolve_dtype(precision, where)
    if where.type == "cpu":
        set_threads(threads)
    if name == "auto":
        name = DEFAULT_MODEL

    def load() -> Upscaler:
        network, fingerprint = load_network(name, weights_dir)
        path = usable_estimator(card(name, weights_dir), weights_dir)
        estimator = load_estimator(path, fingerprint, network) if path else None
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
