"""`skipvsr calibrate`: choose the scales with which a model computes on 8-bit integers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Final

import click

from commands.shared.command_line import COUNT, FILE, FOLDER, Command, ModelName, option, read_settings
from commands.shared.errors import CommandError

if TYPE_CHECKING:
    from torch import Tensor

    from model.engine.upscaler import Frames as EngineFrames
    from model.engine.upscaler import Upscaler
    from model.training.prepare import Frames

COMPRESSED: Final = "h264:23"
"""How the compressed version of each clip is made."""
CORNER: Final = (480, 640)
"""Most HR rows and columns of a frame that scales are chosen from: the frame's first."""
CHECKED: Final = 10
"""Most frames of each clip on which the loss is measured."""

_say = partial(print, flush=True)


@click.command(cls=Command)
@click.argument("model", type=ModelName(), metavar="MODEL", help="Model to calibrate")
@option("--clips", type=FOLDER, required=True, metavar="DIR", help="Videos to choose the scales from")
@option("--check", type=FOLDER, metavar="DIR", help="Videos to measure the loss on; default: those of --clips")
@option("--out", type=FILE, metavar="FILE", help="File of the scales; default: where the model looks for it")
@option("--frames", type=COUNT, default=5, metavar="N", help="Frames of each video to choose the scales from")
@option("--degrade", type=click.Choice(["bi", "bd"]), default="bi", help="How to make low resolution")
def command(model: str, clips: Path, check: Path | None, out: Path | None, frames: int, degrade: str) -> int:
    """Choose scales, with which a model computes on integers."""
    return run(model, clips, check or clips, out, frames=frames, clean=degrade, weights_dir=read_settings().weights)


def run(
    model: str, data: Path, check: Path, out: Path | None, *, frames: int, clean: str = "bi", weights_dir: Path
) -> int:
    """Choose scales for `model` from the videos in `data`; write them beside the weights, or to `out`.

    The loss is measured on the videos in `check` and written to the file: `precision=auto` uses the scales if the loss
    of every video is small. Raises ModelError, and CommandError if a video cannot be decoded.
    """
    import torch

    from commands.shared.naming import check_names
    from model.device import resolve_dtype
    from model.engine.upscaler import Upscaler
    from model.training import quantise
    from model.training.checkpoint import replace
    from model.zoo.models import card, load_network
    from model.zoo.scales import MOST_LOSS, Scales, wants_integers

    cpu = torch.device("cpu")
    wants_integers("int8", cpu)
    path = out or card(model, weights_dir).scales_path(weights_dir)
    check_names(None, {"the scales": path})
    network, fingerprint = load_network(model, weights_dir)
    names = quantise.block_convolutions(network)
    try:
        sources = (lr for _, _, lr in _versions(data, frames, clean, network.scale, CORNER))
        scales = Scales(quantise.calibrate(network, names, sources), fingerprint)
        _say(f"scales of {len(names)} convolutions")
        exact = Upscaler(model, network, fingerprint, cpu, torch.float32)
        integers = Upscaler(model, network, fingerprint, cpu, resolve_dtype("int8", cpu), scales=scales)
        loss = max(_loss(exact, integers, *each) for each in _versions(check, CHECKED, clean, network.scale))
    except ValueError as error:
        raise CommandError(str(error)) from error
    how = f"skipvsr calibrate {model} --frames {frames} --degrade {clean}"
    notes = {"made_by": how, "clips": data.name, "checked_on": f"{check.name}, clean and {COMPRESSED}"}
    replace(path, lambda part: Scales(scales.numbers, fingerprint, loss).save(part, notes))
    _say(f"largest loss: {loss:.3f} dB; precision auto {'uses' if loss <= MOST_LOSS else 'does not use'} integers")
    _say(f"scales: {path}")
    return 0


def _versions(
    folder: Path, frames: int, clean: str, scale: int, corner: tuple[int, int] | None = None
) -> Iterator[tuple[str, Frames, Frames]]:
    """Yield (name, HR, LR) for the clean and the compressed version of each clip: its first `frames` frames."""
    import numpy as np

    from benchmarks.quality import cropped, degraded
    from media import dataset

    for path in dataset.clips(folder):
        whole = dataset.clip(path, frames).astype(np.uint8, copy=False)
        rows, columns = corner or whole.shape[1:3]
        hr = cropped(whole[:, :rows, :columns], scale).astype(np.uint8, copy=False)
        for how in (clean, COMPRESSED):
            yield f"{path.stem} {how}", hr, degraded(hr, how, scale).astype(np.uint8)


def _loss(exact: Upscaler, integers: Upscaler, name: str, hr: Frames, lr: Frames) -> float:
    """Return what integers cost on a clip in dB against the network in float32, and print the PSNR of both."""
    wanted, found = _psnr(exact, lr, hr), _psnr(integers, lr, hr)
    _say(f"{name:<28} float32 {wanted:.3f} dB  integers {found:.3f} dB  {found - wanted:+.3f} dB")
    return wanted - found


def _psnr(upscaler: Upscaler, lr: Frames, hr: Frames) -> float:
    from benchmarks.quality import LOOKAHEAD
    from model import quality

    frames = upscaler.forward(lr, None, lookahead=LOOKAHEAD, last=True).frames
    return fmean(min(quality.psnr_y(a, b), quality.MAX_DB) for a, b in zip(_planar(frames), _planar(hr), strict=True))


def _planar(frames: EngineFrames) -> Tensor:
    import torch

    return torch.from_numpy(frames).permute(0, 3, 1, 2)
