"""Display times: the rule that gives decoded frames their timestamps.

A decoder delivers frames in display order, so their times must increase. The rule, for each frame with a look at the
next frames:

1. Increasing times are right and stay unchanged.
2. If the frames' times increase in coding order instead, they are decoding times (AVI, broken FLV, MP4 and MKV). Sorted
   times are the frames' display times, after the decoder's delay is taken off.
3. Among other times, the longest increasing sequence is right. The other frames are spread evenly between its times,
   and counted.
4. Times that start over by more than a second belong after the earlier times.

The rule depends only on the last time and on the next frames. Decoding from the middle of a file therefore gives the
same times. Memory is bounded by `_LOOKAHEAD` and the decoder's reordering.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Final, Generic, NamedTuple, TypeVar

from media.demux.monotonic import is_restart
from media.ledger import TrackLedger

F = TypeVar("F")

_LOOKAHEAD: Final = 8
"""Number of later frames that decide about the current frame's time."""
_DEEPEST: Final = 16
"""Largest reorder depth of any codec."""
_REMEMBERED: Final = 512
"""Number of packets whose times are kept, for frames still in the decoder."""


class _Waiting(NamedTuple, Generic[F]):
    """A decoded frame without a display time."""

    frame: F
    number: int | None
    """Number of the packet that the frame was decoded from."""
    pts: int | None


class DisplayTimes(Generic[F]):
    """Display times of a track's frames, in units of the track's time base.

    Args:
        time_base: seconds of one unit.
        step: typical distance of two frames.
        track: counts replaced times and restarts.
        decoding_times: whether the container holds decoding times only, as AVI does.
        lag: number of frames between decoding and showing the first frame, if the times are decoding times.
        last: time of the frame before the first one, if decoding begins in the middle.
    """

    def __init__(
        self,
        time_base: Fraction,
        step: int,
        track: TrackLedger,
        *,
        decoding_times: bool = False,
        lag: int = 0,
        last: int | None = None,
    ) -> None:
        self._time_base, self._step, self._track = time_base, step, track
        self._coded = CodedTimes(by_dts=decoding_times)
        self._sorting = _Sorting(self._coded, lag)
        self._only_decoding_times = decoding_times
        self._waiting: list[_Waiting[F]] = []
        self._last = last
        self._shift = 0
        self.exact = not decoding_times
        """Whether all frames so far kept their own pts."""

    def coded(self, pts: int | None, dts: int | None) -> int:
        """Note the times of the next packet in coding order. Returns the packet's number."""
        return self._coded.add(pts, dts)

    def shown(self, frame: F, number: int | None, pts: int | None, depth: int = 0) -> Iterator[tuple[F, int]]:
        """Add the next frame in display order, and yield (frame, time) of the frames whose times are settled.

        Args:
            number: number of the frame's packet; None: unknown.
            pts: the packet's presentation time.
            depth: the decoder's reorder depth.
        """
        self._waiting.append(_Waiting(frame, number, pts))
        if number is not None:
            self._sorting.arrived(number)
        while len(self._waiting) > _LOOKAHEAD + min(depth, _DEEPEST):
            yield self._settled()

    def rest(self) -> Iterator[tuple[F, int]]:
        """Yield the frames that still wait, at the end of the track."""
        while self._waiting:
            yield self._settled()

    def _settled(self) -> tuple[F, int]:
        if self._is_right():
            head = self._waiting.pop(0)
            self._last = (head.pts or 0) + self._shift
            return head.frame, self._last
        times = self._candidates()
        head = self._waiting.pop(0)
        self._sorting.settled()
        self._last = self._time(times)
        self.exact = self.exact and not self._sorting.active
        return head.frame, self._last

    def _is_right(self) -> bool:
        """Whether the times increase: the usual case, without a second look."""
        if self._only_decoding_times or self._sorting.active:
            return False
        before = None if self._last is None else self._last - self._shift
        for waiting in self._waiting[: _LOOKAHEAD + 1]:
            if waiting.pts is None or (before is not None and waiting.pts <= before):
                return False
            before = waiting.pts
        return True

    def _candidates(self) -> list[int | None]:
        """The waiting frames' times before repair: their own, or sorted decoding times."""
        near = self._waiting[: _LOOKAHEAD + 1]
        numbers = [waiting.number for waiting in near if waiting.number is not None]
        decoding = self._only_decoding_times or self._are_decoding_times(near, numbers)
        if decoding and len(numbers) == len(near):
            if not self._sorting.active:
                every = [waiting.number for waiting in self._waiting if waiting.number is not None]
                self._sorting.begin(every)
            return self._sorting.times(len(near))
        self._sorting.active = False
        return [waiting.pts for waiting in near]

    def _are_decoding_times(self, frames: Sequence[_Waiting[F]], numbers: Sequence[int]) -> bool:
        """Whether times increase in coding order, but not in display order, or are missing."""
        known = [frame.pts for frame in frames if frame.pts is not None]
        if 2 * len(known) < len(frames):
            return True
        # Frames before may have had decoding times, and these may lack a reordered frame.
        suspicious = self._sorting.active or any(b < a for a, b in pairwise(known))
        return suspicious and bool(numbers) and self._coded.increase(min(numbers) - _DEEPEST, max(numbers))

    def _time(self, times: Sequence[int | None]) -> int:
        """Time of the first of some frames, after `self._last`."""
        shifted = [None if time is None else time + self._shift for time in times]
        head = shifted[0]
        if head is not None and self._starts_over(head, shifted):
            assert self._last is not None
            self._track.restarts += 1
            self._shift += self._last + self._step - head
            return self._last + self._step
        kept = _longest_increasing(shifted, self._last, self._step)
        if kept and kept[0] == 0:
            assert head is not None
            return head
        self._track.repaired_times += 1
        return self._between(kept[0], shifted[kept[0]]) if kept else self._after(known=head is not None)

    def _starts_over(self, head: int, times: Sequence[int | None]) -> bool:
        """Whether the times start over: this frame's and most of the next frames' are before the last time."""
        if self._last is None or not is_restart(head, self._last, self._time_base):
            return False
        known = [time for time in times if time is not None]
        return 2 * sum(time <= self._last for time in known) > len(known)

    def _between(self, place: int, time: int | None) -> int:
        """Time of a frame that is `place` frames before a frame at `time`."""
        assert time is not None
        if self._last is None:
            return time - place * self._step
        return self._last + max(1, round((time - self._last) / (place + 1)))

    def _after(self, *, known: bool) -> int:
        """Time of a frame without a later frame of known time."""
        if self._last is None:
            return 0
        return self._last + (1 if known else self._step)


