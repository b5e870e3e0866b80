"""Latency percentiles of streams of any length, in constant memory."""

from __future__ import annotations

import math

_STEP = 1.02
_LEAST = 1e-6
_BUCKETS = 1400  # from a microsecond to more than 10 days


class LatencyHistogram:
    """A histogram. Each bucket is 2 % larger than the bucket before: percentiles are accurate to 2 %."""

    def __init__(self) -> None:
        self.count = 0
        self._buckets = [0] * _BUCKETS

    def add(self, seconds: float) -> None:
        """Add a latency."""
        number = int(math.log(max(seconds, _LEAST) / _LEAST) / math.log(_STEP))
        self._buckets[min(number, _BUCKETS - 1)] += 1
        self.count += 1

    def percentile(self, percent: float) -> float:
        """Return a percentile (0 to 100) in seconds, or 0 if the histogram is empty."""
        wanted, seen = percent / 100 * self.count, 0
        for number, count in enumerate(self._buckets):
            seen += count
            if count and seen >= wanted:
                return float(_LEAST * _STEP ** (number + 0.5))
        return 0.0
