"""The wheel, built without network access: complete, and without names that clash with other distributions."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT

NOT_SOURCE = shutil.ignore_patterns(".*", "build", "data", "bench", "*.egg-info", "__pycache__")
PACKAGES = {"benchmarks", "commands", "jobs", "media", "model", "pipeline", "service", "skipvsr", "weights", "worker"}
DATA = {".html", ".json", ".pyi", ".safetensors", ".toml", ".typed"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of all files in the wheel, which is built from a copy because setuptools writes into the source tree."""
    source, target = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, source, ignore=NOT_SOURCE)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(target), str(source)], check=True, cwd=target)
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_installs_only_known_top_level_names(files: set[str]) -> None:
    """A top-level `proto` would overwrite proto-plus, which Google Cloud clients import under this name."""
    names = {Path(name).parts[0] for name in files if ".dist-info/" not in name}
    assert names == PACKAGES | {"cli.py"}


def test_the_wheel_contains_every_module_and_data_file(files: set[str]) -> None:
    expected: set[str] = set()
    for folder in sorted(PACKAGES):
        parent = ROOT / "proto" if folder == "skipvsr" else ROOT
        paths = (
            path for path in (parent / folder).rglob("*") if path.suffix in {".py", *DATA} or "static" in path.parts
        )
        expected |= {path.relative_to(parent).as_posix() for path in paths if path.is_file()}
    assert {"skipvsr/v1/upscaler_pb2.py", "skipvsr/v1/py.typed", "weights/small.safetensors"} <= expected
    assert {
        "service/http/static/index.html",
        "service/http/static/page/main.js",
        "service/http/openapi.json",
    } <= expected
    assert expected <= files, f"not in the wheel: {sorted(expected - files)}"
    assert {name for name in files if ".dist-info/" not in name} <= expected | {"cli.py"}
