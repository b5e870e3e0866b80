"""The training run's configuration: a TOML file, checked."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.errors import ModelError
from model.network.basicvsr import NetworkConfig


class ConfigError(ModelError):
    """The configuration cannot be used; one line that says where and why."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Section):
    """What is trained on, and how it is packed (`prepare`)."""

    clips: list[Path] = []
    """Folders of videos. Each video is scaled down before it serves as ground truth, so that codec marks go."""
    photos: list[Path] = []
    """Folders of pictures, which are set in motion."""
    val: list[Path] = []
    """Folders of clips to choose checkpoints by; never trained on, taken at their own size."""
    seed: int | None = None
    """Seed of the packing; the run's own by default. With one here, runs of several seeds can share a cache."""
    shrink: tuple[float, float] = (1.5, 2.0)
    """Range of the factor that videos are scaled down by."""
    min_side: int = Field(256, ge=64)
    """Shrinking stops at this short side, in HR pixels."""
    segment: int = Field(40, ge=4)
    """Frames of a packed segment; a video gives several, none across a cut."""
    segments_per_clip: int = Field(4, ge=1)
    photo_clips: int = Field(6, ge=1)
    """Moving clips made from each picture."""
    photo_frames: int = Field(20, ge=4)
    photo_size: int = Field(384, ge=64, multiple_of=4)
    """Height and width of a moving clip, in HR pixels."""
    uploads: int = Field(2, ge=0)
    """Compressed versions packed of each segment, each with its own codec and quality, blur and noise."""
    crf: tuple[int, int] = (15, 28)
    """Range of H.264's constant rate factor."""
    mpeg_share: float = Field(0.0, ge=0, le=1)
    """Share of the compressed versions that are MPEG-4 Part 2 or MPEG-2, as old files and DVDs; the rest are H.264."""
    mpeg_quantizer: tuple[int, int] = (2, 8)
    """Range of the quantizer of MPEG-4 Part 2 and MPEG-2: 1 is the best, 31 the worst."""
    val_frames: int = Field(10, ge=2)
    val_crf: int = Field(23, ge=0, le=51)


class Stage(_Section):
    """One part of the run: batches of `batch` clips, `frames` x `patch` x `patch` LR pixels each."""

    steps: int = Field(ge=1)
    batch: int = Field(8, ge=1)
    frames: int = Field(7, ge=2)
    patch: int = Field(48, ge=16)


class NetworkSection(_Section):
    """Hyperparameters of the network; see `NetworkConfig`."""

    channels: int = Field(32, ge=4)
    blocks: int = Field(4, ge=1)
    flow: Literal["spynet", "light"] = "light"
    tail: Literal["full", "light"] = "light"
    coupled: bool = True

    def network_config(self) -> NetworkConfig:
        """The same as `NetworkConfig`."""
        return NetworkConfig(**self.model_dump())


class GateSection(_Section):
    """Gates that a network is adapted to (`model.training.adapt_gates`)."""

    init: Path
    """An estimator fitted to the weights that the run begins with (`skipvsr train-skip`)."""
    error_budget: float = Field(gt=0, validation_alias=AliasChoices("error_budget", "confidence"))
    """`Preset.error_budget` for skipping; `confidence` is the old name."""
    align: float = Field(0.01, ge=0)
    """Weight of temporal feature alignment."""
    distil: float = Field(0.0, ge=0, le=1)
    """Share of the frames' loss that compares them with the dense twin's instead of the ground truth (Hinton et al.,
    arXiv:1503.02531): where data is little, going on to learn from it makes a network worse on everything else."""
    margin: int = Field(0, ge=0)
    """Frames at either end of a stage's clips that only lead in: nothing is learnt from them. Where a branch begins the
    heads expect little of any block, and nothing has drifted yet; a job is made of what comes later."""
    adapt: Literal["all", "trunks"] = "all"
    """What moves besides the surrogates: the whole network, or its trunks, while flow and upsampler stay."""
    keep: float = Field(0.0, ge=0, le=1)
    """Share of the weights that the run began with in those that come out, as a mean of both (Wortsman et al., CVPR
    2022): short sequences teach little of drift, which the weights before may have learnt to avoid."""


