"""Several streams as one batch: each gives what it gives alone, and nothing of one is in another."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from model.engine import halves
from model.engine.clock import Clock
from model.engine.planning import Planner
from model.engine.state import RecurrentState
from model.engine.strands import Crew
from model.engine.upscaler import ChunkResult, Frames, Request, Upscaler, groups
from model.errors import DeviceError, StateMismatch
from model.network.basicvsr import BasicVSR, NetworkConfig
from tests.support.paths import DATA

WATER = np.load(DATA / "water_lr.npy")
CLIPS = [WATER[:8, :32, :48], WATER[1:, 10:42, 20:68], WATER[::-1][:8, 20:52, 40:88]]


def upscaler(dtype: torch.dtype = torch.float32, **config: Any) -> Upscaler:
    """Recurrence that matters: one frame's features tell in the next, so that mixed-up states would show."""
    torch.manual_seed(7)
    network = BasicVSR(NetworkConfig(**{"channels": 8, "blocks": 2, "flow": "light", **config}))
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(1.5)
    return Upscaler("seeded", network, "seeded:7", torch.device("cpu"), dtype)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many streams went through the network together, call by call."""
    sizes: list[int] = []
    run = halves.ChunkRun

    def noted(net: BasicVSR, frames: Sequence[torch.Tensor], *rest: Any, **more: Any) -> Any:
        sizes.append(len(frames[0]))
        return run(net, frames, *rest, **more)

    monkeypatch.setattr(halves, "ChunkRun", noted)
    return sizes


@dataclass
class Stream:
    """A stream on its way."""

    groups: Iterator[tuple[list[np.ndarray], bool]]
    lookahead: int
    routing: str
    state: RecurrentState | None = None
    frames: list[np.ndarray] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)

    def request(self) -> Request | None:
        group, last = next(self.groups, (None, True))
        return None if group is None else Request(np.stack(group), self.state, self.lookahead, last, self.routing)

    def take(self, result: ChunkResult | Exception) -> None:
        assert isinstance(result, ChunkResult), result
        assert len(result.reports) == len(result.frames)
        self.cuts += [len(self.frames) + cut for cut in result.scene_cuts]
        self.frames += list(result.frames)
        self.state = result.state


def alone(model: Upscaler, clip: Frames, chunk: int, lookahead: int, routing: str = "off") -> Stream:
    stream = Stream(groups(clip, chunk, lookahead), lookahead, routing)
    while request := stream.request():
        stream.take(
            model.forward(request.frames, request.state, lookahead=lookahead, last=request.last, routing=routing)
        )
    return stream


def together(
    model: Upscaler, clips: Sequence[Frames], chunk: int, lookahead: int, routing: str = "off"
) -> list[Stream]:
    streams = [Stream(groups(clip, chunk, lookahead), lookahead, routing) for clip in clips]
    while due := [(stream, request) for stream in streams if (request := stream.request())]:
        for (stream, _), result in zip(due, model.forward_many([request for _, request in due]), strict=True):
            stream.take(result)
    return streams


def begun(model: Upscaler, requests: Sequence[Request], *, in_turn: bool = False) -> list[ChunkResult | Exception]:
    """`forward_many` on the threads of a crew."""
    with Crew(2, Clock(model.device)) as crew:
        errors, batches = model.begin_many(requests, crew, turn=0, used=float, in_turn=in_turn)
        outcomes: dict[int, ChunkResult | Exception] = {**errors}
        for places, batch in batches:
            done = threading.Event()
            batch.finish([requests[place].state for place in places], done.set)
            assert done.wait(60)
            assert batch.seconds > 0
            outcomes.update(zip(places, batch.results(), strict=True))
    return [outcomes[place] for place in range(len(requests))]


def test_a_chunk_that_is_alone_gets_all_cores_for_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = upscaler(tail="light", coupled=True)
    threads: list[int] = []
    for part in ("backward_step", "forward_step", "residual"):
        step = getattr(BasicVSR, part)

        def noted(*given: Any, step: Callable[..., Any] = step) -> Any:
            threads.append(torch.get_num_threads())
            return step(*given)

        monkeypatch.setattr(BasicVSR, part, noted)
    begun(model, [Request(CLIPS[0][:3], None, 1, last=False)], in_turn=True)
    assert threads == [2] * (3 + 2 + 2)


@pytest.mark.parametrize("in_turn", [False, True])
def test_a_batch_begun_beside_others_gives_the_same(batches: list[int], *, in_turn: bool) -> None:
    model = upscaler(tail="light", coupled=True)
    going = [model.forward(clip[:2], None, lookahead=1, last=False).state for clip in CLIPS]
    requests = [Request(clip[2:4], state, 1, last=False) for clip, state in zip(CLIPS, going, strict=True)]
    requests[1:1] = [Request(CLIPS[0][:3], None, 1, last=True), Request(CLIPS[0][:1, :30], going[0], 1, last=False)]
    wanted = model.forward_many(requests)
    batches.clear()
    found = begun(model, requests, in_turn=in_turn)
    assert sorted(batches) == [1, 3]
    assert isinstance(found[2], StateMismatch)
    for one, other in zip(found, wanted, strict=True):
        if isinstance(one, ChunkResult) and isinstance(other, ChunkResult):
            assert np.array_equal(one.frames, other.frames)
            assert one.state.feat is not None
            assert other.state.feat is not None
            assert torch.equal(one.state.feat, other.state.feat)


@pytest.mark.parametrize(("chunk", "lookahead"), [(1, 0), (2, 1), (3, 2)])
@pytest.mark.parametrize("config", [{}, {"tail": "light", "coupled": True}, {"dtype": torch.bfloat16}])
def test_a_batch_gives_what_each_gives_alone(
    batches: list[int], chunk: int, lookahead: int, config: dict[str, Any]
) -> None:
    model = upscaler(**config)
    # where the CPU has no bfloat16 it is emulated, and takes a hundred times as long
    clips = [clip[:5, :16, :24] for clip in CLIPS] if "dtype" in config else CLIPS
    singles = [alone(model, clip, chunk, lookahead) for clip in clips]
    assert set(batches) == {1}
    batches.clear()
    for one, stream in zip(singles, together(model, clips, chunk, lookahead), strict=True):
        assert np.array_equal(one.frames, stream.frames)
    assert set(batches) == {3}


def test_spynet_in_a_batch() -> None:
    """Its convolutions in float32 are another kernel for a batch, with another order of summation."""
    model = upscaler(flow="spynet")
    clips = [clip[:3] for clip in CLIPS]
    for clip, stream in zip(clips, together(model, clips, 1, 1), strict=True):
        assert np.abs(np.array(alone(model, clip, 1, 1).frames).astype(int) - np.array(stream.frames)).max() <= 1


def test_16_bit_streams(batches: list[int]) -> None:
    model, clips = upscaler(), [clip.astype(np.uint16) * 257 for clip in CLIPS]
    singles = [alone(model, clip, 2, 1).frames for clip in clips]
    assert np.array_equal(singles, [stream.frames for stream in together(model, clips, 2, 1)])
    assert 3 in batches


def test_only_what_agrees_is_batched(batches: list[int]) -> None:
    """Another size, another type, another number of frames, or a stream that begins: alone, and right all the same."""
    model = upscaler()
    clips = [CLIPS[0], CLIPS[1], CLIPS[2][:, :, :40], CLIPS[0].astype(np.uint16), CLIPS[1][:7]]
    going = [model.forward(clip[:2], None, lookahead=0, last=False).state for clip in clips]
    batches.clear()
    requests = [Request(clip[2:4], state, 0, last=False) for clip, state in zip(clips, going, strict=True)]
    requests += [Request(CLIPS[0][2:4], None, 0, last=False), Request(CLIPS[0][2:5], going[0], 0, last=False)]
    results = model.forward_many(requests)
    assert sorted(batches) == [1, 1, 1, 1, 3]
    for request, result in zip(requests, results, strict=True):
        wanted = model.forward(request.frames, request.state, lookahead=0, last=False)
        assert isinstance(result, ChunkResult)
        assert np.array_equal(result.frames, wanted.frames)
        assert result.state.feat is not None
        assert wanted.state.feat is not None
        assert torch.equal(result.state.feat, wanted.state.feat)


@pytest.mark.parametrize(("chunk", "lookahead"), [(1, 0), (3, 2)])
def test_a_cut_in_one_stream_is_its_own(chunk: int, lookahead: int) -> None:
    model = upscaler()
    cut = np.concatenate([CLIPS[1][:4], 255 - CLIPS[1][3::-1]])
    clips = [CLIPS[0], cut, CLIPS[2]]
    streams = together(model, clips, chunk, lookahead)
    assert [stream.cuts for stream in streams] == [[], [4], []]
    for clip, stream in zip(clips, streams, strict=True):
        assert np.array_equal(alone(model, clip, chunk, lookahead).frames, stream.frames)


@pytest.mark.parametrize("moving", [2, 3])
def test_routed_streams_are_batched_where_all_has_changed(batches: list[int], moving: int) -> None:
    """A stream that stands still is computed in crops, by itself; those that move everywhere are one batch."""
    model = upscaler()
    clips = [WATER[:6], 255 - WATER[1:7], WATER[::-1][:6]]
    clips[moving:] = [np.repeat(clip[:1], 6, 0) for clip in clips[moving:]]
    singles = [alone(model, clip, 1, 0, "balanced").frames for clip in clips]
    batches.clear()
    assert np.array_equal(singles, [stream.frames for stream in together(model, clips, 1, 0, "balanced")])
    assert moving in batches


def test_a_request_that_does_not_fit_fails_alone(batches: list[int]) -> None:
    model = upscaler()
    other = model.forward(CLIPS[0][:2, :30], None, lookahead=0, last=False).state
    bad = Request(CLIPS[0][2:3], other, 0, last=False)
    results = model.forward_many(
        [Request(CLIPS[0][:1], None, 0, last=False), bad, Request(CLIPS[1][:1], None, 0, False)]
    )
    assert isinstance(results[1], StateMismatch)
    assert [isinstance(result, ChunkResult) for result in results] == [True, False, True]
    assert batches == [1, 2]


@pytest.mark.parametrize("run_many", [Upscaler.forward_many, begun])
def test_what_does_not_fit_into_memory_together_is_run_one_by_one(
    monkeypatch: pytest.MonkeyPatch, run_many: Callable[..., list[ChunkResult | Exception]]
) -> None:
    """The device is full with two streams' frames; one of them is too large even alone."""
    model, run = upscaler(), halves.ChunkRun

    def full(net: BasicVSR, frames: Sequence[torch.Tensor], *rest: Any, **more: Any) -> Any:
        if len(frames[0]) > 1 or float(frames[0].max()) < 0.1:
            raise torch.OutOfMemoryError("out of memory")
        return run(net, frames, *rest, **more)

    clips = [CLIPS[0], CLIPS[1] // 20, CLIPS[2]]
    wanted = [model.forward(clip[:1], None, lookahead=0, last=False).frames for clip in clips]
    monkeypatch.setattr(halves, "ChunkRun", full)
    results = run_many(model, [Request(clip[:1], None, 0, last=False) for clip in clips])
    assert isinstance(results[1], DeviceError)
    for index in (0, 2):
        result = results[index]
        assert isinstance(result, ChunkResult)
        assert np.array_equal(result.frames, wanted[index])


def test_memory_that_is_short_for_the_result_is_said_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only in the network: where frames are put together, too."""

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    model = upscaler()
    for owner, step in ((Planner, "join"), (halves.Halves, "_frames")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, step, full)
            with pytest.raises(DeviceError, match="smaller chunk"):
                model.forward(CLIPS[0][:1], None, lookahead=0, last=False)
    assert len(model.forward(CLIPS[0][:1], None, lookahead=0, last=False).frames) == 1
