"""Where and in which number format a network runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from model.errors import DeviceError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """The device of that name (auto, cpu, cuda, cuda:N). Raises DeviceError where it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"{name!r} is no device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"there is no device {name} here (CUDA devices: {torch.cuda.device_count()}); use cpu or auto"
        )
    if device.type == "cuda":  # else what is to be float32, the enlarged frame above all, has ten bits' mantissas
        torch.backends.cudnn.allow_tf32 = False
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"{name!r} is not supported; use auto, cpu, cuda or cuda:N")
    return device


def resolve_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The number format that `precision` (auto, fp32, bf16, fp16) means there. Raises DeviceError.

    auto is bfloat16 where the hardware computes it (AVX512-BF16 or AMX; compute capability 8.0), else float16 on a GPU
    and float32 on a CPU, where bfloat16 would be emulated, and slower.
    """
    if precision != "auto":
        if precision not in _DTYPES:
            raise DeviceError(f"{precision!r} is no precision; use auto, {', '.join(_DTYPES)}")
        if precision == "fp16" and device.type == "cpu":
            raise DeviceError("fp16 is for GPUs; on a CPU use bf16, fp32 or auto")
        return _DTYPES[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def narrowed(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module with its parameters in `dtype`. Buffers stay: they say what its input is like (SPyNet's mean)."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
    return module


def set_threads(threads: int) -> None:
    """Give the network that many CPU threads; 0: one for each core that this process may use."""
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, the calling thread computes alone.

    For work of many small calls: shared out among cores, each of them waits for the last core, and where an encoder has
    that one, for long. Switching takes half a microsecond. A thread that first calls torch meanwhile would stay
    alone, too: give it its threads by `set_threads`.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
