"""`skipvsr calibrate`: choose the scales with which a model computes on 8-bit integers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
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
    from model.gates.estimator import Estimator
    from model.network.basicvsr import BasicVSR
    from model.routing import Preset
    from model.training.prepare import Frames
    from model.zoo.scales import Scales

    Version = tuple[str, Frames, Frames]
    """Name, HR and LR frames of a clip."""

COMPRESSED: Final = "h264:23"
"""How the compressed version of each clip is made."""
CORNERS: Final = {"light": (480, 640), "full": (240, 320)}
"""Most HR rows and columns of a frame that scales are chosen from, the frame's first, by the network's tail. Networks
with a full tail compute thirty times as much."""
CHECKED: Final = {"light": None, "full": (320, 448)}
"""The same of a frame on which the loss is measured; None: whole frames."""
CHECKED_FRAMES: Final = {"light": 10, "full": 6}
"""Most frames of each clip on which the loss is measured."""
GATED: Final = ("balanced", "fast")
"""Presets with gates and adapted weights."""

_say = partial(print, flush=True)


@click.command(cls=Command)
@click.argument("model", type=ModelName(), metavar="MODEL", help="Model to calibrate")
@option("--clips", type=FOLDER, required=True, metavar="DIR", help="Videos to choose the scales from")
@option("--check", type=FOLDER, metavar="DIR", help="Videos to measure the loss on; default: the videos of --clips")
@option("--out", type=FILE, metavar="FILE", help="Scales file; default: the model's file in the weights folder")
@option("--frames", type=COUNT, default=5, metavar="N", help="Frames of each video to choose the scales from")
@option("--degrade", type=click.Choice(["bi", "bd"]), default="bi", help="How to make low resolution")
def command(model: str, clips: Path, check: Path | None, out: Path | None, frames: int, degrade: str) -> int:
    """Choose scales for a model on 8-bit integers."""
    return run(model, clips, check or clips, out, frames=frames, clean=degrade, weights_dir=read_settings().weights)


def run(
    model: str, data: Path, check: Path, out: Path | None, *, frames: int, clean: str = "bi", weights_dir: Path
) -> int:
    """Choose scales for `model` from the videos in `data`; write them beside the weights, or to `out`.

    The adapted weights of an estimator get scales of their own. The loss is measured on the videos in `check` and
    written to the file: `precision=auto` uses the scales if the loss of every video is small. Otherwise fewer
    convolutions compute on integers. Raises ModelError, and CommandError if a video cannot be decoded.
    """
    import torch

    from commands.shared.naming import check_names
    from model.device import resolve_dtype
    from model.engine.upscaler import Upscaler
    from model.gates.estimator import load_estimator
    from model.training import quantise
    from model.training.checkpoint import replace
    from model.zoo.models import card, load_network, usable_estimator
    from model.zoo.scales import wants_integers

    cpu = torch.device("cpu")
    wants_integers("int8", cpu)
    entry = card(model, weights_dir)
    path, gates = out or entry.scales_path(weights_dir), usable_estimator(entry, weights_dir)
    check_names(None, {"the scales": path})
    network, fingerprint = load_network(model, weights_dir)
    estimator = load_estimator(gates, fingerprint, network) if gates else None
    try:
        tail, names = network.config.tail, quantise.choices(network)
        seen = _versions(data, frames, clean, network.scale, CORNERS[tail])
        scales = _chosen(network, fingerprint, estimator, names[0], seen)
        exact = Upscaler(model, network, fingerprint, cpu, torch.float32, estimator)
        integers = partial(Upscaler, model, network, fingerprint, cpu, resolve_dtype("int8", cpu), estimator)
        checked = list(_versions(check, CHECKED_FRAMES[tail], clean, network.scale, CHECKED[tail]))
        scales = _best([scales.only(each) for each in names], exact, integers, checked)
    except ValueError as error:
        raise CommandError(str(error)) from error
    how = f"skipvsr calibrate {model} --frames {frames} --degrade {clean}"
    notes = {"made_by": how, "clips": data.name, "checked_on": f"{check.name}, clean and {COMPRESSED}"}
    replace(path, lambda part: scales.save(part, notes))
    _say(f"scales: {path}")
    return 0


def _chosen(
    network: BasicVSR, fingerprint: str, estimator: Estimator | None, names: list[str], versions: Iterator[Version]
) -> Scales:
    """Choose the scales of the convolutions `names` of a network, and of the adapted weights of its estimator."""
    from model.training import quantise
    from model.zoo.scales import AdaptedScales, Scales

    clips = [lr for _, _, lr in versions]
    scales = Scales(quantise.calibrate(network, names, clips), fingerprint)
    _say(f"scales of {len(names)} convolutions")
    if estimator is None or estimator.adapted is None:
        return scales
    adapted = AdaptedScales(quantise.calibrate(estimator.adapted, names, clips), estimator.digest)
    _say(f"scales of {len(names)} adapted convolutions")
    return dataclasses.replace(scales, adapted=adapted)


def _best(
    choices: list[Scales], exact: Upscaler, integers: Callable[[Scales], Upscaler], versions: list[Version]
) -> Scales:
    """Return the first scales with which `precision=auto` uses integers everywhere; else those with the least loss."""
    from model.zoo.scales import MOST_LOSS

    tried: list[Scales] = []
    for scales in choices:
        _say(f"{len(scales.numbers)} convolutions on integers:")
        tried.append(_measured(scales, exact, integers(scales), versions))
        if _loss_of(tried[-1]) <= MOST_LOSS:
            return tried[-1]
    best = min(tried, key=_loss_of)
    _say(f"kept: {len(best.numbers)} convolutions on integers, the least loss")
    return best


def _loss_of(scales: Scales) -> float:
    """Return the largest measured loss, with and without gates."""
    return max(scales.loss or 0.0, (scales.adapted.loss or 0.0) if scales.adapted else 0.0)


def _measured(scales: Scales, exact: Upscaler, integers: Upscaler, versions: list[Version]) -> Scales:
    """Measure the losses of scales on clips, and print whether `precision=auto` uses the scales."""
    from model.zoo.scales import MOST_LOSS

    gated = [name for name in GATED if scales.adapted and exact.preset(name).backward_error_budget > 0]
    losses = [[_loss(exact, integers, routing, *each) for routing in ("off", *gated)] for each in versions]
    loss = max(of_clip[0] for of_clip in losses)
    _say(f"largest loss: {loss:.3f} dB; precision auto {'uses' if loss <= MOST_LOSS else 'does not use'} integers")
    scales = dataclasses.replace(scales, loss=loss)
    if scales.adapted is None or not gated:
        return scales
    loss = max(max(of_clip[1:]) for of_clip in losses)
    what = "work" if loss <= MOST_LOSS else "rest"
    _say(f"largest loss with gates: {loss:.3f} dB; where precision auto uses integers, gates {what}")
    return dataclasses.replace(scales, adapted=dataclasses.replace(scales.adapted, loss=loss))


def _versions(folder: Path, frames: int, clean: str, scale: int, corner: tuple[int, int] | None) -> Iterator[Version]:
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


def _loss(exact: Upscaler, integers: Upscaler, routing: str, name: str, hr: Frames, lr: Frames) -> float:
    """Return the loss of integers on a clip, in dB against the same routing in float32. Print the PSNR of both."""
    numbers = integers.preset(routing)
    wanted, found = _psnr(exact, numbers, lr, hr), _psnr(integers, numbers, lr, hr)
    _say(f"{name:<28} {routing:<8} float32 {wanted:.3f} dB  integers {found:.3f} dB  {found - wanted:+.3f} dB")
    return wanted - found


def _psnr(upscaler: Upscaler, routing: Preset, lr: Frames, hr: Frames) -> float:
    from benchmarks.quality import LOOKAHEAD
    from model import quality

    frames = upscaler.forward(lr, None, lookahead=LOOKAHEAD, last=True, routing=routing).frames
    return fmean(min(quality.psnr_y(a, b), quality.MAX_DB) for a, b in zip(_planar(frames), _planar(hr), strict=True))


def _planar(frames: EngineFrames) -> Tensor:
    import torch

    return torch.from_numpy(frames).permute(0, 3, 1, 2)
