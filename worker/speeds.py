"""The worker's measured speeds in Redis."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from jobs.errors import StoreUnavailable
from jobs.speed import Measurement
from jobs.speed_records import SpeedRecords
from model.engine.upscaler import Upscaler
from pipeline.calibration import calibrate_once

log = logging.getLogger(__name__)

_PAUSE_SECONDS: Final = 60.0
"""Pause after a failure: a job must not wait for Redis again and again."""


class WorkerSpeeds:
    """Keeps measurements for estimates. Without Redis, measurements are lost and the job continues.

    Args:
        records: the speeds, through a client with a short timeout.
        machine: this worker's kind of machine.
    """

    def __init__(self, records: SpeedRecords, machine: str) -> None:
        self._records, self._machine = records, machine
        self._again = 0.0

    def calibrate(self, model: Upscaler, encoder: str, names: Iterable[str], weights: Path) -> None:
        """Measure this kind of machine for a part of a second, unless a worker of the kind has done so."""
        try:
            calibrate_once(self._records, model, encoder, names, weights)
        except StoreUnavailable as error:
            log.warning("no calibration: %s", error)

    def add(self, measurement: Measurement) -> None:
        """Keep a measurement."""
        if time.monotonic() < self._again:
            return
        try:
            self._records.add(self._machine, measurement)
        except StoreUnavailable as error:
            self._again = time.monotonic() + _PAUSE_SECONDS
            log.debug("cannot keep the measured speed: %s", error)
