"""User models: the file `NAME.safetensors` in the weights folder is the model NAME.

`skipvsr train` writes these files. An estimator lies beside its network as `skip-NAME.safetensors`, scales for integers
as `int8-NAME.safetensors`. Workers check the folder at each heartbeat; for speed, a check reads only a file's header.
An unusable file gets a reason and does not affect other files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch
from torch.overrides import TorchFunctionMode

from model.errors import BadWeights
from model.network.basicvsr import DEFAULT_SCALE, SCALES, BasicVSR, NetworkConfig
from model.zoo.header import Header, read_header

SUFFIX: Final = ".safetensors"
ESTIMATOR: Final = "skip-"
"""Prefix of the file name of an estimator."""
INT8: Final = "int8-"
"""Prefix of the file name of the scales for integers (`model.zoo.scales`)."""
_BESIDE: Final = (ESTIMATOR, INT8)
MOST_CHANNELS: Final = 1024
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_RESERVED: Final = ("auto",)

Revision = tuple[int, ...] | None
"""Changes whenever a file changes; None for a missing file."""


@dataclass(frozen=True)
class UserModelFile:
    """A file in the weights folder with the name of a model, usable or not."""

    name: str
    """File name without suffix."""
    path: Path
    config: NetworkConfig | None = None
    """Hyperparameters of the network; None if the file is unusable."""
    problem: str = ""
    """Reason why the file is unusable; empty if usable."""


def user_model_files(weights_dir: Path, packaged: Collection[str]) -> list[UserModelFile]:
    """Return the user models in a folder by name, unusable files included. `packaged` names are reserved."""
    try:
        names = sorted(path.name for path in weights_dir.iterdir())
    except OSError:  # no folder: no user models
        return []
    candidates = [name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX) and name[0] != "."]
    found = (user_model_file(name, weights_dir, packaged) for name in candidates if not name.startswith(_BESIDE))
    return [file for file in found if file is not None]


def user_model_file(name: str, weights_dir: Path, packaged: Collection[str]) -> UserModelFile | None:
    """Return the file of the user model `name`; None if the file is missing or the name is no file name."""
    if "/" in name or "\0" in name or name.startswith((".", *_BESIDE)):
        return None
    path = weights_dir / f"{name}{SUFFIX}"
    if (now := revision(path)) is None:
        return None
    if name in packaged or name in _RESERVED:
        taken = f"{name!r} is a packaged model" if name in packaged else f"{name!r} means the default model"
        return UserModelFile(name, path, problem=f"{taken}; rename the file")
    if not _NAME.fullmatch(name):
        allowed = "a to z, 0 to 9, '.', '_' and '-', at most 64, starting with a letter or a digit"
        return UserModelFile(name, path, problem=f"a model's name may contain {allowed}; rename the file")
    if not path.is_file():  # Docker creates a folder for a missing mount source; opening a pipe would block
        return UserModelFile(name, path, problem="not a regular file")
    return _judged(name, path, now)


def revision(path: Path) -> Revision:
    """Return a value that changes with the content of a file; None for a missing file."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@lru_cache(maxsize=256)
def _judged(name: str, path: Path, revision: Revision) -> UserModelFile:
    """Check the header of a file. The cache reads an unchanged file once, by `revision`."""
    try:
        return UserModelFile(name, path, network_config(read_header(path)))
    except BadWeights as error:
        return UserModelFile(name, path, problem=str(error))
    except OSError as error:
        return UserModelFile(name, path, problem=f"cannot be read: {error.strerror}")


def network_config(header: Header) -> NetworkConfig:
    """Return the hyperparameters of the network in a file. Raises BadWeights unless the file holds a whole network."""
    if "layout" in header.notes:
        raise BadWeights(f"holds an estimator, not a network; name the file {ESTIMATOR}MODEL{SUFFIX}")
    try:
        config = NetworkConfig(**json.loads(header.notes["config"]))
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise BadWeights("holds no network written by `skipvsr train` (no network config in the header)") from error
    if not _possible(config, len(header.shapes)):
        raise BadWeights(f"unsupported network: {header.notes['config'][:200]}")
    wanted = _shapes(config)
    for name in sorted(wanted.keys() | header.shapes.keys()):
        have, need = header.shapes.get(name), wanted.get(name)
        if have != need:
            wrong = _difference(have, need)
            raise BadWeights(f"holds no complete network of {size_of(config)}: {name[:80]} {wrong}")
    return config


def _difference(have: tuple[int, ...] | None, need: tuple[int, ...] | None) -> str:
    """Describe how the shape of a tensor differs from the expected shape; None stands for no tensor."""
    if have is None:
        return "is missing"
    return "is unknown" if need is None else f"is {_sides(have)}, not {_sides(need)}"


def size_of(config: NetworkConfig) -> str:
    """Describe the size of a network."""
    more = f", x{config.scale}" if config.scale != DEFAULT_SCALE else ""
    return f"{config.channels} channels x {config.blocks} block{'s' * (config.blocks > 1)}{more}"


def _possible(config: NetworkConfig, tensors: int) -> bool:
    sizes = config.channels, config.blocks
    return (
        all(type(size) is int and size > 0 for size in sizes)
        and config.channels <= MOST_CHANNELS
        and config.blocks <= tensors  # each block has tensors; bounds the time to build the network
        and config.flow in ("spynet", "light")
        and config.tail in ("full", "light")
        and isinstance(config.coupled, bool)
        and config.scale in SCALES
    )


class _Unfilled(TorchFunctionMode):
    """Ignores operations that fill tensors. On the device "meta" the first of them would import 800 modules."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name == "__imul__" or (name.endswith("_") and not name.startswith("_") and name != "requires_grad_"):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@lru_cache(maxsize=32)
def _shapes(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a network by name, without computing and without drawing random numbers."""
    with torch.device("meta"), _Unfilled():
        return {name: tuple(tensor.shape) for name, tensor in BasicVSR(config).state_dict().items()}


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape) or "a number"
