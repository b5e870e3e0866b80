"""Admission of a network to a device: the first place where the network computes right numbers in a trial.

PyTorch may lack kernels for a GPU, cuDNN may lack a way to compute a convolution, and some GPUs compute NaN in float16
(GTX 16xx), which an upscaled frame shows as black. Each network therefore runs a trial on its GPU. With `auto`, a
failure leads to the next place: bfloat16, float16, float32, then the CPU.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from model.device import automatic, formats, gpu_facts, resolve_device
from model.errors import DeviceError
from model.faults import allocation_failed, chain, device_failure, told

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """A device with a number format."""

    device: torch.device
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.device} with {str(self.dtype).removeprefix('torch.')}"


def places(device: str, precision: str) -> tuple[list[Place], list[str]]:
    """Return the places to try, the best first, and the places known to fail. Raises DeviceError.

    `device` is auto, cpu, cuda or cuda:N; `precision` is that of `model.device.resolve_dtype`.
    """
    if device != "auto":
        only = resolve_device(device)
        return [Place(only, dtype) for dtype in formats(precision, only)], []
    best, trouble = automatic()
    found = [Place(best, dtype) for dtype in formats(precision, best)]
    if best.type != "cpu" and precision != "fp16":  # which no CPU has
        cpu = torch.device("cpu")
        found += [Place(cpu, dtype) for dtype in formats(precision, cpu)]
    return found, [f"The GPU is not used: {trouble}"] if trouble else []


def admit(device: str, precision: str, load: Callable[[Place], T]) -> tuple[T, tuple[str, ...]]:
    """Load and try a network in one place after the other; return the network, and why better places are not used.

    `load` raises DeviceError or RuntimeError if the network does not compute right numbers. Raises DeviceError if no
    place is left, or if memory runs out: other programs may give memory back, so no other place is better.
    """
    left, notes = places(device, precision)
    cause: BaseException | None = None
    while left:
        place, *left = left
        try:
            found = load(place)
        except (DeviceError, RuntimeError) as error:
            if place.device.type == "cpu":
                raise
            if any(map(allocation_failed, chain(error))):
                raise DeviceError(
                    f"{place.device} ran out of memory while a model was loaded; free its memory, use a smaller "
                    "model, or use cpu"
                ) from error
            *_, cause = chain(error)
            notes.append(f"{place} is not used: {told(cause)} ({gpu_facts(place.device)})")
            if device_failure(error):  # also of a GPU without kernels: no number format helps
                left = [other for other in left if other.device != place.device]
        else:
            for note in notes:
                log.warning("%s", note)
            return found, tuple(notes)
    raise DeviceError(f"{notes[-1]}; install a PyTorch with kernels for this GPU, or use cpu or auto") from cause
