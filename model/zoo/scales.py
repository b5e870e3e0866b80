"""Scales of a model's 8-bit integers: the file `int8-MODEL.safetensors`, beside the weights.

A file belongs to one set of weights, named by their fingerprint in the header. The header also says how and from what
clips the scales were made, and the largest loss that was measured. Convolutions without scales keep the network's
number format.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from model.device import has_vnni
from model.errors import BadWeights, DeviceError, MissingWeights
from model.network.basicvsr import BasicVSR, ResidualBlock
from model.network.quantised import (
    LEVELS,
    Quantisation,
    QuantisedConv,
    Range,
    exact,
    quantise_block,
    quantise_convolution,
)
from model.zoo.header import header_of, write_tensors

MOST_LOSS: Final = 0.03
"""Largest loss in dB, on every clip of a measurement, with which `precision=auto` uses integers."""


@dataclass(frozen=True)
class Scales:
    """Scales of some of a network's convolutions, by their names in the network."""

    numbers: Mapping[str, Quantisation]
    network: str
    """Fingerprint of the weights."""
    loss: float | None = None
    """Largest measured loss of a clip against the network without integers, in dB; None: not measured."""
    digest: str = ""
    """Hash of the file."""

    def save(self, path: Path, notes: Mapping[str, str] | None = None) -> None:
        """Write a safetensors file for `load_scales`. Raises OSError."""
        tensors: dict[str, Tensor] = {}
        for name, numbers in self.numbers.items():
            tensors[f"{name}.range"] = torch.tensor([numbers.range.scale, numbers.range.zero], dtype=torch.float32)
            tensors[f"{name}.weight_scale"] = numbers.weight_scale.contiguous()
            tensors[f"{name}.bias"] = numbers.bias.contiguous()
        facts = {"network": self.network, **({} if self.loss is None else {"loss": json.dumps(round(self.loss, 4))})}
        write_tensors(tensors, path, {**(notes or {}), **facts})


def load_scales(path: Path, fingerprint: str) -> Scales | None:
    """Load the scales in a file; None if the file is missing or belongs to other weights. Raises BadWeights."""
    if not path.is_file():
        return None
    try:
        data = path.read_bytes()
        notes = header_of(data).notes
        if notes["network"] != fingerprint:
            return None
        tensors = load(data)
        names = [name.removesuffix(".range") for name in tensors if name.endswith(".range")]
        numbers = {name: _numbers(name, tensors) for name in names}
        loss = json.loads(notes.get("loss", "null"))
        return Scales(numbers, fingerprint, loss, hashlib.sha256(data).hexdigest()[:16])
    except (BadWeights, KeyError, ValueError, TypeError, RuntimeError, SafetensorError, OSError) as error:
        raise BadWeights(f"{path.name} holds no scales: {str(error).splitlines()[0]}") from error


Integers = Literal["no", "if good", "yes"]
"""Whether a network is to compute on integers; "if good" needs scales with a measured loss of at most `MOST_LOSS`."""


def wants_integers(precision: str, device: torch.device) -> Integers:
    """Return what `precision` means for integers on a device. Raises DeviceError if int8 cannot run here."""
    if precision == "int8":
        if not exact():
            lack = "this torch lacks int8 convolutions (2.13 has them)" if has_vnni() else "this CPU lacks VNNI"
            raise DeviceError(f"{lack}; use bf16, fp32 or auto instead of int8")
        return "yes"
    return "if good" if precision == "auto" and device.type == "cpu" and has_vnni() and exact() else "no"


def chosen_scales(name: str, path: Path | None, fingerprint: str, integers: Integers) -> Scales | None:
    """Return the scales with which the model `name` is to compute; None for none.

    Raises MissingWeights if integers are wanted and the model has no scales, and BadWeights for a damaged file.
    """
    scales = load_scales(path, fingerprint) if integers != "no" and path is not None else None
    if integers == "yes" and scales is None:
        raise MissingWeights(
            f"{name} has no scales for int8; make them with `skipvsr calibrate {name} --clips DIR`, "
            "or use bf16, fp32 or auto"
        )
    good = scales is not None and scales.loss is not None and scales.loss <= MOST_LOSS
    return scales if good or integers == "yes" else None


def quantise(network: BasicVSR, weights: BasicVSR, scales: Mapping[str, Quantisation]) -> None:
    """Let `network` compute on integers where `scales` have numbers; `weights` is the same network in float32.

    Raises BadWeights if the scales do not fit the network.
    """
    blocks = [name for name, module in network.named_modules() if isinstance(module, ResidualBlock)]
    single = dict(scales)
    for name in blocks:
        pair = [single.pop(f"{name}.{part}", None) for part in ("conv1", "conv2")]
        made = [_made(f"{name}.conv{i + 1}", weights, numbers) for i, numbers in enumerate(pair) if numbers is not None]
        if len(made) == len(pair):
            quantise_block(network.get_submodule(name), *made)
    for name, numbers in single.items():
        conv = network.get_submodule(name) if name in dict(network.named_modules()) else None
        if not isinstance(conv, nn.Conv2d):
            raise BadWeights(f"the scales name {name!r}, which the network lacks")
        quantise_convolution(conv, _made(name, weights, numbers))


def _made(name: str, weights: BasicVSR, numbers: Quantisation) -> QuantisedConv:
    conv = weights.get_submodule(name)
    if not isinstance(conv, nn.Conv2d) or numbers.weight_scale.shape != (conv.out_channels,):
        raise BadWeights(f"the scales of {name!r} do not fit the network")
    return QuantisedConv(conv, conv.weight.detach().float().contiguous(), numbers)


def _numbers(name: str, tensors: Mapping[str, Tensor]) -> Quantisation:
    scale, zero = tensors[f"{name}.range"].tolist()
    found = Quantisation(Range(scale, int(zero)), tensors[f"{name}.weight_scale"], tensors[f"{name}.bias"])
    sound = 0 <= found.range.zero <= LEVELS and scale > 0 and bool((found.weight_scale > 0).all())
    if not sound or not bool(torch.stack([found.weight_scale, found.bias]).isfinite().all()):
        raise ValueError(f"the numbers of {name} are not scales")
    return found
