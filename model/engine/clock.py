"""Clocks of a device."""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray

Seconds = NDArray[np.float64]
"""[wall-clock time, computing time of all threads] of some work."""


class Clock:
    """Measures wall-clock time and computing time on a device, in seconds."""

    def __init__(self, device: torch.device) -> None:
        self._cpu = device.type == "cpu"

    def computing(self) -> float:
        """Return computing time, comparable between chunks under different load.

        On a CPU this is the CPU time of the calling thread. The calling thread takes part in all its parallel work.
        Time in which encoders or other streams had the cores does not count. On a GPU this is wall-clock time.
        """
        return time.thread_time() if self._cpu else time.perf_counter()

    def threads(self) -> int:
        """Return the number of threads that compute for the calling thread."""
        return torch.get_num_threads() if self._cpu else 1

    def both(self) -> Seconds:
        """Return [wall-clock time, computing time of the calling thread]."""
        return np.array([time.perf_counter(), self.computing()])
