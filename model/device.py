"""Device, number format and CPU threads of a network."""

from __future__ import annotations

import copy
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeVar

import torch
from torch import nn

from model.errors import DeviceError
from model.faults import memory_ran_out

M = TypeVar("M", bound=nn.Module)
_ISAS: Final = (
    "SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2",
    "AVX512_CORE", "AVX512_CORE_VNNI", "AVX512_CORE_BF16",
)  # fmt: skip
"""oneDNN's names of instruction sets, ascending as far as the networks care; others include all of these."""
_AMD_BF16: Final = ("gfx90a", "gfx94", "gfx95", "gfx11", "gfx12")
"""AMD's architectures with units for bfloat16: CDNA 2 and later, RDNA 3 and later."""
_DRIVER: Final = Path("/proc/driver/nvidia/version")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """Return the device `name`: auto, cpu, cuda or cuda:N. Raises DeviceError for unknown, missing or dead devices.

    auto is the CPU if no GPU starts. `model.admission` also tries networks on a GPU.
    """
    if name == "auto":
        return automatic()[0]
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"this machine has no device {name} (CUDA devices: {torch.cuda.device_count()}); use cpu or auto"
        )
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"{name!r} is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        _start(device)
    return device


def device_kind(device: torch.device) -> str:
    """Return the kind of a device that decides about rounding: cpu, cuda or rocm."""
    return "rocm" if device.type == "cuda" and torch.version.hip else device.type


def automatic() -> tuple[torch.device, str]:
    """Return a GPU that starts, else the CPU, and the reason why a present GPU does not start, or ""."""
    if torch.cuda.device_count() == 0:
        return torch.device("cpu"), ""
    try:
        return resolve_device("cuda"), ""
    except DeviceError as error:
        return torch.device("cpu"), str(error)


def _start(device: torch.device) -> None:
    """Start CUDA. The number of devices comes from the driver's library for management, and says nothing about CUDA."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DeviceError(
            f"{device} does not start: {reason} ({gpu_facts()}); update the driver, or use cpu"
        ) from error
    # TF32 has ten bits of mantissa; the frames need float32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def gpu_facts(device: torch.device | None = None) -> str:
    """Describe the driver, PyTorch's build, and a given GPU, for messages about an unusable GPU."""
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    parts = [_driver(), f"PyTorch {torch.__version__} for {build}"]
    with suppress(RuntimeError, AssertionError):
        if kernels := torch.cuda.get_arch_list():
            parts[-1] += f" with kernels for {' '.join(kernels)}"
        if device is not None:
            card = torch.cuda.get_device_properties(device)
            kind = getattr(card, "gcnArchName", "") if torch.version.hip else f"sm_{card.major}{card.minor}"
            parts.append(f"{card.name} is {kind}")
    return ", ".join(parts)


def _driver() -> str:
    with suppress(OSError):
        if found := re.search(r"Module\s+(?:for \S+\s+)?(\d[\d.]+)", _DRIVER.read_text()):
            return f"driver {found[1]}"
    return "driver of unknown version"


