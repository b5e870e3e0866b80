"""The speed of a run, measured from its events for later estimates."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from jobs.schema import JobOptions
from jobs.speed import Measurement, Work
from pipeline.events import ChunkDone, Event, Finished, PartDone, Started, Stopped

_WINDOW_SECONDS: Final = 20.0
"""Seconds of work after which a part of a long job counts: estimates need not wait for the job's end."""


class Speedometer:
    """Measures one run, from file to file.

    Args:
        model: name of the model.
        options: the job's options.
        record: called with each measurement.
        clock: returns seconds.
        warm_up: frames that the network reads and drops before the first chunk, unless the run resumes.
    """

    def __init__(
        self,
        model: str,
        options: JobOptions,
        record: Callable[[Measurement], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        warm_up: int = 0,
    ) -> None:
        self._model, self._options, self._record, self._clock = model, options, record, clock
        self._created = self._since = self._last = clock()
        self._start, self._warm_up = 0.0, warm_up
        self._frames = 0
        self._work: Work | None = None

    def take(self, event: Event) -> None:
        """Take the next event of the run."""
        now = self._clock()
        match event:
            case Started():
                video, spec = event.info.video, event.spec
                source, output = (video.width, video.height), (spec.width, spec.height)
                self._work = Work.of(self._model, self._options, spec.codec, source, output)
                self._start, self._since, self._last = now - self._created, now, now
                self._warm_up = 0 if event.resumed else self._warm_up
            case ChunkDone():
                self._frames += self._warm_up + event.frames
                self._warm_up = 0
                self._last = now
                if now - self._since >= _WINDOW_SECONDS:
                    self._flush()
            case Stopped() | PartDone():
                self._flush()
            case Finished():
                self._flush(start=self._start + now - self._last, bits=_bits(event))

    def _flush(self, *, start: float | None = None, bits: float | None = None) -> None:
        if self._work is None or not self._frames:
            return
        self._record(Measurement(self._work, self._frames, self._last - self._since, start, bits))
        self._since, self._frames = self._last, 0


def _bits(event: Finished) -> float | None:
    """Bits per output pixel of the whole result, as at CRF 18: half as many per 6 steps."""
    frames, spec = event.progress.frames_done, event.spec
    if not frames:
        return None
    return event.path.stat().st_size * 8 / (spec.width * spec.height * frames) * 2 ** ((spec.crf - 18) / 6)
