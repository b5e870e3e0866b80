"""Chunked output equals whole-clip output, and the state is a value that can be kept, moved and refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.device import resolve_device, resolve_dtype
from model.engine.loading import load_model
from model.engine.state import RecurrentState
from model.engine.upscaler import Upscaler, groups
from model.errors import DeviceError, StateMismatch
from model.network.basicvsr import BasicVSR, NetworkConfig
from tests.support.paths import DATA

WATER = np.load(DATA / "water_lr.npy")[:, :32, :64]


def upscaler(dtype: torch.dtype = torch.float32, flow: str = "spynet", **config: object) -> Upscaler:
    """A small seeded network whose recurrence matters: large enough weights, real flow."""
    torch.manual_seed(7)
    network = BasicVSR(NetworkConfig(**{"channels": 8, "blocks": 2, "flow": flow, **config}))
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(1.5)
    return Upscaler("seeded", network, "seeded:7", torch.device("cpu"), dtype)


def stream(model: Upscaler, frames: np.ndarray, chunk: int, lookahead: int) -> np.ndarray:
    """Push a clip through in chunks."""
    state, out = None, []
    for group, last in groups(frames, chunk, lookahead):
        result = model.forward(np.stack(group), state, lookahead=lookahead, last=last)
        assert len(result.reports) == len(result.frames)
        state = result.state
        out.append(result.frames)
    return np.concatenate(out)


def whole(model: Upscaler, frames: np.ndarray) -> np.ndarray:
    """The network's own whole-clip forward, quantised as the engine does."""
    lr = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float() / 255
    with torch.inference_mode():
        hr = model.network(lr)[0]
    return (hr.permute(0, 2, 3, 1) * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def test_recurrence_matters_in_these_tests() -> None:
    model = upscaler()
    assert np.abs(stream(model, WATER, 3, 0).astype(int) - whole(model, WATER)).max() > 2


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 4, 5, 9])
def test_chunks_equal_the_whole_with_full_lookahead(chunk: int, coupled: bool) -> None:
    model = upscaler(coupled=coupled)
    out = stream(model, WATER, chunk, lookahead=len(WATER))
    assert np.abs(out.astype(int) - whole(model, WATER)).max() <= 1  # a rounding tie may fall either way


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("tail", "scale", "stride"), [("light", 2, 4), ("full", 2, 4), ("light", 2, 8), ("light", 4, 8)]
)
@pytest.mark.parametrize("size", [(32, 64), (31, 63), (33, 65), (9, 8)])
def test_a_network_works_on_folded_frames_of_any_size(
    size: tuple[int, int], tail: str, scale: int, stride: int, dtype: type
) -> None:
    model = upscaler(scale=scale, stride=stride, tail=tail, coupled=tail == "light", flow="light")
    frames = np.pad(WATER, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")[:5, : size[0], : size[1]]
    expected = whole(model, frames)
    assert expected.shape == (5, scale * size[0], scale * size[1], 3)
    unit = np.iinfo(dtype).max // 255
    for chunk in (1, 2, 5):
        out = stream(model, frames.astype(dtype) * unit, chunk, lookahead=5)
        assert out.flags.c_contiguous
        assert np.abs(out / unit - expected).max() <= 1


def test_the_state_of_a_network_for_two_survives_the_disk(tmp_path: Path) -> None:
    model, frames = upscaler(torch.bfloat16, scale=2), WATER[:, :31, :63]
    state = model.forward(frames[:5], None, lookahead=2, last=False).state
    state.save(tmp_path / "state")
    loaded = RecurrentState.load(tmp_path / "state")
    a, b = (model.forward(frames[5:], before, lookahead=2, last=True) for before in (state, loaded))
    assert np.array_equal(a.frames, b.frames)
    with pytest.raises(StateMismatch, match="63x31 uint8 frames and continues with 62x31"):
        model.forward(frames[:, :, :62], loaded, lookahead=2, last=True)


@pytest.mark.parametrize(("chunk", "lookahead"), [(1, 0), (2, 1), (3, 3), (4, 2)])
def test_each_chunk_equals_the_whole_of_what_it_may_see(chunk: int, lookahead: int) -> None:
    """The forward branch loses nothing: a chunk is what a clip that ends with its look-ahead would have there."""
    model = upscaler()
    out = stream(model, WATER, chunk, lookahead)
    for start in range(0, len(WATER) - chunk - lookahead + 1, chunk):
        expected = whole(model, WATER[: start + chunk + lookahead])[start : start + chunk]
        assert np.abs(out[start : start + chunk].astype(int) - expected).max() <= 1


def test_causal_stream_answers_each_frame_at_once() -> None:
    model, state = upscaler(), None
    for frame in WATER[:3]:
        result = model.forward(frame[None], state, lookahead=0, last=False)
        state = result.state
        assert result.frames.shape == (1, 128, 256, 3)


def test_held_back_frames_come_out_when_the_stream_ends() -> None:
    model = upscaler()
    first = model.forward(WATER[:2], None, lookahead=4, last=False)
    assert first.frames.shape == (0, 128, 256, 3)
    second = model.forward(WATER[2:6], first.state, lookahead=4, last=False)
    assert len(second.frames) == 2
    third = model.forward(WATER[:0], second.state, lookahead=4, last=True)
    assert len(third.frames) == 4
    assert len(third.state.pending) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_survives_the_disk_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    model = upscaler(dtype)
    frames = WATER if dtype is torch.float32 else WATER[:, :16, :32].astype(np.uint16) * 257
    state = model.forward(frames[:5], None, lookahead=2, last=False).state
    state.save(tmp_path / "state")
    loaded = RecurrentState.load(tmp_path / "state")
    with pytest.raises(FileNotFoundError):  # and no error of safetensors' own
        loaded.save(tmp_path / "none" / "state")
    assert loaded.pending.dtype == state.pending.dtype
    a = model.forward(frames[5:], state, lookahead=2, last=True)
    b = model.forward(frames[5:], loaded.to("cpu"), lookahead=2, last=True)
    assert np.array_equal(a.frames, b.frames)


def test_forward_leaves_its_state_alone() -> None:
    model = upscaler()
    state = model.forward(WATER[:5], None, lookahead=2, last=False).state
    again = [model.forward(WATER[5:], state, lookahead=2, last=True).frames for _ in range(2)]
    assert np.array_equal(*again)


def test_refuses_a_state_that_does_not_fit(tmp_path: Path) -> None:
    model = upscaler()
    state = model.forward(WATER[:3], None, lookahead=1, last=False).state
    with pytest.raises(StateMismatch, match="start the stream again"):
        model.forward(WATER, replace(state, model="another"), lookahead=1, last=True)
    with pytest.raises(StateMismatch, match="64x32 uint8 frames and continues with 64x30"):
        model.forward(WATER[:, :30], state, lookahead=1, last=True)
    with pytest.raises(StateMismatch, match="uint16"):
        model.forward(WATER.astype(np.uint16), state, lookahead=1, last=True)
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(StateMismatch, match="junk"):
        RecurrentState.load(tmp_path / "junk")
    with pytest.raises(ValueError, match="uint8 or uint16"):
        model.forward(WATER.astype(np.float32), None, lookahead=1, last=True)


def test_ten_bits_are_not_squeezed_through_eight() -> None:
    model = upscaler()
    deep = stream(model, WATER[:3].astype(np.uint16) * 257, 3, 0)
    flat = stream(model, WATER[:3], 3, 0)
    assert np.abs(deep / 257.0 - flat).max() <= 0.5 + 1e-6
    assert len(np.unique(deep)) > 256


@pytest.mark.parametrize("flow", ["spynet", "light"])
def test_bfloat16_stays_near_float32(flow: str) -> None:
    """bfloat16 has 8 significant bits; a residual of a few tenths is then off by about a level."""
    plain, fast = (stream(upscaler(dtype, flow), WATER, 9, 0).astype(int) for dtype in (torch.float32, torch.bfloat16))
    mse = np.square(plain - fast).mean()
    assert mse < 0.5


def test_the_network_given_stays_as_it_is() -> None:
    network = BasicVSR(NetworkConfig(channels=8, blocks=1, flow="light")).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    model = Upscaler("any", network, "any", torch.device("cpu"), torch.bfloat16)
    assert model.network.dtype == torch.bfloat16
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(
        tensor.dtype == before[name].dtype and tensor.equal(before[name])
        for name, tensor in network.state_dict().items()
    )


def test_groups_cover_the_stream_once() -> None:
    for total in range(12):
        for chunk in (1, 3, 5):
            for lookahead in (0, 2):
                parts = list(groups(range(total), chunk, lookahead))
                assert [x for part, _ in parts for x in part] == list(range(total))
                assert [last for _, last in parts] == [False] * (len(parts) - 1) + [True]
                assert all(part for part, _ in parts) or total == 0


def test_tiny_is_there_without_any_weights(tmp_path: Path) -> None:
    model = load_model("tiny", weights_dir=tmp_path, precision="fp32")
    assert stream(model, WATER[:2], 2, 0).shape == (2, 128, 256, 3)


def test_devices_are_named_clearly() -> None:
    cpu = resolve_device("cpu")
    assert resolve_dtype("fp32", cpu) is torch.float32
    for name, message in (("gpu", "unknown device"), ("cuda:7", "no device cuda:7"), ("meta", "not supported")):
        with pytest.raises(DeviceError, match=message):
            resolve_device(name)
    with pytest.raises(DeviceError, match="needs a GPU"):
        resolve_dtype("fp16", cpu)
