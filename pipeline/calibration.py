"""A first guess at this machine's speed, before any job has run: a few frames of the network and of the encoder."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from jobs.speed import Rates
from jobs.speed_records import SpeedRecords
from media.encode.encoders import job_threads
from media.encode.hardware import choose
from media.encode.segment import SegmentWriter
from media.errors import MediaError
from media.spec import plain_spec
from model.device import machine_name
from model.engine.upscaler import Upscaler
from model.errors import ModelError
from model.faults import device_failure
from model.network.macs import macs_per_pixel
from model.zoo.models import card, config_of
from pipeline.encoder import wished_encoder

log = logging.getLogger(__name__)

_SIZES: Final = ((256, 144), (128, 96), (64, 64))
"""Sizes of the frames for the network; slower networks get a smaller one."""
_GPU_SIZES: Final = ((640, 360), *_SIZES)
_MACS: Final = {"cpu": 2e10, "cuda": 5e12}
"""Most multiply-accumulates of a frame, by the type of the device."""
_FRAMES: Final = 2
_QUICK_SECONDS: Final = 0.2
"""Seconds of a frame below which a second measurement costs nothing."""
_ENCODED: Final = (640, 360, 6)
"""Width, height and number of the frames for the encoder."""
_POWER: Final = 0.94
"""Power of the multiply-accumulates by which a network takes longer: large networks use a processor better."""


def machine_of(model: Upscaler, encoder: str) -> str:
    """Name the kind of machine that measured speeds belong to."""
    return f"{machine_name(model.device, model.precision)}, {wished_encoder(encoder, model.device)}"


def calibrate_once(speeds: SpeedRecords, model: Upscaler, encoder: str, names: Iterable[str], weights: Path) -> None:
    """Calibrate this kind of machine, unless a calibration that knows the models exists.

    A failure leaves the machine without a calibration. Raises StoreUnavailable, and RuntimeError if the device
    fails.
    """
    machine, wanted = machine_of(model, encoder), set(names)
    known = speeds.table(machine).rates
    if known is not None and wanted <= known.network.keys():
        return
    try:
        rates = calibrate(model, encoder, wanted, weights)
    except (MediaError, ModelError, OSError, RuntimeError) as error:
        if device_failure(error):
            raise
        log.info("no calibration of %s: %s", machine, error)
    else:
        speeds.calibrated(machine, rates)


def calibrate(model: Upscaler, encoder: str, names: Iterable[str], weights: Path) -> Rates:
    """Measure the dense network and the encoder. Other models follow from their number of multiply-accumulates."""
    # In a short-lived thread, whose OpenMP threads end with it: see `model.engine.loading.load_model`.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_measured, model, encoder, names, weights).result()


def _measured(model: Upscaler, encoder: str, names: Iterable[str], weights: Path) -> Rates:
    own = _macs(model.name, weights)
    sizes = _GPU_SIZES if model.device.type == "cuda" else _SIZES
    most = _MACS.get(model.device.type, 2e10)
    width, height = next((size for size in sizes if size[0] * size[1] * own <= most), sizes[-1])
    model.dense_seconds(height, width, _FRAMES)  # torch prepares the kernels of a size at the first call
    # Wall-clock time: a container with half a core, or other programs, slow the jobs down too.
    seconds = model.dense_seconds(height, width, _FRAMES)
    if seconds < _QUICK_SECONDS:
        seconds = min(seconds, model.dense_seconds(height, width, _FRAMES))
    rate = seconds / (width * height)
    rates = {model.name: rate}
    for name in names:
        with suppress(ModelError, OSError):
            rates.setdefault(name, rate * (_macs(name, weights) / own) ** _POWER)
    on_cpu = model.device.type == "cpu"
    return Rates(
        network=rates,
        pixels=width * height,
        grows=on_cpu,
        encode=_encoding(wished_encoder(encoder, model.device), shared=on_cpu),
        shared=on_cpu and torch.get_num_threads() >= len(os.sched_getaffinity(0)),
    )


def _macs(name: str, weights: Path) -> float:
    """Multiply-accumulates for a pixel. The catalogue saves the packaged models' count, which takes a second."""
    known = card(name, weights).macs
    return macs_per_pixel(config_of(name, weights)) if known is None else known


def _encoding(encoder: str, *, shared: bool) -> float:
    """Seconds of H.264 per output pixel, for a moving pattern. `shared`: the network computes on the same cores."""
    width, height, count = _ENCODED
    spec = replace(
        plain_spec("h264", choose("h264", encoder, width, height), width, height),
        threads=job_threads(len(os.sched_getaffinity(0)), shared=shared),
        enlarged=True,
    )
    frames = [_pattern(width, height, index) for index in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        with SegmentWriter(Path(folder) / "segment.mp4", spec) as writer:
            for index, frame in enumerate(frames):
                writer.write(frame, index)
        return (time.perf_counter() - begun) / (width * height * count)


def _pattern(width: int, height: int, index: int) -> NDArray[np.uint8]:
    """A frame of moving waves with still grain."""
    y, x = np.mgrid[0:height, 0:width]
    grain = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    wave = 120 + 60 * np.sin((x + 2 * y + 7 * index) / 23) + 40 * np.sin((x - 3 * index) * y / 4000)
    return np.asarray((wave[..., None] + grain).clip(0, 255), np.uint8)
