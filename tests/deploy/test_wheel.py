"""The wheels, built without network access: complete, and without names that clash with other distributions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.clips import make_clip
from tests.support.paths import ROOT

NOT_SOURCE = shutil.ignore_patterns(".*", "build", "data", "bench", "*.egg-info", "__pycache__")
PACKAGES = {"benchmarks", "commands", "jobs", "media", "model", "pipeline", "service", "weights", "worker"}
CLIENT = ROOT / "clients" / "python"
DATA = {".html", ".json", ".proto", ".pyi", ".safetensors", ".toml", ".typed"}


def wheel_of(project: Path, folder: Path) -> Path:
    """The project's wheel, which is built from a copy because setuptools writes into the source tree."""
    source, target = folder / "tree", folder / "wheel"
    shutil.copytree(project, source, ignore=NOT_SOURCE)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(target), str(source)], check=True, cwd=folder)
    (wheel,) = target.glob("*.whl")
    return wheel


def names_in(wheel: Path) -> set[str]:
    """Names of all files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel_of(ROOT, tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def files(wheel: Path) -> set[str]:
    return names_in(wheel)


@pytest.fixture(scope="module")
def client_files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    return names_in(wheel_of(CLIENT, tmp_path_factory.mktemp("client")))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, and with the dependencies of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*command, "--no-deps", "--no-index", "--force-reinstall", str(wheel)], check=True)
    return folder


@pytest.mark.parametrize("words", [["--help"], ["models"], ["doctor"], ["upscale", "in.mp4", "--model", "tiny", "-q"]])
def test_the_installed_wheel_works(installed: Path, words: list[str], tmp_path: Path) -> None:
    make_clip(tmp_path / "in.mp4", frames=3)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"SKIPVSR_DEVICE": "cpu", "SKIPVSR_HTTP_PORT": "0", "SKIPVSR_GRPC_PORT": "0"}
    environment |= {"XDG_DATA_HOME": str(tmp_path / "share"), "COLUMNS": "200"}
    command = [str(installed / "bin" / "skipvsr"), *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    if words == ["models"]:
        rows = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()[1:]}
        assert rows["small"] == rows["small-clean"] == "here", "weights are part of the wheel"
    if words == ["doctor"]:
        assert f"data folder  {tmp_path / 'share' / 'skipvsr'}" in done.stdout
    if words[0] == "upscale":
        assert (tmp_path / "in.upscaled.mp4").is_file()
        assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", "in.upscaled.mp4", "share"}


def test_hints_name_extras_that_install_what_is_missing() -> None:
    """Each `pip install 'skipvsr[EXTRA]'` in code and pages names an extra of the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "cli.py"]
    code = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    for path in [*pages, *code]:
        for given in re.findall(r"skipvsr\[([\w,]+)\]", path.read_text()):
            assert set(given.split(",")) <= extras, path


def test_the_wheel_installs_only_known_top_level_names(files: set[str]) -> None:
    """A top-level `proto` would overwrite proto-plus, which Google Cloud clients import under this name."""
    assert {Path(name).parts[0] for name in files} == PACKAGES | {"cli.py"}


def test_the_wheel_contains_every_module_and_data_file(files: set[str]) -> None:
    expected: set[str] = set()
    for folder in sorted(PACKAGES):
        expected |= sources(ROOT, folder)
    pages = {"service/http/static/index.html", "service/http/static/page/main.js"}
    assert pages | {"weights/small.safetensors", "service/http/openapi.json"} <= expected
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
    paths = (path for path in (parent / package).rglob("*") if path.suffix in {".py", *DATA} or "static" in path.parts)
    return {path.relative_to(parent).as_posix() for path in paths if path.is_file()}
