"""Which workers a list of devices means, on machines with and without GPUs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from commands.shared import devices as module
from commands.shared.devices import devices, try_gpus, worker_children
from commands.shared.errors import CommandError
from commands.shared.supervisor import Interrupt, Supervisor
from commands.up import _children
from tests.support.processes import wait_until


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "try_gpus", lambda: ["", "", ""])


def variables(text: str, environment: Mapping[str, str] | None = None) -> list[tuple[str, str | None]]:
    found = devices(text, environment or {})
    return [(device.env["SKIPVSR_DEVICE"], device.env.get("CUDA_VISIBLE_DEVICES")) for device in found]


@pytest.mark.usefixtures("three_gpus")
def test_each_worker_sees_its_own_gpu() -> None:
    assert variables("all") == [("cuda", "0"), ("cuda", "1"), ("cuda", "2")]
    assert variables("0, 2") == [("cuda", "0"), ("cuda", "2")]
    assert variables("1,cpu,1") == [("cuda", "1"), ("cpu", None), ("cuda", "1")]
    assert [device.name for device in devices("2,cpu", {})] == ["cuda:2", "cpu"]


@pytest.mark.usefixtures("three_gpus")
def test_numbers_count_the_gpus_that_the_user_made_visible() -> None:
    visible = {"CUDA_VISIBLE_DEVICES": "5, GPU-8f6c,MIG-1a"}
    assert variables("all", visible) == [("cuda", "5"), ("cuda", "GPU-8f6c"), ("cuda", "MIG-1a")]
    assert variables("1", visible) == [("cuda", "GPU-8f6c")]


@pytest.mark.usefixtures("three_gpus")
@pytest.mark.parametrize("text", ["3", "-1", "0,,1", "", "cuda", "all,0"])
def test_a_device_that_does_not_exist(text: str) -> None:
    with pytest.raises(CommandError, match=r"no device '.*' \(CUDA devices: 3\)"):
        devices(text, {})


def test_a_machine_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "try_gpus", lambda: [])
    assert variables("all") == variables("cpu") == [("cpu", None)]
    with pytest.raises(CommandError, match="no device '0'"):
        devices("0", {})


def test_gpus_are_tried_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_may_have_gpus", lambda: True)
    assert "from model.engine.gpus import gpu_troubles" in module._TRY, "tests/model/test_admission.py has its tests"
    monkeypatch.setattr(module, "_TRY", 'print(\'["", "no kernels"]\')')
    assert try_gpus() == ["", "no kernels"]
    monkeypatch.setattr(module, "_TRY", "raise SystemExit(1)")
    with pytest.raises(CommandError, match="cannot try the GPUs"):
        try_gpus()


def test_gpus_that_do_not_work_get_no_worker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = "cuda:1 with float32 is not used: no kernel image is available"
    monkeypatch.setattr(module, "try_gpus", lambda: ["", old, ""])
    assert variables("all") == [("cuda", "0"), ("cuda", "2")]
    assert capsys.readouterr().out == f"{old}\n"
    with pytest.raises(CommandError, match="no kernel image"):
        devices("0,1", {})
    monkeypatch.setattr(module, "try_gpus", lambda: [old])
    assert variables("all") == [("cpu", None)], "auto ends at the CPU, and says why"
    assert capsys.readouterr().out == f"{old}\n"


def test_a_build_of_pytorch_for_cpus_has_no_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def version(text: str) -> bool:
        (tmp_path / "version.py").write_text(text)
        return module._may_have_gpus()

    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(module, "find_spec", lambda name: spec)
    driver: list[Any] = []
    monkeypatch.setattr(module.ctypes, "CDLL", lambda name: driver.pop())
    assert not version("cuda = None")
    assert version("hip = '6.0'")
    driver.append(object())
    assert version("cuda = '12.6'")

    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(module.ctypes, "CDLL", missing)
    assert not version("cuda = '12.6'")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert not module._may_have_gpus()


@pytest.mark.usefixtures("three_gpus")
def test_several_workers_have_names_and_ports_of_their_own() -> None:
    children = worker_children(devices("all", {}), 9101)
    assert [child.name for child in children] == [f"worker {n + 1} on cuda:{n}" for n in range(3)]
    assert [child.env["SKIPVSR_WORKER_METRICS_PORT"] for child in children] == ["9101", "9102", "9103"]
    assert all(child.restart and "SKIPVSR_API_KEY" in child.without for child in children)
    assert "SKIPVSR_WORKER_METRICS_PORT" not in worker_children(devices("all", {}), 0)[0].env
    (alone,) = worker_children(devices("1", {}), 9101)
    assert (alone.name, "SKIPVSR_WORKER_METRICS_PORT" in alone.env) == ("worker", False)


@pytest.mark.usefixtures("three_gpus")
def test_up_starts_a_worker_for_each_gpu() -> None:
    names = [child.name for child in _children(0, None, devices("all", {}), metrics_port=0, grpc=True)]
    assert names == ["API", "worker 1 on cuda:0", "worker 2 on cuda:1", "worker 3 on cuda:2", "gRPC server"]
    names = [child.name for child in _children(0, None, None, metrics_port=0, grpc=False)]
    assert names == ["API", "worker"]


@pytest.mark.usefixtures("three_gpus")
def test_a_dead_worker_returns_on_its_gpu_and_the_others_stay() -> None:
    children = worker_children(devices("0,2", {}), 0)
    for child in children:
        child.argv = [sys.executable, "-c", "import time; time.sleep(60)"]
    supervisor = Supervisor(children, {"CUDA_VISIBLE_DEVICES": "0,1,2"}, 5.0)
    try:
        supervisor.poll()
        first, second = (child.process for child in children)
        assert first is not None
        assert second is not None
        first.kill()

        def returned() -> bool:
            supervisor.poll()
            return children[0].process not in (None, first)

        wait_until(returned, 60, "the worker does not return")
        assert children[1].process is second
        wait_until(lambda: "2" in _visible(second), 60, "the second worker does not see its GPU only")
        wait_until(lambda: "0" in _visible(children[0].process), 60, "the first worker does not see its GPU only")
    finally:
        supervisor.stop(Interrupt())


def _visible(process: subprocess.Popen[bytes] | None) -> list[str]:
    assert process is not None
    lines = Path(f"/proc/{process.pid}/environ").read_text().split("\0")
    return [line.partition("=")[2] for line in lines if line.startswith("CUDA_VISIBLE_DEVICES=")]
