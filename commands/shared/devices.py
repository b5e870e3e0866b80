"""Workers for the devices of this machine: one process for each.

A worker's process sees only its own GPU (`CUDA_VISIBLE_DEVICES`), and cannot take memory of another GPU.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from commands.shared.errors import CommandError
from commands.shared.supervisor import Child, say

SKIPVSR: Final = (sys.executable, "-P", "-m", "cli")
"""Command line of `skipvsr`. -P: a folder in the current directory cannot shadow one of this project's packages."""
_UNUSED: Final = frozenset(
    {"SKIPVSR_API_KEY", "SKIPVSR_API_KEY_FILE", "SKIPVSR_WEBHOOK_SECRET", "SKIPVSR_WEBHOOK_SECRET_FILE"}
)
"""Secrets of the servers. The worker opens strangers' videos, and answers no request."""
_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_TRY: Final = "from model.engine.gpus import gpu_troubles; import json; print(json.dumps(gpu_troubles()))"
_TRY_SECONDS: Final = 300.0


@dataclass(frozen=True)
class Device:
    """A device for one worker."""

    name: str
    """`cpu` or `cuda:N`, where N counts the GPUs that this process sees."""
    env: Mapping[str, str]
    """Variables of the worker's environment."""


def devices(text: str, environment: Mapping[str, str] = os.environ) -> list[Device]:
    """Devices by a list: `all`, or numbers of GPUs and `cpu` with commas between. Raises CommandError.

    `all` means each GPU that works, and the CPU if none does; a line tells of each GPU that does not work. A device may
    stand in the list more than once.
    """
    if text == "cpu":
        return [_device("cpu", environment)]
    troubles = try_gpus()
    if text == "all":
        names = [str(number) for number, trouble in enumerate(troubles) if not trouble]
        for trouble in filter(None, troubles):
            say(trouble)
    else:
        names = [part.strip() for part in text.split(",")]
    for name in names:
        _check(name, troubles)
    return [_device(name, environment) for name in names or ["cpu"]]


def worker_children(found: list[Device], metrics_port: int) -> list[Child]:
    """A worker for each device. Each of several workers has a port of its own for metrics, from `metrics_port` on."""
    if len(found) == 1:
        return [_worker("worker", found[0].env)]
    ports = [{"SKIPVSR_WORKER_METRICS_PORT": str(metrics_port + number)} for number in range(len(found))]
    return [
        _worker(f"worker {number} on {device.name}", {**device.env, **(port if metrics_port else {})})
        for number, (device, port) in enumerate(zip(found, ports, strict=True), 1)
    ]


def _check(name: str, troubles: list[str]) -> None:
    """Raise CommandError for a device that is missing or does not work."""
    if name == "cpu":
        return
    if not (name.isdecimal() and int(name) < len(troubles)):
        raise CommandError(
            f"--devices: this machine has no device {name!r} (CUDA devices: {len(troubles)}); use all, cpu, or numbers "
            "from 0 on with commas between"
        )
    if trouble := troubles[int(name)]:
        raise CommandError(f"--devices: {trouble}")


def try_gpus() -> list[str]:
    """For each GPU the reason why the GPU does not work, or an empty text. A separate process tries the GPUs."""
    if not _may_have_gpus():
        return []
    try:
        answer = subprocess.run(  # noqa: S603 (our own command)
            [sys.executable, "-P", "-c", _TRY], stdout=subprocess.PIPE, text=True, check=True, timeout=_TRY_SECONDS
        )
        return [str(trouble) for trouble in json.loads(answer.stdout)]
    except (subprocess.SubprocessError, ValueError, OSError) as error:
        raise CommandError(f"cannot try the GPUs ({error}); set SKIPVSR_DEVICE, for example to cuda:0") from None


def _may_have_gpus() -> bool:
    """Whether PyTorch is a build for GPUs, and the driver is there."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    version = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    if version.get("hip"):
        return True
    with suppress(OSError):
        return bool(version.get("cuda")) and ctypes.CDLL("libcuda.so.1") is not None
    return False


def _device(name: str, environment: Mapping[str, str]) -> Device:
    if name == "cpu":
        return Device(name, {"SKIPVSR_DEVICE": "cpu"})
    visible = [part.strip() for part in environment.get(_VISIBLE, "").split(",") if part.strip()]
    own = visible[int(name)] if visible else name
    return Device(f"cuda:{name}", {"SKIPVSR_DEVICE": "cuda", _VISIBLE: own})


def _worker(name: str, env: Mapping[str, str]) -> Child:
    return Child(name, [*SKIPVSR, "worker"], without=_UNUSED, env=env, restart=True)
