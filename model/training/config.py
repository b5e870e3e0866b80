"""Configuration of a training run: a validated TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.errors import ConfigError
from model.network.basicvsr import DEFAULT_SCALE, SCALES, NetworkConfig


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Section):
    """Training data, and how `prepare` packs the data into the cache."""

    clips: list[Path] = []
    """Folders of videos. Ground truth is each video scaled down, without visible codec artefacts."""
    photos: list[Path] = []
    """Folders of pictures; each picture is turned into moving clips."""
    val: list[Path] = []
    """Folders of validation clips, used at full size and never trained on. These clips choose the checkpoint."""
    scale: int = DEFAULT_SCALE
    """HR size over LR size, and the network's scale."""
    seed: int | None = None
    """Seed of the packing; default: the run's seed. With a fixed seed, runs of different seeds share a cache."""
    shrink: tuple[float, float] = (1.5, 2.0)
    """Range of the factor by which videos are scaled down."""
    min_side: int = Field(256, ge=64)
    """Lower limit of a scaled video's short side, in HR pixels."""
    segment: int = Field(40, ge=4)
    """Frames per packed segment. No segment crosses a scene cut."""
    segments_per_clip: int = Field(4, ge=1)
    """Maximum number of segments per video."""
    photo_clips: int = Field(6, ge=1)
    """Moving clips per picture."""
    photo_frames: int = Field(20, ge=4)
    """Frames per moving clip."""
    photo_size: int = Field(384, ge=64, multiple_of=4)
    """Height and width of a moving clip, in HR pixels."""
    uploads: int = Field(2, ge=0)
    """Compressed versions per segment, each with random codec, quality, blur and noise."""
    crf: tuple[int, int] = (15, 28)
    """Range of H.264's constant rate factor."""
    blur_share: float = Field(0.3, ge=0, le=1)
    """Share of compressed versions with a random blur instead of bicubic reduction."""
    noise_share: float = Field(0.4, ge=0, le=1)
    """Share of compressed versions with light noise before the codec. The ground truth has no such noise."""
    mpeg_share: float = Field(0.0, ge=0, le=1)
    """Share of compressed versions in MPEG-4 Part 2 or MPEG-2 (old files, DVDs). The rest are H.264."""
    mpeg_quantizer: tuple[int, int] = (2, 8)
    """Range of the MPEG-4 Part 2 and MPEG-2 quantizer: 1 is best, 31 worst."""
    val_frames: int = Field(10, ge=2)
    """Frames per validation clip, from its start."""
    val_crf: int = Field(23, ge=0, le=51)
    """H.264 CRF of the compressed validation version."""


class Stage(_Section):
    """Part of a run with a fixed batch shape: `batch` clips of `frames` x `patch` x `patch` LR pixels."""

    steps: int = Field(ge=1)
    batch: int = Field(8, ge=1)
    frames: int = Field(7, ge=2)
    patch: int = Field(48, ge=16)


class NetworkSection(_Section):
    """Hyperparameters of the network, as in `NetworkConfig`."""

    channels: int = Field(32, ge=4)
    blocks: int = Field(4, ge=1)
    flow: Literal["spynet", "light"] = "light"
    tail: Literal["full", "light"] = "light"
    coupled: bool = True
    stride: Literal[4, 8] = 4
    """Side of a feature pixel in HR pixels; 8 needs the light tail."""


class GateSection(_Section):
    """Settings for adapting a network to its gates (`model.training.adapt_gates`)."""

    init: Path
    """Estimator fitted to the run's initial weights (`skipvsr train-skip`)."""
    error_budget: float = Field(gt=0, validation_alias=AliasChoices("error_budget", "confidence"))
    """`Preset.error_budget` during training; raising the budget skips more. `confidence` is the old name."""
    align: float = Field(0.01, ge=0)
    """Weight of temporal feature alignment."""
    distil: float = Field(0.0, ge=0, le=1)
    """Share of the frame loss taken against the dense twin's frames instead of ground truth (Hinton et al.,
    arXiv:1503.02531). With little data, more training on ground truth degrades the network on other footage."""
    margin: int = Field(0, ge=0)
    """Frames without loss at both ends of each clip. At the start of a branch the heads predict small effects and no
    error has accumulated, unlike in the rest of a job."""
    adapt: Literal["all", "trunks"] = "all"
    """Parameters trained beside the surrogates: `all`, or only the `trunks`, with flow and upsampler frozen."""
    keep: float = Field(0.0, ge=0, le=1)
    """Weight of the initial weights in the average of initial and final weights (Wortsman et al., CVPR 2022).
    Training clips are short and show little drift; the initial weights may already avoid drift."""


