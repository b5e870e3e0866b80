"""Kernel launches and host synchronisations of the network on a GPU, counted without a GPU.

The tensors lie on the device "meta", which computes shapes only and has no kernels of its own. Every operation of ATen
on such a tensor counts as the kernels that CUDA launches for the operation. An operation for which the host waits for
the device counts as a synchronisation.

python -m benchmarks.launches [--size 320x180] [--frames 8] [--precision bf16]

Needs only torch. On a real device `Launches` counts in the same way.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from model.engine.upscaler import Upscaler
from model.network.basicvsr import BasicVSR, NetworkConfig

META: Final = torch.device("meta")
NETWORKS: Final = {
    "small": NetworkConfig(32, 4, "light", "light", coupled=True),
    "basicvsr": NetworkConfig(),
}
"""The networks of the table."""
DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_aten: Final = torch.ops.aten
_FREE: Final = {
    "aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided",
    "aten::detach", "aten::detach_", "aten::alias", "aten::_unsafe_view", "aten::_reshape_alias", "aten::lift_fresh",
    "aten::resize_", "aten::set_", "aten::is_pinned", "aten::record_stream", "aten::_local_scalar_dense",
}  # fmt: skip
"""Operations without a kernel: they allocate or describe memory, or copy a number."""
_WAITS: Final = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::is_nonzero",
    "aten::_unique2", "aten::unique_consecutive", "aten::repeat_interleave.Tensor",
}  # fmt: skip
"""Operations whose result, or the shape of whose result, the host needs at once."""


@dataclass(frozen=True)
class Count:
    """Launches and synchronisations of a run, or for each frame of a run."""

    launches: float
    waits: float


class Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts kernel launches and host synchronisations inside this context, by operation.

    Copies between host and device run on the copy engines and count as no launch. A copy that does not say
    `non_blocking` counts as a synchronisation.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # inference mode hands over whole compounds, for example `conv2d`
                return func._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
        given = _tensors((args, kwargs))
        out = _evaluated(func, args, kwargs, given)
        self._count(func, args, kwargs, given, _tensors(out))
        return out

    def per_frame(self, frames: int) -> Count:
        """Return the counts for each of `frames` frames."""
        return Count(self.launches.total() / frames, self.waits.total() / frames)

    def table(self, frames: int) -> Iterator[str]:
        """Yield a line for each operation, the most frequent first: launches and synchronisations for each frame."""
        for name in sorted(self.launches | self.waits, key=lambda name: (-self.launches[name], -self.waits[name])):
            yield f"{name:<44}{self.launches[name] / frames:>10.2f}{self.waits[name] / frames:>10.2f}"

    def _count(self, func: Any, args: Any, kwargs: Any, given: list[Tensor], made: list[Tensor]) -> None:
        name = func.name()
        here, there = any(map(_on_device, given)), any(map(_on_device, made))
        if not here and not there:
            return
        if name.removesuffix(".default") == "aten::detach_":  # how torch ends `tensor` and `new_tensor`
            self.waits["torch.tensor(…)"] += 1
        elif _crosses(func, given, made):
            self.waits[f"{name} {'to' if there else 'from'} device"] += not _unblocked(func, args, kwargs)
        else:
            self.launches[name] += _kernels(func, args)
            self.waits[name] += _must_wait(name, given)
        self.launches, self.waits = +self.launches, +self.waits


def _kernels(func: Any, args: Any) -> int:
    """Return the number of kernels of an operation on CUDA."""
    name = func.name()
    if func.is_view or name in _FREE or func._schema.name in _FREE:
        return 0
    if func is _aten.convolution.default:  # cuDNN adds the bias in a second kernel
        return 1 if args[2] is None else 2
    return 1


def _must_wait(name: str, given: list[Tensor]) -> bool:
    masks = name.startswith(("aten::index", "aten::_index_put", "aten::_unsafe_index")) and any(
        x.dtype in (torch.bool, torch.uint8) or not _on_device(x) for x in given[1:]
    )
    return masks or name in _WAITS or name.partition(".")[0] in _WAITS


def _crosses(func: Any, given: list[Tensor], made: list[Tensor]) -> bool:
    """Check whether an operation copies between host and device."""
    if func.name().startswith("aten::copy_"):
        return len({_on_device(x) for x in given}) > 1
    return func is _aten._to_copy.default and _on_device(given[0]) != _on_device(made[0])


def _unblocked(func: Any, args: Any, kwargs: Any) -> bool:
    return bool(args[2] if func.name().startswith("aten::copy_") and len(args) > 2 else kwargs.get("non_blocking"))


def _evaluated(func: Any, args: Any, kwargs: Any, given: list[Tensor]) -> Any:
    """Run an operation. Tensors without data give zeros where the host asks for data."""
    if any(x.device == META for x in given):
        if func is _aten._local_scalar_dense.default:
            return 0
        if func is _aten.nonzero.default:
            return torch.empty(0, args[0].dim(), dtype=torch.int64, device=META)
        if func is _aten._to_copy.default and kwargs.get("device") not in (None, META):
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype, device=kwargs["device"])
        if func.name().startswith("aten::copy_") and args[0].device != META:
            return args[0].zero_()
    return func(*args, **kwargs)


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, Tensor)]


def _on_device(x: Tensor) -> bool:
    return x.device.type != "cpu"


def dense_run(
    config: NetworkConfig, height: int, width: int, frames: int, dtype: torch.dtype = torch.bfloat16
) -> Launches:
    """Count a chunk of `frames` frames in the middle of a stream, computed densely."""
    model = Upscaler("counted", BasicVSR(config), "counted:0", META, dtype)
    chunk = np.zeros((frames, height, width, 3), np.uint8)
    with Launches():  # a chunk before: makes the constants of this size
        state = model.forward(chunk, None, lookahead=0, last=False).state
    launches = Launches()
    with launches:
        model.forward(chunk, state, lookahead=0, last=False)
    return launches


def main() -> None:
    """Print the counts of each network, and a table by operation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="320x180", metavar="WxH", help="of the frames (default: 320x180)")
    parser.add_argument("--frames", type=int, default=8, help="of the chunk (default: 8)")
    parser.add_argument("--precision", choices=DTYPES, default="bf16")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    for name, config in NETWORKS.items():
        launches = dense_run(config, height, width, args.frames, DTYPES[args.precision])
        total = launches.per_frame(args.frames)
        print(
            f"{name}, {args.size}, {args.frames} frames: {total.launches:.1f} launches and {total.waits:.2f} ", end=""
        )
        print("synchronisations for each frame")
        print(*launches.table(args.frames), "", sep="\n")


if __name__ == "__main__":
    main()
