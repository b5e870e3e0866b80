"""The run on a device, rehearsed on the CPU: every section, with nothing installed but torch, NumPy and safetensors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.device import main as device
from benchmarks.device.counting import counted, kind
from benchmarks.device.results import Results, Section
from benchmarks.device.session import Session
from benchmarks.device.table import MOST, table
from benchmarks.launches import META
from model.engine import one_thread
from model.network.basicvsr import BasicVSR

ROOT = Path(__file__).parents[2]
BARE = """
import sys

class Bare:
    names = {"av", "redis", "pydantic", "pydantic_core", "fastapi", "grpc", "rq", "obstore", "rich", "click", "httpx"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ImportError(f"a bare machine lacks {name}")

sys.meta_path.insert(0, Bare())
"""


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def bare(code: str, *arguments: str, timeout: float = 170) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process in which only torch, NumPy, safetensors and OpenCV can be imported."""
    command = [sys.executable, "-c", BARE + code, *arguments]
    environment = {**os.environ, "GOMP_SPINCOUNT": "10000"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, env=environment)


def test_the_whole_run_on_a_bare_machine(tmp_path):
    code = "from benchmarks.device.main import main; sys.exit(main(sys.argv[1:]))"
    done = bare(code, "--device", "cpu", "--tiny", "--seconds", "3600", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((tmp_path / "device.json").read_text())
    assert document["failed"] == []
    assert document["about"] == {"device": "cpu", "seconds": 3600, "tiny": True}
    assert [section["name"] for section in document["sections"]] == [part.name for part in device.PARTS]
    assert all(section["rows"] or section["checks"] for section in document["sections"])
    missing = [name for section in document["sections"] for name in section["not_measured"]]
    assert all(name.endswith("needs a GPU") for name in missing)
    assert (tmp_path / "device.txt").read_text().rstrip() in done.stdout
    assert len((tmp_path / "device.txt").read_text().splitlines()) <= MOST


def test_a_wrong_network_fails_the_run(tmp_path, monkeypatch, capsys):
    loaded = Session.upscaler

    def wrong(session, name, number, device=None):
        model = loaded(session, name, number, device)
        if number == "bf16":
            with torch.no_grad():
                model.network.conv_last.weight[0] += 0.1
        return model

    monkeypatch.setattr(Session, "upscaler", wrong)
    monkeypatch.setattr(Session, "models", ("tiny",))
    assert device.main(["--device", "cpu", "--tiny", "--only", "precision", "--out", str(tmp_path)]) == 1
    assert "FAILED tiny bf16 engine, dB" in capsys.readouterr().out
    assert "tiny bf16 engine, dB" in json.loads((tmp_path / "device.json").read_text())["failed"]


def test_a_network_that_raises_fails_its_items_alone(tmp_path, monkeypatch):
    def broken(self, lr, back, feat):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(BasicVSR, "reconstruct", broken)
    monkeypatch.setattr(Session, "models", ("tiny",))
    assert device.main(["--device", "cpu", "--tiny", "--only", "precision", "--out", str(tmp_path)]) == 1
    section = json.loads((tmp_path / "device.json").read_text())["sections"][0]
    errors = [check for check in section["checks"] if not check["ok"]]
    assert {check["detail"] for check in errors} == {"RuntimeError: no kernel image is available"}
    assert any(check["ok"] for check in section["checks"])  # the engine writes pixels without `reconstruct`


def test_what_the_time_does_not_reach_is_named(tmp_path):
    arguments = ["--device", "cpu", "--tiny", "--seconds", "0", "--only", "speed", "--out", str(tmp_path)]
    assert device.main(arguments) == 0
    section = json.loads((tmp_path / "device.json").read_text())["sections"][0]
    assert len(section["not_measured"]) == 6
    assert "not measured (6): speed/tiny 24x16 bf16 off: no time left" in (tmp_path / "device.txt").read_text()


def test_the_table_has_sixty_lines_at_most(tmp_path):
    results = Results(tmp_path)
    for number in range(50):
        section = Section(f"section {number}")
        section.row("figure", value=1.0)
        results.sections.append(section)
    assert len(table(results).splitlines()) == MOST
    assert table(results).splitlines()[-1] == "0 of 0 checks hold; 0 s"


@pytest.mark.parametrize(
    ("arguments", "status"), [(["--only", "spede"], 2), (["--device", "cuda:99", "--only", "speed"], 1)]
)
def test_wrong_arguments_are_refused(arguments, status, tmp_path, capsys):
    assert device.main([*arguments, "--out", str(tmp_path)]) == status
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_launches_count_in_the_thread_that_computes(monkeypatch):
    monkeypatch.setattr(one_thread, "_is_gpu", lambda device: True)

    def work():
        return one_thread.here_or_there(META, lambda: torch.empty(2, device=META) + 1)

    assert counted(META, work).expected == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cudaLaunchKernel", "launch"),
        ("cudaLaunchKernelExC", "launch"),
        ("cuLaunchKernelEx", "launch"),
        ("cudaGraphLaunch", "launch"),
        ("cudaMemcpyAsync", "copy"),
        ("cudaMemsetAsync", "copy"),
        ("cudaStreamSynchronize", "wait"),
        ("cudaEventSynchronize", "wait"),
        ("cudaDeviceSynchronize", ""),
        ("cudaMalloc", ""),
        ("aten::copy_", ""),
    ],
)
def test_calls_of_cuda_are_counted_by_kind(name, expected):
    assert kind(name) == expected
