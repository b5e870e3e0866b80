"""The time of a job: measured speeds of a kind of machine, and forecasts from these speeds.

A *prior* gives the seconds of a frame from two rates: of the network by source pixel, and of the encoder by output
pixel. A short calibration measures both. Finished work corrects the prior: each *cell* holds the seconds of a frame for
jobs of one kind (model, routing, codec and size). A forecast multiplies the prior by the cells' corrections. Cells of
like jobs count most.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple, Protocol

from pydantic import BaseModel, Field

Basis = Literal["measured", "calibrated"]

_ROUTING: Final = {"off": 1.0, "balanced": 0.72, "fast": 0.64}
"""Time of the network over the dense network's: means of the validation clips with `small` on 8-bit integers."""
_CODEC: Final = {"h264": 1.0, "hevc": 4.0, "av1": 2.5}
"""Time of the software encoders over that of H.264."""
_CONTENT: Final = {"off": 0.1, "balanced": 0.25, "fast": 0.3}
"""Standard deviation of the logarithm of the time between videos of one size."""
_GROWTH: Final = 0.14
"""Power of the size by which a pixel takes longer on a CPU: large frames leave the caches."""
_GROWN: Final = 1280 * 720
"""Pixels of a frame beyond which a pixel takes no longer."""
_LOOKAHEAD: Final = 0.5
"""Work of a frame of look-ahead (backward branch only), as a fraction of the work of a frame."""
_PRIOR_WEIGHT, _PRIOR_SPREAD = 0.02, 0.6
"""Weight of the prior beside cells of like jobs, whose weight is 1 to 4; and its standard deviation."""
_START_SECONDS: Final = 1.5
"""Seconds of a job outside of its chunks, if not measured."""
_MEMORY: Final = 0.15
"""Smallest share of a new measurement in a cell's mean."""
_MOST_WEIGHT: Final = 4.0
_WHOLE_SECONDS: Final = 10.0
"""Seconds of work from which a measurement has its full weight."""
_TICK: Final = 1e-3
"""Shortest time of a measurement, in seconds."""
_LIKE: Final = 0.5
"""Likeness from which a forecast counts as measured."""
_BAND: Final = 1.28
"""Standard deviations between the forecast and its bounds: four of five jobs end within."""


class Options(Protocol):
    """The options of a job (`jobs.schema.JobOptions`) that decide about its time."""

    @property
    def routing(self) -> str:
        """How much work the network may skip."""

    @property
    def chunk(self) -> int:
        """Frames per chunk."""

    @property
    def lookahead(self) -> int:
        """Frames after a chunk that the network reads."""


class Work(NamedTuple):
    """The properties that decide about the time of a frame."""

    model: str
    routing: str
    codec: str
    pixels: int
    """Pixels of a source frame."""
    output_pixels: int
    extra: float = 0.0
    """Frames of look-ahead for each frame."""

    @classmethod
    def of(cls, model: str, options: Options, codec: str, source: tuple[int, int], output: tuple[int, int]) -> Work:
        """The work of a job that enlarges frames of the size `source` to the size `output`."""
        pixels, output_pixels = source[0] * source[1], output[0] * output[1]
        return cls(model, options.routing, codec, pixels, output_pixels, options.lookahead / options.chunk)

    @property
    def cell(self) -> str:
        """Name of the cell: sizes of half an octave share one."""
        size, scale = round(2 * math.log2(self.pixels)), round(2 * math.log2(self.output_pixels / self.pixels))
        return f"{self.model}|{self.routing}|{self.codec}|{size}|{scale}"


class Measurement(NamedTuple):
    """Time of a part of a job."""

    work: Work
    frames: int
    seconds: float
    """From file to file: decoding, network, encoding."""
    start: float | None = None
    """Seconds before the first chunk and after the last one; None before the job's end."""
    bits: float | None = None
    """Bits per output pixel of the result, as at CRF 18."""


class Rates(BaseModel):
    """A calibration: seconds of the dense network and of the encoder."""

    network: dict[str, float] = Field(description="Seconds per source pixel, by model.")
    pixels: int = Field(description="Size of the calibration's frames.")
    grows: bool = Field(description="Whether a pixel of a larger frame takes longer.")
    encode: float = Field(description="Seconds of H.264 per output pixel.")
    shared: bool = Field(description="Whether network and encoder share the processor, so that their times add up.")


class Cell(BaseModel):
    """Measurements of jobs of one kind, as running means."""

    model: str
    routing: str
    codec: str
    pixels: int
    output_pixels: int
    seconds: float = Field(description="Geometric mean of the seconds of a frame, without look-ahead.")
    spread: float = Field(0.0, description="Variance of the logarithm of the seconds.")
    weight: float = Field(0.0, description="Number of measurements, those of short parts counted in part.")
    start: float | None = None
    bits: float | None = None
    at: float = Field(description="Unix time of the last measurement.")

    @property
    def work(self) -> Work:
        """The kind of jobs."""
        return Work(self.model, self.routing, self.codec, self.pixels, self.output_pixels)


class PerFrame(NamedTuple):
    """A forecast for one frame of a job."""

    seconds: float
    deviation: float
    """Standard deviation of the logarithm of the seconds."""
    start: float
    bits: float | None
    """Bits per output pixel at CRF 18; None if not measured."""
    basis: Basis


