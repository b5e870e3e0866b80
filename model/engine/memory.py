"""Freed memory: whether the C library keeps freed memory for the next frame or returns it to the system."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from functools import cache
from typing import Any, Final

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_KEPT_BYTES: Final = 512 * 1024**2
MAPPED_BYTES: Final = 32 * 1024**2
"""Larger blocks always return to the system. If kept, these blocks leave gaps too small for later blocks: `small` on
960x540 took 3.3 GB instead of 2.3 GB. The trunks of larger frames therefore run in bands (`model.engine.bands`)."""
_STEP_BYTES: Final = 16 * 1024**2


def keep_freed_memory() -> None:
    """Keep up to 512 MB of freed memory until `give_back`; glibc keeps 128 kB by default.

    The features of a frame take some megabytes and are freed after the next frame. The system zeroes each fresh page: 3
    to 8 thousand pages for a frame of 320x180 with `small`, 8 to 30 ms of one core (lab notebook). A gRPC round trip
    with an answer of 2.8 MB takes 5.5 ms with fresh pages and 2.9 ms without. Call this function before starting
    threads: all threads then share one heap, since heaps of threads end at 64 MB and map larger blocks. Other C
    libraries stay unchanged.
    """
    libc = _libc()
    if libc is None:
        return
    libc.mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    libc.mallopt(_M_TOP_PAD, _STEP_BYTES)
    libc.mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return unused memory to the system, for example after a job, for other programs."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)


def free_memory() -> None:
    """Collect garbage and return unused memory to the system and to the GPU, page-locked memory too."""
    import torch  # here: the command line imports this module and starts without torch

    gc.collect()
    give_back()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        with suppress(RuntimeError):  # a failed device gives nothing back, and the next call on the device says so
            torch.cuda.empty_cache()
            torch._C._host_emptyCache()


@cache
def _libc() -> Any:
    """Return the C library if the library is glibc, else None."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt, libc.malloc_trim  # noqa: B018  # AttributeError without these functions
    except (OSError, AttributeError):
        return None
    libc.malloc_trim.argtypes = [ctypes.c_size_t]
    return libc
