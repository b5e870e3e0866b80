"""What all sections share: device, sizes, networks, clips, and time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import torch

from benchmarks.device.results import Section
from model.engine.chunk import Frames
from model.engine.upscaler import Upscaler
from model.errors import ModelError
from model.gates.estimator import Estimator, load_estimator
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.zoo.models import card, load_network
from model.zoo.weights_file import load_file

Item = tuple[str, Callable[[Section], None]]
"""Name, and a function that adds rows and checks to the section."""
Items = Callable[["Session"], Iterator[Item]]

OFFICIAL: Final = "basicvsr-reds"
SIZES: Final = ((180, 320), (360, 640), (540, 960), (720, 1280))
TINY_SIZES: Final = ((16, 24),)
CPU: Final = torch.device("cpu")
FORMATS: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SEED: Final = 31


@dataclass(frozen=True)
class Loaded:
    """A network in float32 on the CPU, with its gates."""

    name: str
    network: BasicVSR
    fingerprint: str
    estimator: Estimator | None
    source: str
    """Where the weights come from."""


@dataclass
class Session:
    """One run on a device. `end` and `section_end` are times of `time.monotonic`."""

    device: torch.device
    tiny: bool
    weights: Path
    end: float
    section_end: float = 0.0
    _networks: dict[str, Loaded] = field(default_factory=dict)
    _upscalers: dict[tuple[str, str, str], Upscaler] = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        """Whether the device is an NVIDIA or AMD GPU."""
        return self.device.type == "cuda"

    @property
    def models(self) -> tuple[str, str]:
        """Names of the light and the full network."""
        return ("tiny", "tiny-full") if self.tiny else ("small", OFFICIAL)

    @property
    def formats(self) -> tuple[str, ...]:
        """Narrow number formats of the device."""
        return ("bf16", "fp16") if self.cuda else ("bf16",)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(H, W) of the LR frames, for speed."""
        return TINY_SIZES if self.tiny else SIZES

    @property
    def check_size(self) -> tuple[int, int]:
        """(H, W) of the LR frames, for comparisons with the CPU."""
        return (16, 24) if self.tiny else (96, 160)

    def left(self) -> float:
        """Return the seconds that the section has left."""
        return self.section_end - time.monotonic()

    def loaded(self, name: str) -> Loaded:
        """Return a network by name. The full network has random weights if its file is missing."""
        if name not in self._networks:
            with torch.inference_mode(False):  # parameters need a version, which inference tensors lack
                self._networks[name] = self._load(name)
        return self._networks[name]

    def upscaler(self, name: str, number: str, device: torch.device | None = None) -> Upscaler:
        """Return the network `name` on a device (default: the session's) in the format `fp32`, `bf16` or `fp16`."""
        device = device or self.device
        key = name, number, str(device)
        if key not in self._upscalers:
            loaded = self.loaded(name)
            self._upscalers[key] = Upscaler(
                name, loaded.network, loaded.fingerprint, device, FORMATS[number], loaded.estimator
            )
        return self._upscalers[key]

    def clip(self, count: int, size: tuple[int, int]) -> Frames:
        """Return a clip with a still background and a moving quarter: [count, H, W, 3], the same in each process."""
        return moving_picture(count, *size)

    def synchronise(self) -> None:
        """Wait until the device has finished its work."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object], *, at_most: float = 0.5, repeats: int = 20) -> float:
        """Return the median seconds of a call after one warm-up call; end after `at_most` seconds."""
        work()
        self.synchronise()
        end = time.perf_counter() + (0.0 if self.tiny else min(at_most, max(self.left(), 0.0)))
        times: list[float] = []
        while not times or (len(times) < repeats and time.perf_counter() < end):
            before = time.perf_counter()
            work()
            self.synchronise()
            times.append(time.perf_counter() - before)
        return median(times)

    def queued_seconds(self, work: Callable[[], object], *, calls: int = 20) -> float:
        """Return the seconds of a call on the device if many calls wait in its queue: without the time to launch."""
        if not self.cuda:
            return self.seconds(work)
        for _ in range(3):
            work()
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        first.record()
        for _ in range(calls):
            work()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) / 1000 / calls

    def _load(self, name: str) -> Loaded:
        if name == "tiny-full":
            network = _random(NetworkConfig(channels=8, blocks=2, flow="light"))
            return Loaded(name, network, f"{name}:{_SEED}", None, "random weights")
        entry = card(name, self.weights)
        try:
            network, fingerprint = load_network(name, self.weights)
            source = "packaged weights" if entry.sha256 is None else "official weights"
        except ModelError:
            network, source = self._substitute(name)
            fingerprint = f"{name}:{entry.sha256[:16] if entry.sha256 else _SEED}"
        estimator = load_estimator(entry.estimator_path(self.weights), fingerprint, network)
        return Loaded(name, network, fingerprint, estimator, source)

    def _substitute(self, name: str) -> tuple[BasicVSR, str]:
        """Return the network of an official file that is missing: rounded weights beside it, else random weights."""
        rounded = self.weights / f"{name}.safetensors"
        if rounded.is_file():
            return load_file(rounded), f"official weights, rounded ({rounded.name})"
        return _random(NetworkConfig()), "random weights: the official file is missing"


def _random(config: NetworkConfig) -> BasicVSR:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return BasicVSR(config).eval()


def moving_picture(count: int, h: int, w: int) -> Frames:
    """Return a clip with a still background; its middle moves by a pixel a frame: [count, h, w, 3] uint8."""
    rng = np.random.default_rng(_SEED)
    cells = rng.integers(0, 256, (h // 8 + 3, (w + count) // 8 + 3, 3), dtype=np.uint8)
    wide = torch.from_numpy(cells).permute(2, 0, 1)[None].float()
    smooth = torch.nn.functional.interpolate(wide, scale_factor=8, mode="bilinear", align_corners=False)
    picture = smooth[0].permute(1, 2, 0).round().to(torch.uint8).numpy()
    frames = np.repeat(picture[None, :h, :w], count, 0).copy()
    top, left = h // 4, w // 4
    for index, frame in enumerate(frames):
        moved = picture[top : top + h // 2, left + index + 5 : left + index + 5 + w // 2]
        frame[top : top + h // 2, left : left + w // 2] = moved
    return frames
