"""Training: it learns, it is reproducible, it survives SIGKILL, and it says what is wrong with a configuration."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file as load_safetensors

from model.errors import ConfigError
from model.training.checkpoint import read_log
from model.training.config import Stage, TrainConfig
from model.training.data import Sampler
from model.training.loop import Trainer, run
from model.zoo.weights_file import load_file
from tests.support.squares import pack_squares, run_config

CONFIG = run_config(
    "seed = 3\nflow_steps = 2\nwarmup = 2\nlog_every = 2\nval_every = 10\ncheckpoint_every = 4",
    steps=30,
    batch=2,
    frames=3,
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    pack_squares(folder)
    (folder / "config.toml").write_text(CONFIG)
    return folder


def curve(out: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_log(out / "log.jsonl")]


@pytest.fixture(scope="module")
def straight(packed, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("straight")
    run(TrainConfig.load(packed / "config.toml"), packed, out, lambda line: None)
    return out


def test_a_run_learns_and_leaves_weights_that_load(straight):
    rows = curve(straight)
    losses = [row["loss"] for row in rows if row["loss"]]
    assert rows[-1]["step"] == 32
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert "psnr_bi" in rows[-1]
    assert load_file(straight / "last.safetensors").config.channels == 8
    assert (straight / "best.safetensors").exists()


@pytest.mark.parametrize(("store", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_number_format_of_the_resulting_files(packed, tmp_path, store, dtype):
    config = TrainConfig.load(packed / "config.toml").model_copy(
        update={"flow_steps": 0, "store": store, "stages": [Stage(steps=1, batch=2, frames=3, patch=16)]}
    )
    tensors = load_safetensors(run(config, packed, tmp_path, lambda line: None))
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}


@pytest.mark.parametrize("clean", ["bi", "bd"])
def test_a_network_for_two_learns_from_halved_frames(clean, tmp_path):
    pack_squares(tmp_path / "cache", scale=2)
    top = f'seed = 3\nclean = "{clean}"\nwarmup = 2\nlog_every = 2\nval_every = 10'
    (tmp_path / "config.toml").write_text(run_config(top, steps=20, batch=2, frames=3, scale=2))
    config = TrainConfig.load(tmp_path / "config.toml")
    lr, hr = Sampler(tmp_path / "cache", config).batch(0, config.stages[0])
    assert (lr.shape, hr.shape) == ((2, 3, 16, 16, 3), (2, 3, 32, 32, 3))
    run(config, tmp_path / "cache", tmp_path / "out", lambda line: None)
    rows = curve(tmp_path / "out")
    assert np.mean([row["loss"] for row in rows[-3:]]) < np.mean([row["loss"] for row in rows[:3]])
    assert f"psnr_{clean}" in rows[-1]
    assert load_file(tmp_path / "out/last.safetensors").scale == 2


def test_the_same_seed_gives_the_same_run(packed, straight, tmp_path):
    run(TrainConfig.load(packed / "config.toml"), packed, tmp_path, lambda line: None)
    assert curve(tmp_path) == curve(straight)


SCRIPT = """
import sys
from pathlib import Path
from model.training.config import Stage, TrainConfig
from model.training.loop import Trainer, run
packed, out = Path(sys.argv[1]), Path(sys.argv[2])
def say(line):
    print(line, flush=True)
    if line.startswith("step 10/"):
        sys.stdin.read()  # until the kill
