"""Output of the benchmarks: facts about the machine, tables, JSON files."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.table import Table

_FLAGS: Final = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16")


def machine(device: torch.device) -> dict[str, object]:
    """Facts about a run: date, commit, processor with vector units, threads, versions, and the GPU in use."""
    model, flags = _processor()
    facts: dict[str, object] = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "cpu": model,
        "cpu_flags": [flag for flag in _FLAGS if flag in flags],
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "thread_wait": os.environ.get("OMP_WAIT_POLICY", "default"),
        "load_average": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(device),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def one_line(facts: Mapping[str, object]) -> str:
    """The facts on one line."""
    return ", ".join(f"{key} {value}" for key, value in facts.items())


@dataclass(frozen=True)
class Figure:
    """One figure of `python -m benchmarks`."""

    part: str
    what: str
    """Subject of the measurement."""
    value: float
    unit: str
    ratio: float | None = None
    against: str = ""
    """Subject that `ratio` compares with."""
    skip_ratio: float | None = None


def _commit() -> str | None:
    """Commit of the checkout around this file, with a + if tracked files differ; None outside a checkout."""
    here = Path(__file__).parent
    try:
        done = [
            subprocess.run(["git", "-C", here, *call], capture_output=True, text=True, timeout=10, check=True).stdout
            for call in (["rev-parse", "--short=7", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return done[0].strip() + "+" * bool(done[1].strip())


def _processor() -> tuple[str, frozenset[str]]:
    """Name and flags of the first processor, from /proc/cpuinfo."""
    entries: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            entries.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    name = entries.get("model name") or platform.processor() or platform.machine()
    return name, frozenset(entries.get("flags", "").split())


def write_json(path: Path, content: dict[str, object]) -> None:
    """Write `content` as JSON, atomically."""
    part = path.with_name(f".{os.getpid()}.part")  # a short name, because `path` may have a name of the longest length
    part.write_text(json.dumps(content, indent=1, default=_plain, allow_nan=False) + "\n")
    part.replace(path)


def _plain(value: Any) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(type(value).__name__)


def geometric_mean(values: Iterable[float]) -> float:
    """Geometric mean, the mean for ratios."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def show(console: Console, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: three columns of words, then columns of numbers."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, header in enumerate(headers):
        table.add_column(header, justify="left" if index < 3 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
