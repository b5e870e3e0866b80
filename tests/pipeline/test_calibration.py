"""The first guess at a machine's speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.speed_records import SpeedFile
from model.engine.loading import load_model
from model.network.macs import macs_per_pixel
from model.zoo.models import CARDS, config_of
from pipeline.calibration import calibrate, calibrate_once, machine_of


def test_the_catalogue_states_the_counted_work() -> None:
    for entry in CARDS:
        assert entry.macs == pytest.approx(macs_per_pixel(config_of(entry.name, Path())), abs=1), entry.name


def test_one_model_tells_of_the_others(tmp_path: Path) -> None:
    model = load_model("tiny", weights_dir=tmp_path, device="cpu", precision="fp32", threads=1)
    rates = calibrate(model, "software", ["tiny", "small", "basicvsr-reds", "gone"], tmp_path)
    assert rates.network.keys() == {"tiny", "small", "basicvsr-reds"}
    assert 0 < rates.network["tiny"] < rates.network["small"] < rates.network["basicvsr-reds"] / 20
    assert 0 < rates.encode < 1e-4


def test_a_machine_is_calibrated_once(tmp_path: Path) -> None:
    model = load_model("tiny", weights_dir=tmp_path, device="cpu", precision="fp32", threads=1)
    speeds = SpeedFile(tmp_path / "speeds.json")
    calibrate_once(speeds, model, "software", ["tiny"], tmp_path)
    rates = speeds.table(machine_of(model, "software")).rates
    assert rates is not None
    calibrate_once(speeds, model, "software", ["tiny"], tmp_path)
    assert speeds.table(machine_of(model, "software")).rates == rates
    calibrate_once(speeds, model, "software", ["tiny", "small"], tmp_path)  # a new model
    again = speeds.table(machine_of(model, "software")).rates
    assert again is not None
    assert again.network.keys() == {"tiny", "small"}
