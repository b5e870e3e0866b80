"""The wheels, built without network access: complete, and without names that clash with other distributions."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT

NOT_SOURCE = shutil.ignore_patterns(".*", "build", "data", "bench", "*.egg-info", "__pycache__")
PACKAGES = {"benchmarks", "commands", "jobs", "media", "model", "pipeline", "service", "weights", "worker"}
CLIENT = ROOT / "clients" / "python"
DATA = {".html", ".json", ".proto", ".pyi", ".safetensors", ".toml", ".typed"}


def wheel_of(project: Path, folder: Path) -> set[str]:
    """Names of all files in the wheel, which is built from a copy because setuptools writes into the source tree."""
    source, target = folder / "tree", folder / "wheel"
    shutil.copytree(project, source, ignore=NOT_SOURCE)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(target), str(source)], check=True, cwd=folder)
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    return wheel_of(ROOT, tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def client_files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    return wheel_of(CLIENT, tmp_path_factory.mktemp("client"))


def test_the_wheel_installs_only_known_top_level_names(files: set[str]) -> None:
    """A top-level `proto` would overwrite proto-plus, which Google Cloud clients import under this name."""
    assert {Path(name).parts[0] for name in files} == PACKAGES | {"cli.py"}


def test_the_wheel_contains_every_module_and_data_file(files: set[str]) -> None:
    expected: set[str] = set()
    for folder in sorted(PACKAGES):
        expected |= sources(ROOT, folder)
    assert {"weights/small.safetensors", "service/http/static/index.html", "service/http/openapi.json"} <= expected
    assert expected <= files, f"not in the wheel: {sorted(expected - files)}"
    assert files <= expected | {"cli.py"}


def test_the_clients_wheel_holds_the_protocol_and_shares_no_file_with_the_servers(
    files: set[str], client_files: set[str]
) -> None:
    expected = sources(ROOT / "proto", "skipvsr") | sources(CLIENT / "src", "skipvsr_client")
    assert {"skipvsr/v1/upscaler_pb2.py", "skipvsr/v1/upscaler.proto", "skipvsr_client/py.typed"} <= expected
    assert client_files == expected
    assert not client_files & files


def test_server_and_client_have_one_version() -> None:
    server, client = (tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in (ROOT, CLIENT))
    assert server["version"] == client["version"]
    wanted = [line for lines in server["optional-dependencies"].values() for line in lines if "skipvsr-client" in line]
    assert len(wanted) == 2
    assert all(line.endswith(f"=={client['version']}") for line in wanted)


def sources(parent: Path, package: str) -> set[str]:
    """Modules and data files of a package, relative to `parent`."""
    paths = (path for path in (parent / package).rglob("*") if path.suffix in {".py", *DATA})
    return {path.relative_to(parent).as_posix() for path in paths}
