"""What a run tells on its way: log, progress, picture."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from media import dataset
from model.training.checkpoint import read_log
from model.training.config import TrainConfig
from model.training.loop import run
from tests.squares import pack_squares

CONFIG = """
seed = 3
flow_steps = 1
warmup = 2
log_every = 5
val_every = 6
checkpoint_every = 4
photo_share = 1.0
precision = "fp32"
threads = 1
[network]
channels = 8
blocks = 1
[data]
photos = ["photos"]
[[stages]]
steps = 13
batch = 1
frames = 2
patch = 16
"""


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
