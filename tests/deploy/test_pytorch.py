"""`make setup TORCH=…`: which build of PyTorch is installed, and from where."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.paths import ROOT

SCRIPT = ROOT / "deploy" / "pytorch.py"
PIN = re.search(r"^torch==\S+$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pytorch_build", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ran(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Commands that the script would run, with PyTorch's index reachable."""
    commands: list[list[str]] = []
    monkeypatch.setattr(script, "_answers", lambda url: True)
    monkeypatch.setattr(script.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(script, "_run", lambda *arguments: commands.append(list(arguments)) or 0)
    return commands


@pytest.mark.parametrize("backend", ["auto", "cpu", "cu126"])
def test_builds_come_from_pytorchs_index_by_uv(script: ModuleType, ran: list[list[str]], backend: str) -> None:
    assert PIN
    assert script.main(backend) == 0
    uv, torch = ran
    assert uv[-1] == "uv"
    assert torch[:4] == ["-m", "uv", "pip", "install"]
    assert torch[torch.index("--torch-backend") + 1] == backend
    assert torch[-1] == PIN[0]
    assert Path(script.sys.prefix, ".torch").read_text() == backend


def test_cuda_is_the_build_on_pips_own_index(script: ModuleType, ran: list[list[str]]) -> None:
    assert script.main("cuda") == 0
    (pip,) = ran
    assert pip[:3] == ["-m", "pip", "install"]
    assert pip[-1] == "torch"


def test_an_installed_build_stays_unless_another_is_named(script: ModuleType, ran: list[list[str]]) -> None:
    assert script.main("") == 0
    assert ran == []


def test_no_build_for_the_machine_is_an_error_only_if_named(
    script: ModuleType, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "_uv", lambda backend: 2)
    assert script.main("cu126") == 2
    assert script.main("auto") == 0
    assert "taking pip's" in capsys.readouterr().out


def test_an_unreachable_index_costs_seconds_and_is_named() -> None:
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "cpu"],
        env={"PYTORCH_INDEX": "http://127.0.0.1:9/"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("TORCH=cpu: PyTorch's index does not answer")


def test_make_installs_again_when_another_build_is_named() -> None:
    run = subprocess.run(["make", "-n", "setup", "TORCH=cu126"], cwd=ROOT, capture_output=True, text=True)
    assert "deploy/pytorch.py cu126" in run.stdout
