"""Commands with user models: `train` writes one; `models`, `upscale`, `eval` and `bench` use one."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

import cli
from model.zoo.models import load_network
from tests.support.clips import make_clip
from tests.support.squares import pack_squares, run_config
from tests.support.user_models import TINY, user_models, write_model

CONFIG = run_config(steps=2, frames=3)


def test_the_command_printed_by_train_adds_the_model(
    weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pack_squares(tmp_path / "cache")
    monkeypatch.setattr("model.training.prepare.prepare", lambda *given: None)
    (tmp_path / "config.toml").write_text(CONFIG)
    assert cli.main(["train", "config.toml", "--cache", "cache", "--out", "a run"]) == 0
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("to use them: ").partition(", then --model mine")[0]
    subprocess.run(shlex.split(command), check=True)
    assert user_models(weights_folder) == {"mine": "user model, 8 channels x 1 block"}
    assert load_network("mine", weights_folder)[0].config == TINY


def test_commands_accept_a_user_model(weights_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(weights_folder)
    write_model(weights_folder, "Bad")
    assert cli.main(["models"]) == 0
    said = capsys.readouterr().out
    assert "user model, 8 channels x 1 block" in said
    assert f"note: {weights_folder}/Bad.safetensors is not used: a model's name" in said
    clip, clips = make_clip(tmp_path / "in.mp4", frames=6), tmp_path / "clips"
    assert cli.main(["upscale", str(clip), str(tmp_path / "out.mp4"), "--model", "mine"]) == 0
    clips.mkdir()
    make_clip(clips / "a.mp4", frames=4, width=64, height=48)
    rows = tmp_path / "rows.json"
    assert cli.main(["eval", "--gt", str(clips), "--model", "mine", "--json", str(rows)]) == 0
    assert [row["model"] for row in json.loads(rows.read_text())["rows"]] == ["mine"]
    bench = ["bench", "model", "--clips", str(clips), "--models", "mine", "--rounds", "1", "--device", "cpu"]
    assert cli.main([*bench, "--json", str(rows)]) == 0
    assert {row["model"] for row in json.loads(rows.read_text())["rows"]} == {"mine"}
    capsys.readouterr()
    assert cli.main(["upscale", str(clip), str(tmp_path / "other.mp4"), "--model", "other"]) == 1
    assert f"tiny, mine (user models are files in {weights_folder})" in capsys.readouterr().err
