"""Scales of a model's 8-bit integers: the file `int8-MODEL.safetensors`, beside the weights.

A file belongs to one set of weights, named by their fingerprint in the header. The header also names the method, the
clips, and the largest measured loss. Convolutions without scales keep the network's number format. Adapted weights
(`model.gates.estimator`) have separate scales. These scales belong to an estimator, named by its digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from model.device import has_vnni
from model.errors import BadWeights, DeviceError, MissingWeights
from model.network.basicvsr import BasicVSR, ResidualBlock
from model.network.kernels import by_row
from model.network.quantised import (
    LEVELS,
    Quantisation,
    QuantisedConv,
    exact,
    quantise_block,
    quantise_chain,
    quantise_convolution,
)
from model.zoo.header import header_of, write_tensors

MOST_LOSS: Final = 0.03
"""Largest loss in dB, on every clip of a measurement, with which `precision=auto` uses integers."""
SHUFFLED: Final = ("upconv1", "upconv2")
"""Convolutions before a pixel shuffle by two, which inference computes in two rows (`kernels.convolve_shuffled`)."""
_FLOW: Final = "spynet."
"""Prefix of the names of the flow's convolutions."""
_ADAPTED: Final = "adapted."
"""Prefix of the names of adapted convolutions."""


@dataclass(frozen=True)
class AdaptedScales:
    """Scales of an estimator's adapted weights, by the names of convolutions in the network."""

    numbers: Mapping[str, Quantisation]
    estimator: str
    """Digest of the estimator."""
    loss: float | None = None
    """Largest measured loss of a clip against the same routing without integers, in dB; None: not measured."""


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
    adapted: AdaptedScales | None = None
    """None: the adapted weights, if any, have no scales."""

    def only(self, names: Collection[str]) -> Scales:
        """Return the scales of the convolutions `names` alone, in the adapted weights too; not yet measured."""
        own, adapted = {name: self.numbers[name] for name in names}, self.adapted
        if adapted is not None:
            adapted = AdaptedScales({name: adapted.numbers[name] for name in names}, adapted.estimator)
        return Scales(own, self.network, adapted=adapted)

    def save(self, path: Path, notes: Mapping[str, str] | None = None) -> None:
        """Write a safetensors file for `load_scales`. Raises OSError."""
        tensors, facts = _tensors(self.numbers, ""), {"network": self.network, "loss": _written(self.loss)}
        if self.adapted is not None:
            tensors |= _tensors(self.adapted.numbers, _ADAPTED)
            facts |= {"estimator": self.adapted.estimator, "adapted_loss": _written(self.adapted.loss)}
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
        numbers = {name: _numbers(name, tensors) for name in _names(tensors)}
        of_adapted = {
            name.removeprefix(_ADAPTED): numbers.pop(name) for name in list(numbers) if name.startswith(_ADAPTED)
        }
        adapted = AdaptedScales(of_adapted, notes["estimator"], _read(notes, "adapted_loss")) if of_adapted else None
        return Scales(numbers, fingerprint, _read(notes, "loss"), hashlib.sha256(data).hexdigest()[:16], adapted)
    except (BadWeights, KeyError, ValueError, TypeError, RuntimeError, SafetensorError, OSError) as error:
        raise BadWeights(f"{path.name} holds no scales: {str(error).splitlines()[0]}") from error


