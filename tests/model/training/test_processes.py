"""`torchrun` with several processes: they share an empty cache, and train as one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model.training import cache
from model.training.checkpoint import read_log
from model.zoo.weights_file import load_file
from tests.support.clips import make_scenes, write_png

CONFIG = """
flow_steps = 1
log_every = 1
val_every = 3
checkpoint_every = 2
photo_share = 0.5
clean_share = 0.5
precision = "fp32"
threads = 1
[network]
channels = 8
blocks = 1
[data]
clips = ["{folder}/videos"]
photos = ["{folder}/photos"]
val = ["{folder}/videos"]
min_side = 64
segment = 8
photo_clips = 2
photo_frames = 4
photo_size = 96
uploads = 1
[[stages]]
steps = {steps}
batch = 1
frames = 2
patch = 16
"""


def torchrun(folder: Path, *, steps: int) -> subprocess.CompletedProcess[str]:
    """`torchrun` of the folder's run in two processes."""
    (folder / "config.toml").write_text(CONFIG.format(folder=folder, steps=steps))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "cli", "train", folder / "config.toml", "--cache", folder / "cache", "--out", folder / "out"]
    return subprocess.run([*launch, *command], capture_output=True, text=True, check=False, timeout=240)


@pytest.mark.slow
def test_two_processes_pack_an_empty_cache_and_train_as_one(tmp_path: Path) -> None:
    for name in ("videos", "photos"):
        (tmp_path / name).mkdir()
    for i in range(3):
        make_scenes(tmp_path / f"videos/{i}.mp4", frames=24, cuts=(), width=112, height=96)
        picture = np.random.default_rng(i).integers(0, 255, (14, 14, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
        write_png(tmp_path / f"photos/{i}.png", picture)
    done = torchrun(tmp_path, steps=4)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sorted(line for line in lines if line.startswith("packed")) == sorted(
        [f"packed {i}.mp4: 3 segments" for i in range(3)]
        + [f"packed {i}.png: 2 moving clips" for i in range(3)]
        + [f"packed {i}.mp4 for validation" for i in range(3)]
    )
    assert len(cache.read(tmp_path / "cache", "clips")) == 9
    assert [line.split("  ")[0] for line in lines if line.startswith("step")] == [f"step {n}/5" for n in range(1, 6)]
    assert f"weights: {tmp_path}/out/last.safetensors" in lines
    assert [row["step"] for row in read_log(tmp_path / "out/log.jsonl")] == [1, 2, 3, 4, 5]
    assert load_file(tmp_path / "out/last.safetensors").config.channels == 8