class TrainConfig(_Section):
    """A training run. `TrainConfig.load` reads it from TOML."""

    seed: int = 0
    network: NetworkSection = NetworkSection()
    data: DataConfig
    stages: list[Stage] = Field(min_length=1)
    init: Path | None = None
    """Weights to start from (fine-tuning); their network must be the one configured here."""
    clean_share: float = Field(1.0, ge=0, le=1)
    """Share of batch items that are clean; the rest are compressed."""
    clean: Literal["bi", "bd"] = "bi"
    """How the clean items' LR is made of HR, in training and in validation."""
    photo_share: float = Field(0.4, ge=0, le=1)
    """Share of batch items that come from moving pictures."""
    bars: float = Field(0.0, ge=0, le=1)
    """Share of the clean items that get a black bar along one side, as letter- and pillarboxed films have."""
    lr: float = Field(1e-3, gt=0)
    final_lr: float = Field(1e-6, gt=0)
    """Where the cosine ends."""
    warmup: int = Field(100, ge=0)
    """Steps in which the learning rate rises linearly from zero."""
    flow_steps: int = Field(0, ge=0)
    """Steps before the first in which the flow alone learns, from the photometric term."""
    flow_lr_scale: float = Field(1.0, gt=0)
    gates: GateSection | None = None
    photometric: float = Field(0.05, ge=0)
    """Weight of the photometric term of the flow."""
    loss: Literal["charbonnier", "psnr"] = "charbonnier"
    """Frame loss of a run without gates. `charbonnier`: absolute error; `psnr`: squared error, per frame."""
    clip_grad: float = Field(1.0, gt=0)
    ema: float = Field(0.999, ge=0, lt=1)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 where the hardware computes it. Elsewhere it is emulated, and a step takes more than twice as long."""
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(0, ge=0)
    """Torch threads; 0 leaves torch's own choice."""
    log_every: int = Field(50, ge=1)
    val_every: int = Field(1000, ge=1)
    checkpoint_every: int = Field(250, ge=1)

    @model_validator(mode="after")
    def _has_data(self) -> TrainConfig:
        if not self.data.clips and not self.data.photos:
            raise ValueError("data: name at least one folder in clips or photos")
        if self.clean_share < 1 and not self.data.uploads:
            raise ValueError("clean_share: below 1 needs data.uploads >= 1")
        if self.gates and (self.init is None or self.flow_steps):
            raise ValueError("gates: need init, the weights that they are for, and no flow_steps")
        shortest = min(stage.frames for stage in self.stages)
        if self.gates and shortest < 2 * self.gates.margin + 1:
            raise ValueError(f"stages: {shortest} frames leave none between margins of {self.gates.margin}")
        longest = max(stage.frames for stage in self.stages)
        if longest > min(self.data.segment, self.data.photo_frames):
            raise ValueError(f"stages: {longest} frames are more than a packed segment holds")
        return self

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage(self, step: int) -> Stage:
        """The stage that a step (from 0) belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]

    def differs(self, before: TrainConfig) -> str:
        """What makes the curve another one than `before`'s, by name; empty if nothing does."""
        harmless = {"threads", "device", "log_every", "val_every", "checkpoint_every"}
        return differences(*(config.model_dump(mode="json", exclude=harmless) for config in (before, self)))

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """Read a TOML file. Raises ConfigError: one line with the first thing that is wrong."""
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
    """Where two plain values (of JSON) differ, all in one line: `data.uploads (0, now 2), seed (1, now 3)`."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(f"{name} ({old.get(name, 'none')}, now {new.get(name, 'none')})" for name in names)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    elif value is not None:
        yield name, value