Integers = Literal["no", "if good", "yes"]
"""Whether a network is to compute on integers; "if good" needs scales with a small measured loss."""


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

    With "if good", scales of adapted weights are left out if their loss is large.
    Raises MissingWeights if integers are wanted and the model has no scales, and BadWeights for a damaged file.
    """
    scales = load_scales(path, fingerprint) if integers != "no" and path is not None else None
    if integers == "yes" and scales is None:
        raise MissingWeights(
            f"{name} has no scales for int8; make them with `skipvsr calibrate {name} --clips DIR`, "
            "or use bf16, fp32 or auto"
        )
    if scales is None or integers == "yes":
        return scales
    adapted = scales.adapted if scales.adapted and _good(scales.adapted.loss) else None
    return replace(scales, adapted=adapted) if _good(scales.loss) else None


def quantise(network: BasicVSR, weights: BasicVSR, scales: Mapping[str, Quantisation]) -> None:
    """Let convolutions of `network` with `scales` compute on integers; `weights` is the same network in float32.

    Raises BadWeights if the scales do not fit the network.
    """
    left = dict(scales)
    for name, module in network.named_modules():
        if isinstance(module, ResidualBlock) and f"{name}.conv1" in left and f"{name}.conv2" in left:
            first, second = left.pop(f"{name}.conv1"), left.pop(f"{name}.conv2")
            conv1 = _made(_conv(weights, f"{name}.conv1"), first, second.gain)
            quantise_block(module, conv1, _made(_conv(weights, f"{name}.conv2"), second))
    for place in sorted({name.rpartition(".")[0] for name in left if name.startswith(_FLOW)}):
        _quantise_flow(network, weights, place, left)
    for name, numbers in left.items():
        exact_conv = _conv(weights, name)
        parts = _rows(exact_conv, numbers) if name in SHUFFLED else [_made(exact_conv, numbers)]
        quantise_convolution(_conv(network, name), parts)


def _quantise_flow(network: BasicVSR, weights: BasicVSR, place: str, left: dict[str, Quantisation]) -> None:
    """Quantise convolutions of the layers `place` of the flow, and take their scales out of `left`."""
    numbers = {name: left.pop(name) for name in list(left) if name.rpartition(".")[0] == place}
    made = {}
    for name, own in numbers.items():
        conv, index = _conv(weights, name), int(name.rpartition(".")[2])
        if not isinstance(dict(network.named_modules()).get(f"{place}.{index + 1}"), nn.ReLU):
            raise BadWeights(f"the scales name {name!r}, which has no ReLU behind it")
        after = numbers.get(f"{place}.{index + 2}")
        made[index] = _made(conv, own, None if after is None else after.gain)
    quantise_chain(network.get_submodule(place), made)


def _rows(conv: nn.Conv2d, numbers: Quantisation) -> list[QuantisedConv]:
    """Quantise a convolution before a pixel shuffle by two, in rows of sub-pixels."""
    _check(conv, numbers)
    made = []
    for rows in by_row(conv.out_channels, 2).chunk(2):
        part = nn.Conv2d(conv.in_channels, len(rows), conv.kernel_size, 1, conv.padding)  # type: ignore[arg-type]
        part.weight = nn.Parameter(conv.weight.detach()[rows].contiguous(), False)
        made.append(_made(part, replace(numbers, weight_scale=numbers.weight_scale[rows], bias=numbers.bias[rows])))
    return made


def _made(conv: nn.Conv2d, numbers: Quantisation, following: Tensor | None = None) -> QuantisedConv:
    _check(conv, numbers, following)
    return QuantisedConv(conv, numbers, following)


def _check(conv: nn.Conv2d, numbers: Quantisation, following: Tensor | None = None) -> None:
    """Raise BadWeights if scales do not fit a convolution."""
    sizes = [len(each) for each in (numbers.gain, numbers.weight_scale, numbers.bias)]
    after = conv.out_channels if following is None else len(following)
    if [*sizes, after] != [conv.in_channels, *[conv.out_channels] * 3]:
        raise BadWeights("the scales do not fit the network")


def _conv(network: BasicVSR, name: str) -> nn.Conv2d:
    conv = dict(network.named_modules()).get(name)
    if not isinstance(conv, nn.Conv2d):
        raise BadWeights(f"the scales name {name!r}, which the network lacks")
    return conv


def _good(loss: float | None) -> bool:
    return loss is not None and loss <= MOST_LOSS


def _written(loss: float | None) -> str:
    return json.dumps(None if loss is None else round(loss, 4))


def _read(notes: Mapping[str, str], name: str) -> float | None:
    """Return a loss from a header. Raises TypeError and ValueError for anything else."""
    loss = json.loads(notes.get(name, "null"))
    return None if loss is None else float(loss)


def _tensors(scales: Mapping[str, Quantisation], prefix: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, numbers in scales.items():
        key = f"{prefix}{name}"
        tensors[f"{key}.zero"] = torch.tensor([numbers.zero], dtype=torch.float32)
        tensors[f"{key}.gain"] = numbers.gain.contiguous()
        tensors[f"{key}.weight_scale"] = numbers.weight_scale.contiguous()
        tensors[f"{key}.bias"] = numbers.bias.contiguous()
    return tensors


def _names(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the convolutions in a file. Raises ValueError if there are none."""
    names = [name.removesuffix(".zero") for name in tensors if name.endswith(".zero")]
    if not names:  # files of the first version name ranges
        raise ValueError("another version made the file; run `skipvsr calibrate` again")
    return names


def _numbers(name: str, tensors: Mapping[str, Tensor]) -> Quantisation:
    zero = int(tensors[f"{name}.zero"].item())
    gain, weight_scale, bias = (tensors[f"{name}.{part}"] for part in ("gain", "weight_scale", "bias"))
    sound = 0 <= zero <= LEVELS and bool((gain > 0).all()) and bool((weight_scale > 0).all())
    if not sound or not all(bool(part.isfinite().all()) for part in (gain, weight_scale, bias)):
        raise ValueError(f"the numbers of {name} are not scales")
    return Quantisation(zero, gain, weight_scale, bias)
