"""Every operation of ours on the device against the CPU, which computes in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from benchmarks.device.results import Section
from benchmarks.device.session import FORMATS, Item, Session
from model.device import inference_copy
from model.engine.execute import normalised
from model.engine.scene_cuts import find_scene_cuts
from model.network import kernels
from model.network.basicvsr import Blocks, ResidualBlock, Trunk
from model.network.flow import FeatureTable, LightFlow, SpyNet, warp
from model.network.folding import fold, fold_frames, means, padded, unfold
from model.network.output import write_pixels

LIMITS: Final = {"fp32": 1e-4, "bf16": 4e-2, "fp16": 1e-2}
"""Largest difference from the CPU's float32, as a part of the largest value."""
_H, _W = 40, 56


@dataclass(frozen=True)
class Operation:
    """An operation: makes its inputs on the CPU in float32, and maps them to a tensor on any device."""

    name: str
    inputs: Callable[[], Sequence[Tensor]]
    compute: Callable[..., Tensor]
    """(module, *inputs) -> result."""
    module: Callable[[], nn.Module] | None = None
    narrow: bool = True
    """Whether the operation also runs in narrow number formats."""
    narrowed: int = 1
    """Number of first inputs that then have the narrow format; flow and frames stay float32."""


def items(session: Session) -> Iterator[Item]:
    """All operations in all number formats."""
    for operation in OPERATIONS:
        for number in ("fp32", *session.formats) if operation.narrow else ("fp32",):
            yield f"{operation.name} {number}", partial(_compare, session, operation, number)
    yield "scene cuts", partial(_scene_cuts, session)


def _compare(session: Session, operation: Operation, number: str, section: Section) -> None:
    torch.manual_seed(5)
    inputs, dtype = operation.inputs(), FORMATS[number]
    module = operation.module().eval() if operation.module else None
    copy = inference_copy(module, session.device, dtype) if module is not None else None
    narrowed = [_moved(x, session.device, dtype) for x in inputs[: operation.narrowed]]
    there = narrowed + [x.to(session.device) for x in inputs[operation.narrowed :]]
    with torch.inference_mode():
        expected = operation.compute(module, *inputs).float()
        found = operation.compute(copy, *there).float().cpu()
    error = (found - expected).abs().max().item() / max(expected.abs().max().item(), 1e-12)
    section.row(f"{operation.name} {number}", error=error)
    section.at_most(f"{operation.name} {number}", error, LIMITS[number])