def resolve_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the number format for `precision` (auto, fp32, bf16, fp16, int8) on a device. Raises DeviceError.

    auto is bfloat16 if the hardware supports bfloat16 (AVX512-BF16 or AMX; compute capability 8.0; CDNA 2, RDNA 3).
    Otherwise auto is float16 on a GPU and float32 on a CPU, where emulated bfloat16 is slower. int8 is for CPUs;
    convolutions without integers then have the format of auto.
    """
    if precision == "int8" and device.type != "cpu":
        raise DeviceError("int8 needs a CPU; on a GPU use fp16, bf16, fp32 or auto")
    if precision not in ("auto", "int8"):
        if precision not in _DTYPES:
            raise DeviceError(f"unknown precision {precision!r}; use auto, {', '.join(_DTYPES)} or int8")
        if precision == "fp16" and device.type == "cpu":
            raise DeviceError("fp16 needs a GPU; on a CPU use bf16, fp32 or auto")
        return _DTYPES[precision]
    if device.type == "cuda":
        return torch.bfloat16 if _has_bf16(device) else torch.float16
    bf16 = torch.cpu._is_avx512_bf16_supported() and _allowed("AVX512_CORE_BF16")
    return torch.bfloat16 if bf16 else torch.float32


def formats(precision: str, device: torch.device) -> list[torch.dtype]:
    """Return the number formats to try for `precision` on a device, the best first. Raises DeviceError."""
    best = resolve_dtype(precision, device)
    if precision != "auto" or device.type == "cpu":
        return [best]
    order = (torch.bfloat16, torch.float16, torch.float32)
    return list(order[order.index(best) :])


def _has_bf16(device: torch.device) -> bool:
    if torch.version.hip:  # AMD's numbers of architectures mean something else than NVIDIA's
        return str(torch.cuda.get_device_properties(device).gcnArchName).startswith(_AMD_BF16)
    return torch.cuda.get_device_capability(device) >= (8, 0)


def suits_large_networks(device: torch.device) -> bool:
    """Check whether a device computes networks such as BasicVSR at a useful speed: a GPU with units for bfloat16."""
    return device.type == "cuda" and _has_bf16(device)


def has_vnni() -> bool:
    """Check whether oneDNN adds up products of 8-bit integers in one instruction (AVX512-VNNI, AVX2-VNNI) here."""
    capabilities: Mapping[str, object] = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    wide = bool(capabilities.get("avx512_vnni", torch.cpu._is_vnni_supported()))
    return (wide and _allowed("AVX512_CORE_VNNI")) or (bool(capabilities.get("avx_vnni")) and _allowed("AVX2_VNNI"))


def _allowed(isa: str) -> bool:
    """Check that the environment does not keep oneDNN from an instruction set (ONEDNN_MAX_CPU_ISA)."""
    most = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").upper()
    return most not in _ISAS or _ISAS.index(most) >= _ISAS.index(isa)


def narrowed(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert the parameters of a module in place. Buffers stay float32: they describe the input (SPyNet's mean)."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
    return module


def inference_copy(module: M, device: torch.device, dtype: torch.dtype) -> M:
    """Copy a network for inference on a device: parameters in `dtype`, no gradients, channels last in memory."""
    made = copy.deepcopy(module).eval().requires_grad_(False)
    narrowed(made, dtype).to(device)
    return made.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]


@contextmanager
def memory_errors(device: torch.device, shape: Sequence[int]) -> Iterator[None]:
    """Raise DeviceError if torch, cuBLAS or cuDNN runs out of memory inside, for frames of `shape` [T, H, W, ...]."""
    try:
        yield
    except RuntimeError as error:
        if not memory_ran_out(error):
            raise
        count, h, w = shape[:3]
        raise DeviceError(
            f"{device} ran out of memory at {w}x{h} with {count} frames; use a smaller chunk or a smaller model"
        ) from error


def machine_name(device: torch.device, number: str) -> str:
    """Return the machine's properties that decide about speed: processor or GPU, number format, and CPU threads."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {number}"
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    return f"{_processor()}, {number}, {threads} of {cores} cores"


@lru_cache(maxsize=1)
def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def core_threads(threads: int) -> int:
    """Return the number of CPU threads of a network; 0 means one for each core that this process may use."""
    return threads or len(os.sched_getaffinity(0))


def set_threads(threads: int) -> None:
    """Set the number of CPU threads of torch; 0 means one for each core that this process may use."""
    torch.set_num_threads(core_threads(threads))


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on the calling thread alone inside this context.

    Meant for many small calls: on several cores each call waits for the slowest core, for long if an encoder occupies
    that core. Switching takes half a microsecond. A thread whose first call of torch is inside this context also gets a
    single thread: call `set_threads` there.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
