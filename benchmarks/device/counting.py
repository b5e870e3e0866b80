"""Launches, copies and synchronisations of some work, from torch's profiler and its warnings about synchronisations."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Counts:
    """What the host asked of the device. On a CPU, `launches` counts torch's operations, and the rest is zero."""

    launches: int
    """Kernels, and replays of graphs."""
    copies: int
    """Copies and fills of memory."""
    waits: int
    """Calls that wait for a stream or an event."""
    synchronising: int
    """Operations that torch reports as synchronising."""


def counted(device: torch.device, work: Callable[[], object]) -> Counts:
    """Run some work twice, once for each counter."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        work()
    events = profiler.events() or []
    if not cuda:
        outer = [e for e in events if e.name.startswith("aten::") and not _inside_operation(e)]
        return Counts(len(outer), 0, 0, 0)
    calls = Counter(_kind(event.name) for event in events)
    return Counts(calls["launch"], calls["copy"], calls["wait"], _synchronising(device, work))


def _kind(name: str) -> str:
    """Return the kind of a call of the CUDA runtime or driver; "" for other events."""
    if not name.startswith(("cuda", "cu", "hip")):
        return ""
    if "Launch" in name:
        return "launch"
    if "Memcpy" in name or "Memset" in name:
        return "copy"
    # The profiler itself synchronises the device.
    return "wait" if "Synchronize" in name and "Device" not in name else ""


def _inside_operation(event: object) -> bool:
    parent = getattr(event, "cpu_parent", None)
    return parent is not None and str(parent.name).startswith("aten::")


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