class CodedTimes:
    """Times of the last packets in coding order."""

    def __init__(self, *, by_dts: bool) -> None:
        self._by_dts = by_dts
        self._times: dict[int, tuple[int | None, int | None]] = {}
        self._count = 0

    def add(self, pts: int | None, dts: int | None) -> int:
        """Add the next packet. Returns its number."""
        number, self._count = self._count, self._count + 1
        self._times[number] = pts, dts
        self._times.pop(number - _REMEMBERED, None)
        return number

    def time(self, number: int) -> int | None:
        """Time of a packet; extrapolated after the last one."""
        beyond = max(0, number - self._count + 1)
        pts, dts = self._times.get(number - beyond, (None, None))
        time = dts if self._by_dts or pts is None else pts
        return None if time is None else time + beyond * (self.step() if beyond else 0)

    def increase(self, first: int, last: int) -> bool:
        """Whether the times increase from packet `first` to packet `last`."""
        times = [self._times[number][0] for number in range(first, last + 1) if number in self._times]
        known = [time for time in times if time is not None]
        return all(a <= b for a, b in pairwise(known))

    def step(self) -> int:
        """Median distance of the last packets."""
        times = [self.time(number) for number in range(self._count - _DEEPEST, self._count)]
        steps = sorted(b - a for a, b in pairwise(times) if a is not None and b is not None)
        return steps[len(steps) // 2] if steps else 1


class _Sorting:
    """Display times from decoding times.

    An encoder delays the n-th decoding time by its reorder depth. The n-th frame in display order is therefore due at
    the decoding time of the packet `depth` places later. The first frame is due at the first packet's time, and `lag`
    frames later if players show it so.
    """

    def __init__(self, coded: CodedTimes, lag: int) -> None:
        self._coded, self._lag = coded, lag
        self.active = False
        self._pending: list[int] = []
        self._ahead: list[tuple[int, int]] = []
        self._depth = 0
        self._first = 0
        self._start: list[int | None] = []
        self._offset: int | None = None

    def begin(self, numbers: Sequence[int]) -> None:
        """Begin with the packets of the frames that wait."""
        self.active, self._depth, self._ahead, self._pending = True, 0, [], []
        self._first, self._start = min(numbers), []
        for number in numbers:
            self.arrived(number)

    def arrived(self, number: int) -> None:
        """A frame, decoded from packet `number`, is the next in display order."""
        if not self.active:
            return
        insort(self._pending, number)
        overtaken = [(other, count + (other > number)) for other, count in self._ahead]
        self._ahead = [*overtaken, (number, 0)][-_DEEPEST:]
        self._depth = min(_DEEPEST, max([self._depth, *(count for _, count in self._ahead)]))

    def settled(self) -> None:
        """The first frame that waits has its time."""
        if self.active and self._pending:
            self._pending.pop(0)

    def times(self, count: int) -> list[int | None]:
        """Times of the next frames."""
        while len(self._start) <= self._depth:
            self._start.append(self._coded.time(self._first + len(self._start)))
        first, due = self._start[0], self._start[self._depth]
        if self._offset is None:
            self._offset = self._lag * self._coded.step() if self._lag else 0
        delay = -self._offset if first is None or due is None else due - first - self._offset
        times = (self._coded.time(number + self._depth) for number in self._pending[:count])
        return [None if time is None else time - delay for time in times]


def _longest_increasing(times: Sequence[int | None], last: int | None, step: int) -> list[int]:
    """Places of the longest sequence of times that increases from `last` and leaves room for the frames between.

    Of equally long sequences, the one with the steadiest steps.
    """
    if _increases(times, last):
        return [place for place, time in enumerate(times) if time is not None]
    best: list[tuple[int, float, list[int]]] = []  # (-length, unsteadiness, places) of the best sequence to each place
    for place, time in enumerate(times):
        links = [(-1, last, (0, 0.0, list[int]()))]
        links += [(at, times[at], found) for at, found in enumerate(best) if found[2]]
        options = [
            (length - 1, unsteady + _unsteadiness(place - at, before, time, step), [*places, place])
            for at, before, (length, unsteady, places) in links
            if time is not None and (before is None or time - before >= place - at)
        ]
        best.append(min(options, default=(0, 0.0, [])))
    return min(best, default=(0, 0.0, []))[2]


def _increases(times: Sequence[int | None], last: int | None) -> bool:
    known = [time for time in [last, *times] if time is not None]
    return all(a < b for a, b in pairwise(known))


def _unsteadiness(frames: int, before: int | None, time: int, step: int) -> float:
    return 0.0 if before is None else abs(time - before - frames * step)