class Forecast(NamedTuple):
    """A forecast for a whole job."""

    seconds: float
    low: float
    high: float
    basis: Basis


def updated(cell: Cell | None, new: Measurement) -> Cell:
    """Add a measurement to its cell."""
    work, share = new.work, min(1.0, max(new.seconds, _TICK) / _WHOLE_SECONDS)
    seconds = max(new.seconds, _TICK) / new.frames / _looked_ahead(work)
    if cell is None:
        cell = Cell(**work._asdict(), seconds=seconds, at=0.0)
    part = max(share / (cell.weight + share), _MEMORY * share)
    off = math.log(seconds / work.pixels * cell.pixels / cell.seconds)
    values = {
        "seconds": cell.seconds * math.exp(part * off),
        "spread": (1 - part) * (cell.spread + part * off**2),
        "weight": cell.weight + share,
        "start": _mixed(cell.start, new.start),
        "bits": _mixed(cell.bits, new.bits),
        "at": time.time(),
    }
    return cell.model_copy(update=values)


def _mixed(old: float | None, new: float | None) -> float | None:
    if old is None or new is None:
        return old if new is None else new
    return old + 0.3 * (new - old)


class SpeedTable:
    """The knowledge about a kind of machine."""

    def __init__(self, rates: Rates | None, cells: Iterable[Cell]) -> None:
        self.rates, self.cells = rates, tuple(cells)

    def per_frame(self, work: Work) -> PerFrame | None:
        """Forecast a frame; None if nothing is known."""
        if self.rates is None and not self.cells:
            return None
        prior = _prior(self.rates, work)
        total, logs, variance = _PRIOR_WEIGHT, 0.0, _PRIOR_WEIGHT * _PRIOR_SPREAD**2
        starts, bits, measured = _Mean(_START_SECONDS, _PRIOR_WEIGHT), _Mean(0.0, 0.0), False
        for cell in self.cells:
            like, miss = _likeness(work, cell.work)
            weight = like**2 * min(cell.weight, _MOST_WEIGHT)
            total += weight
            logs += weight * math.log(cell.seconds / _prior(self.rates, cell.work))
            known = (cell.weight * cell.spread + _CONTENT.get(work.routing, 0.3) ** 2) / (cell.weight + 1)
            variance += weight * (known + miss**2)
            measured = measured or (like >= _LIKE and cell.model == work.model)
            starts.add(cell.start, like)
            if cell.codec == work.codec and cell.bits:
                bits.add(math.log(cell.bits), like)
        seconds = prior * math.exp(logs / total) * _looked_ahead(work)
        size = math.exp(bits.value) if bits.weight else None
        basis: Basis = "measured" if measured else "calibrated"
        return PerFrame(seconds, math.sqrt(variance / total), starts.value, size, basis)

    def forecast(self, work: Work, frames: int) -> Forecast | None:
        """Forecast a job; None if nothing is known."""
        frame = self.per_frame(work)
        if frame is None:
            return None
        middle, factor = frames * frame.seconds, math.exp(_BAND * frame.deviation)
        start = frame.start
        return Forecast(start + middle, start / 2 + middle / factor, 2 * start + middle * factor, frame.basis)


class _Mean:
    """A weighted mean."""

    def __init__(self, value: float, weight: float) -> None:
        self.value, self.weight = value, weight

    def add(self, value: float | None, weight: float) -> None:
        if value is not None and weight > 0:
            self.weight += weight
            self.value += weight / self.weight * (value - self.value)


def _looked_ahead(work: Work) -> float:
    return 1 + _LOOKAHEAD * work.extra


def _prior(rates: Rates | None, work: Work) -> float:
    """Seconds of a frame without look-ahead, by the calibration."""
    if rates is None:  # only the proportions matter then
        rates = Rates(network={}, pixels=work.pixels, grows=False, encode=2e-8, shared=True)
    known = sorted(rates.network.values())
    rate = rates.network.get(work.model) or (known[len(known) // 2] if known else 2e-6)
    size = min(max(work.pixels, 1), _GROWN) / rates.pixels
    growth = size**_GROWTH if rates.grows else 1.0
    network = work.pixels * rate * growth * _ROUTING.get(work.routing, 1.0)
    encoder = work.output_pixels * rates.encode * _CODEC.get(work.codec, 1.0)
    return network + encoder if rates.shared else max(network, encoder)


def _likeness(work: Work, other: Work) -> tuple[float, float]:
    """How much a cell says about a job, from 0 to 1; and the standard deviation of what the cell does not say."""
    octaves = abs(math.log2(work.pixels / other.pixels))
    scales = abs(math.log2(work.output_pixels / other.output_pixels * other.pixels / work.pixels))
    like, miss = 0.7**octaves * 0.8**scales, 0.12 * octaves + 0.1 * scales
    for same, likeness, deviation in (
        (work.routing == other.routing, 0.6, 0.2),
        (work.codec == other.codec, 0.6, 0.25),
        (work.model == other.model, 0.3, 0.4),
    ):
        if not same:
            like, miss = like * likeness, miss + deviation
    return like, miss