run(TrainConfig.load(packed / "config.toml"), packed, out, say)
"""


def test_a_killed_run_goes_on_with_the_same_curve(packed, straight, tmp_path):
    command = [sys.executable, "-c", SCRIPT, packed, tmp_path]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 10/"):  # past the checkpoint of step 8, and rows past it are in the log
            os.kill(process.pid, signal.SIGKILL)
            break
    process.stdin.close()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    assert read_log(tmp_path / "log.jsonl")[-1]["step"] < 32
    said: list[str] = []
    run(TrainConfig.load(packed / "config.toml"), packed, tmp_path, said.append)
    assert said[0].startswith("resuming at step ")
    assert curve(tmp_path) == curve(straight)


def test_a_batch_is_aligned_and_depends_on_its_step_alone(packed):

    config = TrainConfig.load(packed / "config.toml")
    sampler = Sampler(packed, config)
    lr, hr = sampler.batch(5, config.stages[0])
    again, _ = sampler.batch(5, config.stages[0])
    other, _ = sampler.batch(6, config.stages[0])
    assert (lr == again).all()
    assert not (lr == other).all()
    blocks = hr.view(2, 3, 16, 4, 16, 4, 3).float().mean(dim=(3, 5))  # flips and crops hit LR and HR alike
    assert (blocks - lr.float()).abs().mean() < 8


@pytest.mark.parametrize("clean", ["bi", "bd"])
def test_bars_are_black_in_hr_and_in_an_lr_that_is_made_of_it(packed, clean):
    from model.training import degrade
    from model.training.degrade import each

    config = TrainConfig.load(packed / "config.toml").model_copy(update={"bars": 1.0, "clean": clean})
    plain, barred = Sampler(packed, config.model_copy(update={"bars": 0.0})), Sampler(packed, config)
    for step in range(4):
        lr, hr = barred.batch(step, config.stages[0])
        assert (lr.numpy() == np.stack([each(clip, degrade.CLEAN[clean]) for clip in hr.numpy()])).all()
        edges = [hr[0][:, 0], hr[0][:, -1], hr[0][:, :, 0], hr[0][:, :, -1]]
        assert any(len(edge.unique()) == 1 and edge.max() <= 16 for edge in edges)
    assert not (plain.batch(0, config.stages[0])[1] == barred.batch(0, config.stages[0])[1]).all()


def test_clean_frames_may_be_blurred_and_decimated_instead(packed, tmp_path):
    from model.training import degrade
    from model.training.degrade import each

    config = TrainConfig.load(packed / "config.toml").model_copy(update={"clean": "bd", "flow_steps": 0})
    lr, hr = Sampler(packed, config).batch(0, config.stages[0])
    assert (lr.numpy() == np.stack([each(clip, degrade.bd) for clip in hr.numpy()])).all()
    run(config, packed, tmp_path, lambda line: None, stop_at=10)
    assert {"psnr_bd", "psnr_bi"} & set(read_log(tmp_path / "log.jsonl")[-1]) == {"psnr_bd"}


def test_psnr_may_be_what_is_minimised(packed):
    torch.manual_seed(0)
    lr, hr = torch.rand(1, 2, 3, 16, 16), torch.rand(1, 2, 3, 64, 64)
    hr[:, 1] = 0.5
    config = TrainConfig.load(packed / "config.toml").model_copy(update={"precision": "fp32"})
    losses = {}
    for loss in ("charbonnier", "psnr"):
        trainer = Trainer(config.model_copy(update={"loss": loss}), torch.device("cpu"))
        losses[loss] = trainer.objective(lr, hr)[0].item()
        error = trainer.network(lr) - hr
    assert losses["charbonnier"] == pytest.approx(error.abs().mean().item(), rel=1e-3)
    psnr = [-10 * math.log10(frame.square().mean().item()) for frame in error[0]]
    assert losses["psnr"] == pytest.approx(-0.001 * math.log(10) * sum(psnr) / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("steps = 30", "steps = 0"), "stages.0.steps: Input should be greater than or equal to 1"),
        (("seed = 3", "sead = 3"), "sead: Extra inputs are not permitted"),
        (('photos = ["photos"]', ""), "name at least one folder in clips or photos"),
        (("frames = 3", "frames = 300"), "300 frames are more than a packed segment holds"),
        (("[network]", "[network"), "not TOML"),
        (("[network]", "flow_lr_scale = 0\n[network]"), "flow_lr_scale: must be above 0"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_said_in_one_line(tmp_path, change, message):
    path = tmp_path / "config.toml"
    path.write_text(CONFIG.replace(*change))
    with pytest.raises(ConfigError) as error:
        TrainConfig.load(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_cache_is_refused(tmp_path, packed):
    with pytest.raises(ConfigError, match="the cache holds no photos"):
        run(TrainConfig.load(packed / "config.toml"), tmp_path, tmp_path / "out", lambda line: None)


def test_frozen_flow_stays_as_it_is_for_a_while(packed):
    config = TrainConfig.load(packed / "config.toml").model_copy(update={"flow_steps": 0, "flow_frozen": 2})
    trainer, sampler = Trainer(config, torch.device("cpu")), Sampler(packed, config)
    begun = [p.detach().clone() for p in trainer.network.spynet.parameters()]
    kept = []
    for step in range(3):
        trainer.train_step(*sampler.batch(step, config.stages[0]))
        kept.append(all(map(torch.equal, begun, trainer.network.spynet.parameters())))
    assert kept == [True, True, False]


def test_a_flow_without_learning_rate_keeps_its_weights_and_has_no_gradient(packed):
    config = TrainConfig.load(packed / "config.toml").model_copy(update={"flow_steps": 0, "flow_lr_scale": 0.0})
    trainer, sampler = Trainer(config, torch.device("cpu")), Sampler(packed, config)
    flow, trunk = list(trainer.network.spynet.parameters()), next(iter(trainer.network.backward_trunk.parameters()))
    begun, before = [p.detach().clone() for p in flow], trunk.detach().clone()
    trainer.train_step(*sampler.batch(0, config.stages[0]))
    assert all(map(torch.equal, begun, flow))
    assert all(p.grad is None for p in flow)
    assert not torch.equal(before, trunk)


def test_batches_cut_on_the_device_equal_those_from_files(packed):
    config = TrainConfig.load(packed / "config.toml").model_copy(update={"bars": 0.5})
    mapped, resident = Sampler(packed, config), Sampler(packed, config, device=torch.device("cpu"))
    for step in range(3):
        assert all(map(torch.equal, mapped.batch(step, config.stages[0]), resident.batch(step, config.stages[0])))
