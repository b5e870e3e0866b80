"""Going on with a run: only the one that was begun; and what a run tells on its way: log, progress, picture."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from media import dataset
from model.errors import ConfigError
from model.training.checkpoint import read_log
from model.training.config import TrainConfig
from model.training.loop import _workers, run
from model.zoo.weights_file import load_file
from tests.support.squares import pack_squares, run_config

CONFIG = run_config(
    "seed = 3\nflow_steps = 1\nwarmup = 2\nlog_every = 5\nval_every = 6\ncheckpoint_every = 4", steps=13
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    pack_squares(folder)
    return folder


def train(packed: Path, out: Path, config: str = CONFIG, stop_at: int | None = None) -> list[str]:
    said: list[str] = []
    out.mkdir(exist_ok=True)
    (out / "config.toml").write_text(config)
    run(TrainConfig.load(out / "config.toml"), packed, out, said.append, stop_at)
    return said


def test_a_run_tells_what_it_does(packed: Path, tmp_path: Path) -> None:
    """Validation at every multiple of `val_every` and at the end, whatever `log_every` is; and a picture."""
    said = train(packed, tmp_path)
    rows = read_log(tmp_path / "log.jsonl")
    assert [row["step"] for row in rows] == [5, 6, 10, 12, 14]
    assert [row["step"] for row in rows if "psnr_bi" in row] == [6, 12, 14]
    assert said[0].startswith("bicubic: psnr_bi ")
    line = r"step 14/14  loss \d\.\d{5}  flow \d\.\d{5}  lr \S+  \d+\.\d{3} s/step  ETA 0:00 h  psnr_bi \d\d?\.\d{3} dB"
    assert re.fullmatch(line, said[-1])
    assert len(said) == 1 + len(rows)
    (picture,) = dataset.decode(tmp_path / "plot.png")
    assert picture.shape == (360, 1000, 3)
    assert len({tuple(colour) for colour in picture.reshape(-1, 3)[::7]}) > 10


@pytest.fixture
def stopped(packed: Path, tmp_path: Path) -> Path:
    train(packed, tmp_path / "out", stop_at=9)
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seed = 3", "seed = 4\nlr = 1e-4"), "another seed (3, now 4), lr (0.001, now 0.0001): use another --out"),
        (("steps = 13", "steps = 14"), "another stages.0.steps (13, now 14):"),
        (("steps = 13", "steps = 4"), "another stages.0.steps (13, now 4):"),
        (('["photos"]', '["photos", "more"]'), "another data.photos.1 (none, now more):"),
        (
            ("[data]", '[gates]\ninit = "g"\nerror_budget = 0.5\n[data]'),
            "gates.init (none, now g), gates.error_budget (none, now 0.5)",
        ),
    ],
)
def test_another_run_is_no_continuation(stopped: Path, packed: Path, change: tuple[str, str], message: str) -> None:
    text = CONFIG.replace(*change)
    before = {path: path.read_bytes() for path in stopped.iterdir() if path.name != "config.toml"}
    with pytest.raises(ConfigError) as error:
        train(packed, stopped, 'init = "w"\n' + text.replace("flow_steps = 1", "") if "gates" in text else text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in stopped.iterdir() if path.name != "config.toml"} == before


def test_more_or_fewer_processes_are_no_continuation(stopped: Path, packed: Path) -> None:
    state = torch.load(stopped / "state.pt", weights_only=True)
    torch.save(state | {"processes": 2}, stopped / "state.pt")
    with pytest.raises(ConfigError, match=r"another number of processes \(2, now 1\): use another --out"):
        train(packed, stopped)


def test_what_changes_nothing_of_the_curve_may_differ(stopped: Path, packed: Path) -> None:
    text = CONFIG
    for name, value in {"threads": 2, "log_every": 7, "val_every": 4, "checkpoint_every": 2}.items():
        text = re.sub(f"{name} = .*", f"{name} = {value}", text)
    assert train(packed, stopped, text)[0] == "resuming at step 9 of 14"
    assert [row["step"] for row in read_log(stopped / "log.jsonl")] == [5, 6, 12, 14]


def test_a_state_of_an_earlier_version_goes_on(stopped: Path, packed: Path) -> None:
    state = torch.load(stopped / "state.pt", weights_only=True)
    torch.save({key: value for key, value in state.items() if key not in ("config", "processes")}, stopped / "state.pt")
    with pytest.raises(ConfigError, match="holds a run at step 9, but the configuration ends at step 5: use another"):
        train(packed, stopped, CONFIG.replace("steps = 13", "steps = 4"))
    assert not (stopped / "last.safetensors").exists()
    assert train(packed, stopped)[0] == "resuming at step 9 of 14"
    assert load_file(stopped / "last.safetensors").config.channels == 8


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f'device = "cuda"\n{CONFIG}')
    config, current = TrainConfig.load(tmp_path / "config.toml"), list[torch.device]()
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with _workers(config) as (_, device):
        assert [device] == current == [torch.device("cuda", 1)]
        assert not torch.backends.cudnn.allow_tf32, "training computes as inference does"
    monkeypatch.setenv("LOCAL_RANK", "2")
    missing = "process 2 needs its own GPU: this machine has no device cuda:2"
    with pytest.raises(ConfigError, match=missing), _workers(config):
        pass

    def old_driver() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old")

    monkeypatch.setattr(torch.cuda, "init", old_driver)
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ConfigError, match="cuda:0 does not start: The NVIDIA driver"), _workers(config):
        pass
