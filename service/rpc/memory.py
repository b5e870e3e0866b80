"""What the C library does with memory that is freed: keep it for the next frame, or give it back to the system."""

from __future__ import annotations

import ctypes
from typing import Final

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES: Final = 512 * 1024**2
_MAPPED_BYTES: Final = 32 * 1024**2
"""Larger blocks are always given back; glibc allows no more than this."""
_STEP_BYTES: Final = 16 * 1024**2


def keep_freed_memory() -> None:
    """Keep up to half a gigabyte of freed memory, in place of the 128 kB that is glibc's default.

    A frame's buffers are some megabytes, and freed as soon as it is answered. Pages that come fresh from the system are
    zeroed by it one by one: a gRPC round trip with an answer of 2.8 MB takes 5.5 ms with them, and 2.9 ms without. Does
    nothing where the C library is another.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_TOP_PAD, _STEP_BYTES)
