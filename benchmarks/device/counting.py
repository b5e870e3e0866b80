"""Launches, copies and synchronisations of some work, as torch dispatches them and as the profiler sees them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.launches import Launches
from model.engine.one_thread import here_or_there


@dataclass(frozen=True)
class Counts:
    """What the host asks of the device. Without a GPU, or where the profiler sees nothing, most figures are None."""

    expected: int
    """Launches by the operations that torch dispatches (`benchmarks.launches`); 0 on a CPU."""
    launches: int | None = None
    """Launches of kernels and graphs that the profiler saw."""
    copies: int | None = None
    """Copies and fills of memory."""
    waits: int | None = None
    """Calls that wait for a stream or an event."""
    synchronising: int | None = None
    """Operations that torch reports as synchronising."""


def counted(device: torch.device, work: Callable[[], object]) -> Counts:
    """Run some work, on a GPU three times: once for each counter."""
    expected = here_or_there(device, partial(_dispatched, work))  # torch counts the operations of one thread
    if device.type != "cuda":
        return Counts(expected)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize(device)
    calls = Counter(kind(event.name) for event in profiler.events() or [])
    waits = _synchronising(device, work)
    if not calls["launch"]:  # the profiler has no access to the device
        return Counts(expected, synchronising=waits)
    return Counts(expected, calls["launch"], calls["copy"], calls["wait"], waits)


def _dispatched(work: Callable[[], object]) -> int:
    dispatched = Launches()
    with dispatched:
        work()
    return dispatched.launches.total()


def kind(name: str) -> str:
    """Return the kind of a call of the CUDA runtime or driver: launch, copy, wait, or nothing."""
    if not name.startswith(("cuda", "cuLaunch", "cuMem", "cuGraph", "hip")):
        return ""
    if "Launch" in name:
        return "launch"
    if "Memcpy" in name or "Memset" in name:
        return "copy"
    # The profiler and `counted` synchronise the whole device.
    return "wait" if "Synchronize" in name and "Device" not in name else ""


def _synchronising(device: torch.device, work: Callable[[], object]) -> int:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    torch.cuda.synchronize(device)
    return sum("synchronizing" in str(warning.message) for warning in caught)
