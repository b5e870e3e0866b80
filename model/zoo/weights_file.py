"""Weights files: each holds the weights of one network. A file is data: this module never unpickles code.

Weights of this project are safetensors files with a `NetworkConfig` in the header. A `.pth` file has the key names of
BasicSR or mmagic.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from model.errors import BadWeights
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.zoo.header import header_of, write_tensors
from model.zoo.user_models import SUFFIX


def fingerprint(name: str, path: Path, data: bytes | None = None) -> str:
    """Return a fingerprint of the weights of model `name` in a file; `data` are the bytes of the file, if known."""
    return f"{name}:{hashlib.sha256(path.read_bytes() if data is None else data).hexdigest()[:16]}"


def load_file(path: Path, data: bytes | None = None) -> BasicVSR:
    """Load a network from a checkpoint: safetensors of this project, or a .pth with key names of BasicSR or mmagic.

    The hyperparameters come from the file. `data` are the bytes of the file, if known. Raises BadWeights and OSError.
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
        reason = str(e).splitlines()[0] if str(e) else "empty or cut off"
        raise BadWeights(f"{path.name} holds no BasicVSR weights: {reason}") from e
    return network.eval()


def save_network(
    network: BasicVSR,
    path: Path,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a safetensors file for `load_file`, with the network's config in the header. Raises OSError.

    Tensors have the number format `dtype`; `load_file` returns float32.
    """
    tensors = {key: value.detach().to("cpu", dtype).contiguous() for key, value in network.state_dict().items()}
    write_tensors(tensors, path, {**(metadata or {}), "config": json.dumps(asdict(network.config))})


_MMAGIC = (  # names of mmagic -> names of BasicSR
    (r"^generator\.", ""),
    (r"^(backward|forward)_resblocks\.", r"\1_trunk."),
    (r"^upsample1\.upsample_conv\.", "upconv1."),
    (r"^upsample2\.upsample_conv\.", "upconv2."),
)


def basicsr_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors from mmagic's names to those of BasicSR; names of BasicSR stay."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == "step_counter" or name.startswith("generator_ema."):
            continue  # training state of mmagic
        for pattern, replacement in _MMAGIC:
            name = re.sub(pattern, replacement, name)
        # mmagic wraps each convolution of SPyNet in a ConvModule without ReLU: its k.conv is BasicSR's 2 k
        match = re.fullmatch(r"(spynet\.basic_module\.\d\.basic_module\.)(\d)\.conv\.(weight|bias)", name)
        if match:
            name = f"{match[1]}{2 * int(match[2])}.{match[3]}"
        renamed[name] = tensor
    return renamed


def infer_config(tensors: Mapping[str, Tensor]) -> NetworkConfig:
    """Infer the hyperparameters of an official checkpoint from tensor shapes. Raises KeyError for other files."""
    channels = tensors["backward_trunk.main.0.weight"].shape[0]
    blocks = {int(m[1]) for key in tensors if (m := re.match(r"backward_trunk\.main\.2\.(\d+)\.", key))}
    return NetworkConfig(channels=channels, blocks=len(blocks))