def _moved(x: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return x.to(device, dtype) if x.is_floating_point() else x.to(device)


def _scene_cuts(session: Session, section: Section) -> None:
    frames = torch.from_numpy(session.clip(6, (64, 96))).clone()
    frames[3:] = 255 - frames[3:] // 3
    expected, found = find_scene_cuts(frames), find_scene_cuts(frames.to(session.device))
    section.check("scene cuts", expected == found and bool(found), f"{found}, expected {expected}")


def _picture(channels: int = 3) -> Tensor:
    """Return an image [1, channels, H, W] in [0, 1]: a smooth field, so that flow is defined."""
    coarse = torch.rand(1, channels, _H // 8, _W // 8)
    return nn.functional.interpolate(coarse, (_H, _W), mode="bicubic", align_corners=False).clamp(0, 1)


def _pictures() -> list[Tensor]:
    x = _picture()
    return [x, x.roll((1, 2), (2, 3))]


def _features(channels: int = 16) -> Tensor:
    return torch.randn(1, channels, _H, _W).contiguous(memory_format=torch.channels_last)


def _flow() -> Tensor:
    return 6 * torch.randn(1, 2, _H // 8, _W // 8).repeat_interleave(8, 2).repeat_interleave(8, 3)


def _conv(outputs: int = 16) -> nn.Conv2d:
    return nn.Conv2d(16, outputs, 3, 1, 1)


def _warped(_: Any, x: Tensor, flow: Tensor) -> Tensor:
    return warp(x, flow.float())


def _from_table(_: Any, x: Tensor, flow: Tensor) -> Tensor:
    return warp(FeatureTable.of(x), flow.float())


def _beyond_border(_: Any, x: Tensor, flow: Tensor) -> Tensor:
    return warp(x, flow.float(), "border")


def _region(_: Any, x: Tensor, flow: Tensor) -> Tensor:
    return warp(FeatureTable.of(x), flow.float()[..., 8:24, 16:40].contiguous(), origin=(8, 16))


def _estimated(network: Any, a: Tensor, b: Tensor) -> Tensor:
    flow: Tensor = network(network.pyramid(a.float()), network.pyramid(b.float()))
    return flow


def _flow_network(kind: Callable[[], nn.Module]) -> nn.Module:
    network = kind()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 4 and not parameter.any():
                parameter.normal_(0, 0.05)  # LightFlow begins with zero flow
    return network


def _written(dtype: torch.dtype, _: Any, lr: Tensor, residual: Tensor, *, whole: bool = False) -> Tensor:
    """Write the pixels of a frame; the result is in [0, 1]."""
    out = torch.empty(4 * _H, 4 * _W, 3, dtype=dtype, device=lr.device)
    around = padded(lr.float(), 1)
    write_pixels(out, around, residual, whole=whole)
    return out.float() / (255 if dtype == torch.uint8 else 65535)


def _residual(channels: int) -> list[Tensor]:
    side = 1 if channels == 48 else 4
    residual = 0.1 * torch.randn(1, channels, side * _H, side * _W)
    return [_picture(), residual.contiguous(memory_format=torch.channels_last)]


def _whole(_: Any, x: Tensor) -> Tensor:
    """Add the rounded pixels and their remainders."""
    both = kernels.with_remainder(x.float(), torch.bfloat16)
    return both[:, ::2].float() + both[:, 1::2].float()


OPERATIONS: Final = (
    Operation("warp", lambda: [_features(), _flow()], _warped),
    Operation("warp from a table", lambda: [_features(), _flow()], _from_table),
    Operation("warp with border", lambda: [_features(), _flow()], _beyond_border),
    Operation("warp of a region", lambda: [_features(), _flow()], _region),
    Operation("convolution", lambda: [_features()], lambda m, x: kernels.convolve(m, x), _conv),
    Operation("convolution, ReLU", lambda: [_features()], lambda m, x: kernels.convolve(m, x, "relu"), _conv),
    Operation("convolution, leaky", lambda: [_features()], lambda m, x: kernels.convolve(m, x, "leaky"), _conv),
    Operation("convolution, sum", lambda: [_features()], lambda m, x: kernels.convolve(m, x, plus=x), _conv),
    Operation(
        "convolution, sum in place",
        lambda: [_features()],
        lambda m, x: kernels.convolve(m, x, plus=x.clone(memory_format=torch.channels_last), in_place=True),
        _conv,
    ),
    Operation(
        "convolution, shuffled", lambda: [_features()], lambda m, x: kernels.convolve_shuffled(m, x), partial(_conv, 64)
    ),
    Operation(
        "convolution, sorted", lambda: [_features()], lambda m, x: kernels.convolve_sorted(m, x, 4), partial(_conv, 48)
    ),
    Operation("remainder", lambda: [_picture()], _whole, narrow=False),
    Operation("residual block", lambda: [_features()], lambda m, x: m(x), lambda: ResidualBlock(16)),
    Operation(
        "residual blocks",
        lambda: [_features()],
        lambda m, x: m(x.clone(memory_format=torch.channels_last), overwrite=True),
        lambda: Blocks(*(ResidualBlock(16) for _ in range(3))),
    ),
    Operation("trunk", lambda: [_features(19)], lambda m, x: m(x), lambda: Trunk(19, 16, 3)),
    Operation("light flow", _pictures, _estimated, partial(_flow_network, LightFlow), narrowed=0),
    Operation("SPyNet", _pictures, _estimated, SpyNet, narrowed=0),
    Operation("pixels 8 bit, light", lambda: _residual(48), partial(_written, torch.uint8), narrow=False),
    Operation("pixels 8 bit, full", lambda: _residual(3), partial(_written, torch.uint8), narrow=False),
    Operation("pixels 16 bit, light", lambda: _residual(48), partial(_written, torch.uint16), narrow=False),
    Operation("pixels 16 bit, full", lambda: _residual(3), partial(_written, torch.uint16), narrow=False),
    Operation("pixels at once", lambda: _residual(48), partial(_written, torch.uint8, whole=True), narrow=False),
    Operation("fold", lambda: [_picture()], lambda _, x: unfold(means(fold(x, 2)), 1), narrow=False),
    Operation(
        "fold frames",
        lambda: [(_picture()[0].permute(1, 2, 0) * 255).to(torch.uint8)],
        lambda _, x: fold_frames(x, 2).float(),
        narrow=False,
    ),
    Operation(
        "normalised",
        lambda: [(_picture()[0].permute(1, 2, 0) * 255).to(torch.uint8)],
        lambda _, x: normalised(x),
        narrow=False,
    ),
    Operation("padding", lambda: [_picture()], lambda _, x: padded(x, 1), narrow=False),
)
