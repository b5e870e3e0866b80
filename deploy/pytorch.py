"""Install PyTorch's build for this machine: `python deploy/pytorch.py BACKEND`, run by `make setup`.

BACKEND is `auto` (uv looks for a GPU driver), `cpu`, `cuda` (the build on PyPI), or any backend of uv, e.g. `cu126`.
An empty BACKEND keeps an installed build and otherwise means `auto`. Builds other than PyPI's come from PyTorch's own
index. If the index does not answer, nothing is installed here, and pip next takes the build of pip's own index.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"
INDEX = os.environ.get("PYTORCH_INDEX", "https://download.pytorch.org/whl/cpu/torch/")
TIMEOUT_SECONDS = 5


def main(backend: str) -> int:
    """Install torch for `backend`; return an exit status."""
    if not backend and importlib.util.find_spec("torch"):
        return 0
    backend = backend or "auto"
    if backend == "cuda":
        return _pip("--force-reinstall", "--no-deps", "torch") or _record(backend)
    if not _answers(INDEX):
        print(
            f"TORCH={backend}: PyTorch's index does not answer; taking pip's build, on Linux usually CUDA (gigabytes)."
        )
        return 0
    status = _pip("uv") or _uv(backend)
    if status and backend == "auto":
        print("TORCH=auto: uv found no build; taking pip's. Name one with make TORCH=cpu or TORCH=cuda.")
        return 0
    return status or _record(backend)


def _record(backend: str) -> int:
    """Note the installed build: `make` installs again only for another build."""
    Path(sys.prefix, ".torch").write_text(backend)
    return 0


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS):  # noqa: S310 - an https address
            return True
    except OSError:
        return False


def _pip(*arguments: str) -> int:
    return _run("-m", "pip", "install", "--quiet", "-c", str(LOCK), *arguments)


def _uv(backend: str) -> int:
    """Install the pinned torch alone: pip adds its dependencies from its own index afterwards."""
    pin = next(line for line in LOCK.read_text().splitlines() if line.startswith("torch=="))
    install = ("pip", "install", "--quiet", "--python", sys.executable, "--torch-backend", backend)
    return _run("-m", "uv", *install, "--no-deps", "--reinstall-package", "torch", pin)


def _run(*arguments: str) -> int:
    return subprocess.run([sys.executable, *arguments], check=False).returncode  # noqa: S603 - own arguments


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
