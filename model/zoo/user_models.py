"""Networks of the user's own: `NAME.safetensors` in the weights folder is the model NAME.

`skipvsr train` writes such files. An estimator lies beside its network as `skip-NAME.safetensors`. Files are judged by
their headers, since workers look at the folder at each heartbeat; one that is no network of ours is told apart from one
that is, with what is wrong, and hinders no other.
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
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.zoo.header import Header, read_header

SUFFIX: Final = ".safetensors"
ESTIMATOR: Final = "skip-"
"""What the name of an estimator's file begins with."""
MOST_CHANNELS: Final = 1024
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_RESERVED: Final = ("auto",)

Revision = tuple[int, ...] | None
"""What changes when a file does; None where there is none."""


@dataclass(frozen=True)
class OwnFile:
    """A file in the weights folder that is a model, or looks as if it should be one."""

    name: str
    """The file's, without its suffix."""
    path: Path
    config: NetworkConfig | None = None
    """Of its network; None where the file can't be used."""
    problem: str = ""
    """Why it can't."""


def own_files(weights_dir: Path, packaged: Collection[str]) -> list[OwnFile]:
    """The networks in a folder, by name, and what only looks like one. `packaged` names are not to be had."""
    try:
        names = sorted(path.name for path in weights_dir.iterdir())
    except OSError:  # no such folder: no models in it
        return []
    candidates = [name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX) and name[0] != "."]
    found = (own_file(name, weights_dir, packaged) for name in candidates if not name.startswith(ESTIMATOR))
    return [file for file in found if file is not None]


def own_file(name: str, weights_dir: Path, packaged: Collection[str]) -> OwnFile | None:
    """The file that the model of that name is, or would be; None where there is none, or can be none."""
    if "/" in name or "\0" in name or name.startswith((".", ESTIMATOR)):
        return None
    path = weights_dir / f"{name}{SUFFIX}"
    if (now := revision(path)) is None:
        return None
    if name in packaged or name in _RESERVED:
        taken = f"{name!r} is a model that comes along" if name in packaged else f"{name!r} means the default"
        return OwnFile(name, path, problem=f"{taken}; give the file another name")
    if not _NAME.fullmatch(name):
        allowed = "a to z, 0 to 9, '.', '_' and '-', 64 at most, beginning with a letter or a digit"
        return OwnFile(name, path, problem=f"a model's name may have {allowed}; give the file another name")
    if not path.is_file():  # what Docker makes of a mount whose source is not there; a pipe would be waited for
        return OwnFile(name, path, problem="it is no file")
    return _judged(name, path, now)


def revision(path: Path) -> Revision:
    """What changes when a file's content does."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@lru_cache(maxsize=256)
def _judged(name: str, path: Path, revision: Revision) -> OwnFile:
    """Look into a file. `revision` is there for the cache: a file that stays as it is, is read once."""
    try:
        return OwnFile(name, path, network_config(read_header(path)))
    except BadWeights as error:
        return OwnFile(name, path, problem=str(error))
    except OSError as error:
        return OwnFile(name, path, problem=f"it cannot be read: {error.strerror}")


def network_config(header: Header) -> NetworkConfig:
    """Hyperparameters of the network in a file of ours. Raises BadWeights where it holds none, or not all of one."""
    if "layout" in header.notes:
        raise BadWeights(f"it holds an estimator, no network; the name of such a file is {ESTIMATOR}MODEL{SUFFIX}")
    try:
        config = NetworkConfig(**json.loads(header.notes["config"]))
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise BadWeights("it holds no network that `skipvsr train` wrote (it does not say of which size)") from error
    if not _possible(config, len(header.shapes)):
        raise BadWeights(f"there is no network of this kind: {header.notes['config'][:200]}")
    wanted = _shapes(config)
    for name in sorted(wanted.keys() | header.shapes.keys()):
        have, need = header.shapes.get(name), wanted.get(name)
        if have != need:
            wrong = (
                "is missing"
                if have is None
                else "is unknown"
                if need is None
                else f"is {_sides(have)}, not {_sides(need)}"
            )
            raise BadWeights(f"it does not hold a network of {size_of(config)}: {name[:80]} {wrong}")
    return config


def size_of(config: NetworkConfig) -> str:
    """A network's size in words."""
    return f"{config.channels} channels x {config.blocks} block{'s' * (config.blocks > 1)}"


def _possible(config: NetworkConfig, tensors: int) -> bool:
    sizes = config.channels, config.blocks
    return (
        all(type(size) is int and size > 0 for size in sizes)
        and config.channels <= MOST_CHANNELS
        and config.blocks <= tensors  # each has some: else a number in a file decides how long we build
        and config.flow in ("spynet", "light")
        and config.tail in ("full", "light")
        and isinstance(config.coupled, bool)
    )


class _Unfilled(TorchFunctionMode):
    """Leaves out whatever would fill a tensor: on "meta", where there are no numbers, that loads 800 modules first."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name == "__imul__" or (name.endswith("_") and not name.startswith("_") and name != "requires_grad_"):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@lru_cache(maxsize=32)
def _shapes(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Of each tensor of a network, by name; nothing is computed for it, and no random number drawn."""
    with torch.device("meta"), _Unfilled():
        return {name: tuple(tensor.shape) for name, tensor in BasicVSR(config).state_dict().items()}


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape) or "a number"
