"""One thread for all work on GPUs.

cuDNN's plans, and the handles of cuBLAS and cuDNN with their memory, belong to a thread. A thread for each job would
make all of them anew for each job.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, wraps
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")
_NAME: Final = "gpu"


class OnDevice(Protocol):
    """An object that computes on a device."""

    device: torch.device


S = TypeVar("S", bound=OnDevice)


def on_gpu_thread(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Let a method run in the GPU's thread if its object computes on a GPU."""

    @wraps(method)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return here_or_there(self.device, lambda: method(self, *args, **kwargs))

    return run


def steps_on_gpu_thread(
    method: Callable[Concatenate[S, P], Generator[T]],
) -> Callable[Concatenate[S, P], Generator[T]]:
    """Let each step of a generator run in the GPU's thread if its object computes on a GPU."""

    @wraps(method)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Generator[T]:
        steps = method(self, *args, **kwargs)
        if not _is_gpu(self.device):
            yield from steps
            return
        try:
            while (item := here_or_there(self.device, lambda: next(steps, _END))) is not _END:
                yield item  # type: ignore[misc]
                del item
        finally:
            here_or_there(self.device, steps.close)

    return run


def here_or_there(device: torch.device, call: Callable[[], T]) -> T:
    """Call a function in the GPU's thread if the device is a GPU, else in the calling thread."""
    if not _is_gpu(device) or threading.current_thread().name.startswith(_NAME):
        return call()
    return _thread().submit(call).result()


_END: Final = object()


def _is_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


@cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix=_NAME)
