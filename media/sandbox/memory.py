"""Memory that parent and child share for decoded frames."""

from __future__ import annotations

import fcntl
import mmap
import os


def sized(memory: int, size: int) -> mmap.mmap:
    """Size the memory behind a descriptor for good, and map the memory for reading.

    A compromised child could otherwise shrink the memory and crash the parent.
    """
    os.ftruncate(memory, size)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return mmap.mmap(memory, size, prot=mmap.PROT_READ)