class TrainConfig(_Section):
    """Configuration of a training run; `TrainConfig.load` reads a TOML file."""

    seed: int = 0
    network: NetworkSection = NetworkSection()
    data: DataConfig
    stages: list[Stage] = Field(min_length=1)
    init: Path | None = None
    """Initial weights for fine-tuning. Their network must match `network`."""
    clean_share: float = Field(1.0, ge=0, le=1)
    """Share of clean batch items; the rest are compressed."""
    clean: Literal["bi", "bd"] = "bi"
    """Degradation from HR to LR of clean items, in training and validation: a key of `degrade.CLEAN`."""
    photo_share: float = Field(0.4, ge=0, le=1)
    """Share of batch items from moving pictures."""
    bars: float = Field(0.0, ge=0, le=1)
    """Share of clean items with a black bar along one side, like letterboxed and pillarboxed films."""
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    final_lr: float = Field(1e-6, gt=0)
    """Learning rate at the end of the cosine schedule."""
    warmup: int = Field(100, ge=0)
    """Steps of linear learning-rate warm-up from zero."""
    flow_steps: int = Field(0, ge=0)
    """Preliminary steps that train only the flow, by the photometric loss."""
    flow_frozen: int = Field(0, ge=0)
    """Steps at the start, behind the flow steps, that leave the flow as it is. The paper froze SPyNet at first."""
    flow_lr_scale: float = Field(1.0, ge=0)
    """Factor on the flow's learning rate. 0: the flow keeps its weights, and steps compute no gradient of the flow."""
    gates: GateSection | None = None
    photometric: float = Field(0.05, ge=0)
    """Weight of the flow's photometric loss."""
    loss: Literal["charbonnier", "psnr"] = "charbonnier"
    """Frame loss of a run without gates. `charbonnier`: absolute error; `psnr`: squared error, per frame."""
    clip_grad: float = Field(1.0, gt=0)
    """Maximum norm of the gradient."""
    ema: float = Field(0.999, ge=0, lt=1)
    """Decay of the weights' exponential moving average."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Computation type; `auto` is bf16 on hardware with bf16 units. Emulated bf16 more than doubles a step's time."""
    store: Literal["fp32", "bf16"] = "fp32"
    """Number format of the weights in the resulting files. bf16 halves a file, and rounds the weights."""
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(0, ge=0)
    """Torch threads; 0 keeps torch's default."""
    log_every: int = Field(50, ge=1)
    val_every: int = Field(1000, ge=1)
    checkpoint_every: int = Field(250, ge=1)

    @model_validator(mode="after")
    def _has_data(self) -> TrainConfig:
        if not self.data.clips and not self.data.photos:
            raise ValueError("data: name at least one folder in clips or photos")
        if self.data.scale not in SCALES:
            raise ValueError(f"data.scale: must be one of {', '.join(map(str, SCALES))}")
        if self.clean_share < 1 and not self.data.uploads:
            raise ValueError("clean_share: below 1 needs data.uploads >= 1")
        if self.flow_steps and not self.flow_lr_scale:
            raise ValueError("flow_lr_scale: must be above 0 if flow_steps train the flow")
        if self.gates and (self.init is None or self.flow_steps):
            raise ValueError("gates: set init to the weights of the estimator, and flow_steps to 0")
        shortest = min(stage.frames for stage in self.stages)
        if self.gates and shortest < 2 * self.gates.margin + 1:
            raise ValueError(f"stages: {shortest} frames leave none between margins of {self.gates.margin}")
        longest = max(stage.frames for stage in self.stages)
        if longest > min(self.data.segment, self.data.photo_frames):
            raise ValueError(f"stages: {longest} frames are more than a packed segment holds")
        return self

    @property
    def network_config(self) -> NetworkConfig:
        """Hyperparameters of the network, with the scale of the data."""
        return NetworkConfig(**self.network.model_dump(), scale=self.data.scale)

    @property
    def steps(self) -> int:
        """Total number of steps."""
        return sum(stage.steps for stage in self.stages)

    def stage(self, step: int) -> Stage:
        """Return the stage of a step, counted from 0."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]

    def differs(self, before: TrainConfig) -> str:
        """Name the settings that differ from `before` and change the learning curve; empty if equal."""
        harmless = {"threads", "device", "store", "log_every", "val_every", "checkpoint_every"}
        return differences(*(config.model_dump(mode="json", exclude=harmless) for config in (before, self)))

    def differs_from_stored(self, stored: Any) -> str:
        """Name the settings that differ from the state of a run, like `differs`."""
        try:  # options added by later versions have their defaults
            return self.differs(TrainConfig.model_validate(stored))
        except ValidationError:
            return "version of SkipVSR"

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """Read a TOML file.

        Raises ConfigError with the first problem on one line.
        """
        try:
            raw = tomllib.loads(path.read_text())
        except OSError as e:
            raise ConfigError(f"{path}: {e.strerror}") from e
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise ConfigError(f"{path}: not TOML: {e}") from e
        try:
            return cls.model_validate(raw)
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise ConfigError(f"{path}: {where + ': ' if where else ''}{message}") from e


def differences(before: Any, now: Any) -> str:
    """List the differences of two JSON values on one line: `data.uploads (0, now 2), seed (1, now 3)`."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(f"{name} ({old.get(name, 'none')}, now {new.get(name, 'none')})" for name in names)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    elif value is not None:
        yield name, value
