"""Measurements of pictures and sounds that the kinds of faults need beyond a file's facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

import av
import numpy as np

from benchmarks.footage.facts import main_picture, opened

Picture: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Wave: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


def measured(name: str, source: Path, result: Path) -> Any:
    """Take one measurement of a result. A text that says why, if the result does not allow the measurement."""
    try:
        return _MEASURES[name](source, result)
    except (av.error.FFmpegError, ValueError, IndexError) as error:
        return f"not measurable: {type(error).__name__}: {error}"


def pictures(path: Path, form: str = "rgb24") -> Iterator[tuple[float, Picture]]:
    """Time in seconds and samples of each frame of the main picture."""
    with opened(path) as container:
        for frame in container.decode(main_picture(container)):
            time = float(frame.pts * frame.time_base) if frame.pts is not None and frame.time_base else -1.0
            yield time, frame.to_ndarray(format=form)


def sound(path: Path) -> tuple[Wave, int, float]:
    """Samples [channels, n] from -1 to 1, rate, and time of the first sample, of the first audio track."""
    blocks, first, rate = [], None, 0
    with opened(path) as container, suppress(av.error.EOFError):
        for frame in container.decode(audio=0):
            if first is None and frame.pts is not None and frame.time_base:
                first = float(frame.pts * frame.time_base)
            rate = frame.sample_rate
            blocks.append(_samples(frame))
    if not blocks:
        raise ValueError("no sound")
    return np.concatenate(blocks, axis=1), rate, first or 0.0


def _samples(frame: Any) -> Wave:
    name = frame.format.packed.name
    kind = np.dtype({"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}[name])
    channels = frame.layout.nb_channels
    # Not to_ndarray: PyAV finds a ninth plane in planar sound of eight channels.
    planes = frame.planes[: channels if frame.format.is_planar else 1]
    rows = [np.frombuffer(plane, kind) for plane in planes]
    values: Wave = np.stack([row[: frame.samples * channels // len(rows)] for row in rows])
    if not frame.format.is_planar:
        values = values.reshape(-1, channels).T
    scale = {"u8": 128, "s16": 2**15, "s32": 2**31, "s64": 2**63}.get(name, 1)
    return (values.astype(np.float64) - (128 if name == "u8" else 0)) / scale


def tone(wave: Wave, rate: int) -> float:
    """The loudest frequency in Hz."""
    spectrum = np.abs(np.fft.rfft(wave[0] * np.hanning(wave.shape[1])))
    return float((int(np.argmax(spectrum[1:])) + 1) * rate / int(wave.shape[1]))


def _tone(_: Path, result: Path) -> float:
    wave, rate, _first = sound(result)
    return float(round(tone(wave, rate), 1))


def _sound_seconds(_: Path, result: Path) -> float:
    wave, rate, _first = sound(result)
    return float(round(wave.shape[1] / rate, 3))


def _samples_equal(source: Path, result: Path) -> bool:
    (before, _, _), (after, _, _) = sound(source), sound(result)
    return before.shape == after.shape and bool((before == after).all())


def _flash_to_beep(_: Path, result: Path) -> float:
    """Largest distance in ms between a white picture and the beep that belongs to it."""
    flashes = [time for time, picture in pictures(result) if picture.min() > 200]
    wave, rate, first = sound(result)
    loud = np.abs(wave[0]) > 0.1
    begins = [n for n in np.flatnonzero(loud) if not loud[max(0, n - rate // 10) : n].any()]
    beeps = [first + n / rate for n in begins]
    if len(flashes) != len(beeps):
        raise ValueError(f"{len(flashes)} flashes and {len(beeps)} beeps")
    return float(round(1000 * max(abs(a - b) for a, b in zip(flashes, beeps, strict=True)), 1))


def _red(_: Path, result: Path) -> float:
    """Largest share of lines in a frame that are red from end to end."""
    red = ((p[..., 0] > 180) & (p[..., 1] < 70) & (p[..., 2] < 70) for _, p in pictures(result))
    return max(float((picture.mean(axis=1) > 0.9).mean()) for picture in red)


def _chroma_error(_: Path, result: Path) -> float:
    """Largest distance between two colours of one pixel, in levels of 8 bits. 0: all pixels are grey."""
    return max(float((p.max(axis=-1).astype(int) - p.min(axis=-1)).max()) for _time, p in pictures(result))


def _white_shape(_: Path, result: Path) -> float:
    """Width over height of the white square in the last quarter, in square pixels."""
    with opened(result) as container:
        pixel = float(main_picture(container).sample_aspect_ratio or 1)
    last = list(pictures(result))[-1][1]
    white = last.min(axis=-1) > 200
    columns, rows = np.flatnonzero(white.any(axis=0)), np.flatnonzero(white.any(axis=1))
    return round(float(np.ptp(columns) + 1) / float(np.ptp(rows) + 1) * pixel, 3)


def _patches(source: Path, result: Path) -> float:
    """Largest mean error of the first frame's pure red, green and blue areas, in levels."""
    (_, before), (_, after) = next(pictures(source)), next(pictures(result))
    factor = after.shape[0] // before.shape[0]
    worst = 0.0
    for channel in range(3):
        pure = np.zeros(3)
        pure[channel] = 255
        area = (before == pure).all(axis=-1)
        area = area & np.roll(area, 6, 0) & np.roll(area, -6, 0) & np.roll(area, 6, 1) & np.roll(area, -6, 1)
        if area.any():
            same = after[area.repeat(factor, 0).repeat(factor, 1)]
            worst = max(worst, float(np.abs(same.mean(axis=0) - pure).max()))
    return round(worst, 2)


def _mean_shift(source: Path, result: Path) -> float:
    """Largest difference of a channel's mean over the first frame, in levels."""
    (_, before), (_, after) = next(pictures(source)), next(pictures(result))
    return round(float(np.abs(before.mean(axis=(0, 1)) - after.mean(axis=(0, 1))).max()), 2)


_MEASURES: Final[dict[str, Callable[[Path, Path], Any]]] = {
    "tone": _tone,
    "sound_seconds": _sound_seconds,
    "samples_equal": _samples_equal,
    "flash_to_beep_ms": _flash_to_beep,
    "red_lines": _red,
    "color_of_grey": _chroma_error,
    "white_shape": _white_shape,
    "patch_error": _patches,
    "mean_shift": _mean_shift,
}
"""Name → measurement of (source, result)."""
