"""What the C library does with memory that is freed: keep it for the next frame, or give it back to the system."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_KEPT_BYTES: Final = 512 * 1024**2
_MAPPED_BYTES: Final = 32 * 1024**2
"""Larger blocks are always given back: kept, they leave gaps that the next ones don't fit, and `small` on 960x540 took
3.3 GB instead of 2.3. Their pages are few beside their work."""
_STEP_BYTES: Final = 16 * 1024**2


def keep_freed_memory() -> None:
    """Keep up to half a gigabyte of freed memory, in place of the 128 kB that is glibc's default, until `give_back`.

    A frame's features are some megabytes, and freed as soon as the next frame has been computed. Pages that come fresh
    from the system are zeroed by it one by one: 3 to 8 thousand a frame of 320x180 with `small`, 8 to 30 ms of one
    core (`model/LOG.md`); a gRPC round trip with an answer of 2.8 MB takes 5.5 ms with them, and 2.9 ms without. To be
    called before there are threads: one heap serves all, since those of threads end at 64 MB, and map what is larger.
    Does nothing where the C library is another.
    """
    libc = _libc()
    if libc is None:
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    libc.mallopt(_M_TOP_PAD, _STEP_BYTES)
    libc.mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Give memory that nothing uses back to the system, as after a job: other programs may need it."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _libc() -> Any:
    """The C library, if it is glibc."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt, libc.malloc_trim  # noqa: B018  # AttributeError where they are not there
    except (OSError, AttributeError):
        return None
    libc.malloc_trim.argtypes = [ctypes.c_size_t]
    return libc
