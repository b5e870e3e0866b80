"""Training on a device, rehearsed on the CPU, and what the run does with its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.device_train import main as device_train
from benchmarks.device_train.recipes import FROZEN, recipe
from benchmarks.device_train.timed import Budget, TimedRun, check_finite
from commands import pack as command
from media import dataset
from model.errors import ConfigError
from model.training import checkpoint
from model.training.loop import Trainer, learning_rate
from model.training.packing import pack
from model.zoo.weights_file import load_file
from tests.benchmarks.test_device import bare
from tests.model.training.test_packing import LIMITS, packed_clips

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    packed_clips(folder)
    return folder


def test_both_runs_on_a_bare_machine(cache, tmp_path):
    pack(cache, tmp_path / "data/segments.safetensors", LIMITS, dataset.h264_rgb, command._decoded, print)
    code = "from benchmarks.device_train.main import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["--device", "cpu", "--tiny", "--seconds", "1", "--data", str(tmp_path / "data/segments.safetensors")]
    done = bare(code, *arguments, "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unpacked 5 segments" in done.stdout
    for name in device_train.RUNS:
        rows = checkpoint.read_log(tmp_path / f"out/{name}.jsonl")
        assert rows[0]["step"] == 0
        assert {"psnr_bi", "psnr_up0", "loss", "lr"} <= rows[-1].keys()
        assert load_file(tmp_path / f"out/{name}.safetensors").config.channels == 8


class Clock:
    """Time in which a step takes `step(number)` seconds and a validation ten."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: Callable[[int], float]) -> None:
        self.now, self.validated, self.rates, self._step = 0.0, list[float](), list[float](), step
        monkeypatch.setattr("benchmarks.device_train.timed.time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr("benchmarks.device_train.timed.validate", self._validate)
        monkeypatch.setattr("benchmarks.device_train.timed.bicubic", lambda _: {})
        monkeypatch.setattr(Trainer, "train_step", lambda trainer, lr, hr: self._train(trainer))

    def _validate(self, *_: object) -> dict[str, float]:
        self.validated.append(self.now)
        self.now += 10
        return {"psnr_bi": 30.0}

    def _train(self, trainer: Trainer) -> None:
        self.rates.append(learning_rate(trainer.step, trainer.config))
        self.now += self._step(trainer.step)
        trainer.step += 1


def test_steps_follow_from_the_measured_rate_and_the_run_ends_in_time(cache, tmp_path, monkeypatch):
    clock = Clock(monkeypatch, lambda _: 1.0)
    made = recipe("basicvsr", None, tiny=True)
    TimedRun("run", made, cache, tmp_path, CPU, Budget(120.0, 40.0), lambda _: None).run()
    assert 100 < clock.now <= 120
    assert 65 < len(clock.rates) < 85
    assert clock.rates[made.warmup] == pytest.approx(made.lr, rel=1e-3)
    assert clock.rates[-1] < made.lr / 20  # the cosine ended
    assert clock.validated[0] == 0
    gaps = [b - a for a, b in pairwise(clock.validated)]
    assert max(gaps) <= 52


def test_a_run_that_slows_down_still_ends_in_time(cache, tmp_path, monkeypatch):
    clock = Clock(monkeypatch, lambda number: 1.0 if number < 20 else 5.0)
    said: list[str] = []
    TimedRun("run", recipe("small", None, tiny=True), cache, tmp_path, CPU, Budget(100.0, 40.0), said.append).run()
    assert clock.now <= 100
    assert any("the time is over at step" in line for line in said)
    assert (tmp_path / "run.safetensors").exists()


def test_the_large_network_keeps_its_flow_at_first():
    assert recipe("basicvsr", None, tiny=False).flow_frozen == FROZEN
    assert recipe("small", None, tiny=False).flow_frozen == 0


def test_a_run_that_harms_its_network_fails():
    check_finite([{"psnr_bi": 30.0}, {"psnr_bi": 29.5}])
    with pytest.raises(ConfigError, match=r"lost 3\.0 dB"):
        check_finite([{"psnr_bi": 30.0}, {"psnr_bi": 27.0}])
    with pytest.raises(ConfigError, match="no validation clips"):
        check_finite([{"step": 0.0}])


def test_missing_data_are_one_line(tmp_path, capsys):
    assert device_train.main(["--data", str(tmp_path / "no"), "--out", str(tmp_path), "--device", "cpu"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
