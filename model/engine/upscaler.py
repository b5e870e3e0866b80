"""The streaming engine: `forward(chunk, state) -> (frames, state)` for a stream of any length.

The forward branch carries its features from chunk to chunk without loss. The backward branch starts anew in each chunk,
`lookahead` frames after its end. If `lookahead` covers the rest of the stream, the result equals that of the whole clip
for every chunk size. With `lookahead=0` and one frame per chunk the stream is causal.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch

from model.device import (
    device_kind,
    inference_copy,
    memory_errors,
)
from model.engine.accounting import Accounting
from model.engine.batch import Batch
from model.engine.chunk import Chunk, ChunkResult, Frames, Request
from model.engine.clock import Clock
from model.engine.halves import Halves
from model.engine.one_thread import on_gpu_thread, steps_on_gpu_thread
from model.engine.overlap import Group, Overlap
from model.engine.planning import Planner
from model.engine.state import RecurrentState
from model.engine.strands import Crew, Executor, Inline, beside
from model.engine.work import Observer
from model.gates.estimator import Estimator
from model.mask.crop_cost import crop_overhead
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.network.quantised import has_integers
from model.routing import Preset, preset
from model.zoo.scales import Scales, quantise

__all__ = ["ChunkResult", "Frames", "Group", "Request", "Upscaler", "groups"]

FULL_ERROR_BUDGET = 0.025
"""`Preset.error_budget` of `fast` for a full-tail network adapted to its gates. A BasicVSR network is closer to the
truth than a light network, and has more to lose."""

A = TypeVar("A")
T = TypeVar("T")


class Upscaler:
    """A network on a device, ready to run. An upscaler holds no state of streams and serves any number of them.

    The upscaler works on copies of `network` and `estimator`.
    """

    def __init__(
        self,
        name: str,
        network: BasicVSR,
        fingerprint: str,
        device: torch.device,
        dtype: torch.dtype,
        estimator: Estimator | None = None,
        scales: Scales | None = None,
        accelerated: bool | None = None,
    ) -> None:
        """Prepare a network in the number format `dtype`; blocks with `scales` compute on integers.

        `accelerated` sets `BasicVSR.accelerated`; by default everywhere but on a CPU.
        """
        number, kind = str(dtype).removeprefix("torch."), device_kind(device)
        self.name = name
        self.weights = fingerprint
        """Fingerprint of the weights alone."""
        self.fingerprint = f"{fingerprint}:{number}" + (f":int8-{scales.digest}" if scales else "")
        self.fingerprint += f":{kind}" if kind != "cpu" else ""
        self.device, self.dtype = device, dtype
        self.precision = "int8" if scales else number
        """Number format of the convolutions with most of the work."""
        self.network = inference_copy(network, device, dtype)
        self.notes: tuple[str, ...] = ()
        """Better places that failed, with the reasons (`load_model`)."""
        self.estimator = copy.deepcopy(estimator).ready(device, dtype) if estimator is not None else None
        for each in (self.network, self.estimator.adapted if self.estimator is not None else None):
            if each is not None:
                each.accelerated = device.type != "cpu" if accelerated is None else accelerated
        self._clock = Clock(device)
        self._planner = Planner(self.network, self.estimator, self.fingerprint, device)
        self._accounting = Accounting(self.network, device, self._clock)
        self._halves = Halves(self.network, device, self._accounting)
        if scales:
            self._quantise(network, estimator, scales)

    def _quantise(self, network: BasicVSR, estimator: Estimator | None, scales: Scales) -> None:
        """Quantise the copies of `network` and of adapted weights; scales for another estimator stay unused."""
        quantise(self.network, network, scales.numbers)
        exact, own = (each.adapted if each is not None else None for each in (estimator, self.estimator))
        if scales.adapted and estimator and exact and own and scales.adapted.estimator == estimator.digest:
            quantise(own, exact, scales.adapted.numbers)

    @property
    def config(self) -> NetworkConfig:
        """Hyperparameters of the network."""
        return self.network.config

    @property
    def place(self) -> str:
        """Kind of device and number format: `cuda, bfloat16`. Equal places and inputs give equal frames, but for
        rounding on other GPUs."""
        return f"{device_kind(self.device)}, {self.precision}"

    def adopt(self, state: RecurrentState) -> RecurrentState:
        """Return a state that another device or number format computed with the same weights, for this network."""
        feat = None if state.feat is None else state.feat.to(self.dtype)
        return replace(state, model=self.fingerprint, feat=feat)

    @property
    def strands(self) -> bool:
        """Whether strands may run side by side.

        Only on a CPU, and only for light networks: convolutions of SPyNet round differently on one thread and on two,
        and a full network gains nothing.
        """
        return self.device.type == "cpu" and self.config.flow == "light" and self.config.tail == "light"

    @property
    def scale(self) -> int:
        """Enlargement of height and width."""
        return self.network.scale

    @on_gpu_thread
    @torch.inference_mode()
    def forward(
        self,
        frames: Frames,
        state: RecurrentState | None,
        *,
        lookahead: int,
        last: bool,
        routing: str | Preset = "off",
        observer: Observer | None = None,
    ) -> ChunkResult:
        """Upscale the next frames of a stream.

        `frames` [T, H, W, 3] uint8 or uint16 RGB continue the stream. `state` comes from the call before; None
        at the start. The last `lookahead` frames stay pending until more frames come, or until `last` ends the stream.
        A scene cut restarts both branches: frames before the cut ignore frames behind the cut. The first frame behind
        the cut equals the first frame of a new stream. `observer` follows the steps, and may end the call
        (`model.engine.work`).

        Raises StateMismatch if the state belongs to another model, or if the size or number format of the frames
        changes. Raises DeviceError if the device runs out of memory; `state` stays valid then.
        """
        executor = Inline(self._clock)
        chunk = self._plan(Request(frames, state, lookahead, last, routing), executor)
        return self._compute([chunk], executor, observer)[0]

    @on_gpu_thread
    @torch.inference_mode()
    def forward_many(self, requests: Sequence[Request]) -> list[ChunkResult | Exception]:
        """Upscale the next frames of several streams; the result for each stream equals that of `forward`.

        Chunks with equal sizes and frame counts run as a batch if routing skips no part of the chunks; others run
        alone. An error affects the request that caused the error, not the others. If a batch runs out of memory, each
        chunk runs alone.
        """
        executor = Inline(self._clock)
        errors, batches = self._planned(requests, executor)
        outcomes: dict[int, ChunkResult | Exception] = {**errors}
        for places, chunks in batches:
            found = self._compute_batch(chunks, executor, requests[places[0]].observer)
            outcomes.update(zip(places, found, strict=True))
        return [outcomes[index] for index in range(len(requests))]

    @torch.inference_mode()
    def begin_many(
        self,
        requests: Sequence[Request],
        crew: Crew,
        *,
        turn: int,
        used: Callable[[], float],
        in_turn: bool = False,
    ) -> tuple[dict[int, Exception], list[tuple[list[int], Batch]]]:
        """Begin the chunks of several streams beside others, like `forward_many`; only with `strands`.

        The states of the requests need no features and no HR frame. `turn` is the place among the chunks of these
        streams. The stream that has `used` the least seconds computes first. `in_turn`: nothing else is in work, and
        each step may take all cores.

        Returns the errors of planning by the requests' places, and each batch with the places of its requests.
        """
        errors, batches = self._planned(requests, crew)
        alone = partial(_attempt, self._compute_alone)
        make = partial(Batch, halves=self._halves, crew=crew, turn=turn, used=used, in_turn=in_turn, alone=alone)
        return errors, [(places, make(chunks, observer=requests[places[0]].observer)) for places, chunks in batches]

    @steps_on_gpu_thread
    def stream(
        self,
        groups: Iterable[Group],
        state: RecurrentState | None,
        *,
        lookahead: int,
        routing: str | Preset = "off",
        ahead: int | None = None,
    ) -> Generator[ChunkResult]:
        """Upscale a stream chunk by chunk; each result equals that of `forward`.

        On a CPU with several threads and for a light network, the parts of a chunk run side by side, and the backward
        halves of the next chunks beside the forward half of the current one: as many as keep the cores at work, and at
        most `ahead`. The stream then reads their groups before the result of the current group comes out, and torch has
        one thread in the calling thread. The end of the generator drops all steps but the running ones. For the other
        arguments and the errors see `forward`.
        """
        threads = torch.get_num_threads()
        make = partial(Overlap, self._plan, self._halves, lookahead=lookahead, routing=routing)
        if not self.strands or threads == 1:
            # A GPU begins the next chunk while the frames of this one leave.
            most = 0 if self.device.type == "cpu" else 1
            most = most if ahead is None else min(ahead, most)
            yield from make(Inline(self._clock), ahead=most).results(groups, state)
            return
        wanted = 1 + beside(threads)  # one more than run at once: the first halves begin together, and end together
        most = wanted if ahead is None else min(ahead, wanted)
        with Crew(threads, self._clock) as crew:
            yield from make(crew, ahead=most).results(groups, state)

    @on_gpu_thread
    @torch.inference_mode()
    def dense_seconds(self, height: int, width: int, count: int) -> float:
        """Measure the wall-clock time of the dense network for a frame of noise, over `count` frames."""
        noise = torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, device=self.device)
        begun = time.perf_counter()
        self._accounting.run_dense(noise, count, None)
        return (time.perf_counter() - begun) / count

    def preset(self, name: str, **changes: float) -> Preset:
        """Return the preset `name` for this network and device, with some numbers changed. Raises ModelError."""
        numbers: dict[str, float] = {"overhead": crop_overhead(self.config, self.device, self.dtype)}
        made = preset(name, **{**numbers, **changes})
        return replace(made, **{key: value for key, value in self._suited(made, name).items() if key not in changes})

    def _suited(self, made: Preset, name: str) -> dict[str, Any]:
        """Return the numbers of the preset `name` that depend on the network; `made` is for light networks."""
        adapted, integers = self.estimator.adapted if self.estimator else None, has_integers(self.network)
        wider = integers and adapted is not None and not has_integers(adapted)
        if self.config.tail != "light":
            # Without adaptation, skipped blocks cost a full-tail network more than its upsampler's gate (lab notebook).
            # Adapted weights keep their gates, also in a wider number format than the network's integers.
            budget = FULL_ERROR_BUDGET if adapted is not None and name == "fast" else 0.0
            return {"backward_every": 1, "negated_flow": False, "error_budget": budget, "backward_error_budget": budget}
        numbers = dict[str, Any]()
        if adapted is None:  # weights that have never met gates lose more
            numbers = {"backward_every": 1, "backward_error_budget": made.error_budget}
        elif wider:  # adapted weights in a wider number format take as long as the gates save
            numbers = {"backward_every": 1, "backward_error_budget": 0.0}
        # On integers, cells gain nothing until most of them are skipped: only the backward branch is so calm.
        return numbers | ({"error_budget": 0.0} if integers else {})

    def identity(self, routing: str) -> str:
        """Return a string that identifies the model: models with different results have different strings.

        The identity covers weights, number format, the kind of device (cpu, cuda, rocm), the router's numbers, and the
        estimator if its gates work. Crop overhead is excluded: a machine with another overhead may resume a job.
        """
        numbers = self.preset(routing, overhead=0)
        budgets = numbers.error_budget, numbers.backward_error_budget, numbers.tail_error_budget
        gated = self.estimator is not None and max(budgets) > 0
        facts = f"{numbers}{self.estimator.digest if self.estimator is not None and gated else ''}"
        return f"{self.fingerprint}:{hashlib.sha256(facts.encode()).hexdigest()[:16]}"

    def _plan(self, request: Request, executor: Executor) -> Chunk:
        """Plan a request. Raises DeviceError if the device runs out of memory."""
        numbers, spent = request.routing, np.zeros(2)
        if isinstance(numbers, str):
            numbers = self.preset(numbers)
        with memory_errors(self.device, request.frames.shape), executor.measured(spent):
            return self._planner.plan(request, numbers, spent)

    def _planned(
        self, requests: Sequence[Request], executor: Executor
    ) -> tuple[dict[int, Exception], list[tuple[list[int], list[Chunk]]]]:
        """Plan requests. Returns the errors by the requests' places, and batches: places and chunks."""
        errors: dict[int, Exception] = {}
        batches: dict[object, tuple[list[int], list[Chunk]]] = {}
        for index, request in enumerate(requests):
            planned = _attempt(partial(self._plan, request), executor)
            if isinstance(planned, Exception):
                errors[index] = planned
            else:
                places, chunks = batches.setdefault(planned.batch_key or index, ([], []))
                places.append(index)
                chunks.append(planned)
        return errors, list(batches.values())

    def _compute_batch(
        self, chunks: list[Chunk], executor: Executor, observer: Observer | None
    ) -> Sequence[ChunkResult | Exception]:
        """Compute a batch; after an error, compute each chunk alone."""
        followed = observer if len(chunks) == 1 else None
        together = _attempt(partial(self._compute, executor=executor, observer=followed), chunks)
        if not isinstance(together, Exception):
            return together
        if len(chunks) == 1:
            return [together]
        del together  # and with the error the tensors that its traceback holds
        return [_attempt(self._compute_alone, chunk) for chunk in chunks]

    def _compute_alone(self, chunk: Chunk) -> ChunkResult:
        return self._compute([chunk], Inline(self._clock))[0]

    def _compute(
        self, chunks: Sequence[Chunk], executor: Executor, observer: Observer | None = None
    ) -> list[ChunkResult]:
        """Compute chunks with equal batch keys. Raises DeviceError if the device runs out of memory."""
        begun = self._halves.begin(chunks, executor, observer=observer)
        return self._halves.wait(begun, self._halves.finish(begun, executor), executor)


def _attempt(work: Callable[[A], T], given: A) -> T | Exception:
    """Return the result of `work`, or its error. A frame of its own: an error keeps the frames of its traceback."""
    try:
        return work(given)
    except Exception as error:
        return error


def groups(items: Iterable[T], chunk: int, lookahead: int) -> Iterator[tuple[list[T], bool]]:
    """Split a stream into the groups for successive calls of `Upscaler.forward`, each of which emits `chunk` frames.

    Yields (items, last): first `chunk + lookahead` items, then `chunk` at a time, then the rest with last=True. Only an
    empty stream has an empty group.
    """
    iterator = iter(items)
    group = list(islice(iterator, chunk + lookahead))
    while True:
        following = list(islice(iterator, chunk))
        yield group, not following
        if not following:
            return
        group = following
