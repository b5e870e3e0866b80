"""Facts and ceilings: what the device can do at most, measured with plain torch."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import torch
import torch.nn.functional as F

from benchmarks.device.results import Section
from benchmarks.device.session import FORMATS, Item, Session
from model.device import machine_name, resolve_dtype

_CONVOLUTIONS: Final = ((32, 32, 3), (64, 64, 3), (64, 256, 3), (64, 3, 3), (32, 64, 7))
"""Channels in and out, and kernel size: trunks of both networks, upsampler, last layer, SPyNet."""


def items(session: Session) -> Iterator[Item]:
    """Facts, memory bandwidth, rates of matrix products and convolutions, copies between host and device."""
    yield "facts", partial(_facts, session)
    yield "memory bandwidth", partial(_bandwidth, session)
    yield "launch", partial(_launch, session)
    for pinned in (False, True):
        yield f"copies {'pinned' if pinned else 'pageable'}", partial(_copies, session, pinned)
    for number in ("fp32", "tf32", *session.formats):
        yield f"matrix product {number}", partial(_product, session, number)
    for number in ("fp32", *session.formats):
        yield f"convolutions {number}", partial(_convolutions, session, number)


def _facts(session: Session, section: Section) -> None:
    auto = str(resolve_dtype("auto", session.device)).removeprefix("torch.")
    facts: dict[str, str | int | float] = {"machine": machine_name(session.device, auto), "torch": torch.__version__}
    if session.cuda:
        device = torch.cuda.get_device_properties(session.device)
        free, whole = torch.cuda.mem_get_info(session.device)
        facts |= {"capability": f"{device.major}.{device.minor}", "processors": device.multi_processor_count}
        facts |= {"free_gib": free / 2**30, "memory_gib": whole / 2**30, "cuda": str(torch.version.cuda)}
        facts |= {"cudnn": int(torch.backends.cudnn.version() or 0)}  # type: ignore[no-untyped-call]
    facts |= {"python": platform.python_version(), "cores": len(os.sched_getaffinity(0))}
    section.row("facts", **facts)


def _bandwidth(session: Session, section: Section) -> None:
    size = 2**20 if session.tiny else 2**28
    a = torch.zeros(size, dtype=torch.float32, device=session.device)
    b = torch.empty_like(a)
    seconds = session.queued_seconds(lambda: b.copy_(a))
    section.row("memory bandwidth", gb_per_s=2 * 4 * size / seconds / 1e9)


def _launch(session: Session, section: Section) -> None:
    """Time an operation on one number: what each launch costs, from the host's and from the device's view."""
    x = torch.zeros(1, device=session.device)

    def many() -> None:
        for _ in range(200):
            x.add_(1)

    section.row("launch", microseconds=session.seconds(many, repeats=5) / 200 * 1e6)


def _copies(session: Session, pinned: bool, section: Section) -> None:
    """Copy an HR frame of 2560x1440, or a tiny one, to the device and back."""
    if pinned and not session.cuda:
        section.skip("copies pinned", "needs a GPU")
        return
    size = (96, 160, 3) if session.tiny else (1440, 2560, 3)
    host = torch.zeros(size, dtype=torch.uint8, pin_memory=pinned)
    there = host.to(session.device, copy=True)
    gigabytes = host.numel() / 1e9
    section.row(
        f"copies {'pinned' if pinned else 'pageable'}",
        to_device_gb_per_s=gigabytes / session.seconds(lambda: there.copy_(host, non_blocking=pinned)),
        to_host_gb_per_s=gigabytes / session.seconds(lambda: host.copy_(there, non_blocking=pinned)),
    )


def _product(session: Session, number: str, section: Section) -> None:
    if number == "tf32" and not session.cuda:
        section.skip("matrix product tf32", "needs a GPU")
        return
    side = 64 if session.tiny else 8192 if session.cuda else 1024
    dtype = FORMATS.get(number, torch.float32)
    a, b = (torch.randn(side, side, device=session.device).to(dtype) for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = number == "tf32"
    try:
        seconds = session.queued_seconds(lambda: a @ b, calls=10)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    section.row(f"matrix product {number}", tflops=2 * side**3 / seconds / 1e12)


def _convolutions(session: Session, number: str, section: Section) -> None:
    """Convolutions of the networks at 640x360, or a tiny size, channels last as in the engine."""
    h, w = (32, 48) if session.tiny else (360, 640)
    rates = {}
    for inputs, outputs, kernel in _CONVOLUTIONS:
        seconds = session.queued_seconds(convolution(session, number, inputs, outputs, kernel, h, w))
        rates[f"c{inputs}_{outputs}_k{kernel}"] = 2 * inputs * outputs * kernel**2 * h * w / seconds / 1e12
    section.row(f"convolutions {number}, TFLOP/s", **rates)


def convolution(
    session: Session, number: str, inputs: int, outputs: int, kernel: int, h: int, w: int
) -> Callable[[], torch.Tensor]:
    """Return a function that runs one convolution on noise."""
    dtype, last = FORMATS[number], torch.channels_last
    x = torch.randn(1, inputs, h, w, device=session.device).to(dtype).contiguous(memory_format=last)
    weight = torch.randn(outputs, inputs, kernel, kernel, device=session.device).to(dtype)
    weight = weight.contiguous(memory_format=last)
    bias = torch.zeros(outputs, device=session.device, dtype=dtype)
    return partial(torch.inference_mode()(F.conv2d), x, weight, bias, padding=kernel // 2)
