"""The model of a job: by name, or by the size of the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.schema import JobOptions
from model.engine.loading import model_cache
from pipeline.choice import choose
from tests.support.user_models import TINY, write_model


@pytest.mark.parametrize(
    ("options", "source", "model"),
    [
        ({}, (640, 480), "small"),
        ({}, (1280, 720), "small"),
        ({}, (1920, 1080), "small-x2"),
        ({}, (1080, 1920), "small-x2"),
        ({}, (2560, 1440), "small-x2"),
        ({"scale": 2}, (640, 480), "small-x2"),
        ({"scale": 3}, (640, 480), "small"),
        ({"height": 960}, (640, 480), "small-x2"),
        ({"height": 962}, (640, 480), "small"),
        ({"model": "small-clean", "scale": 2}, (640, 480), "small-clean"),
    ],
)
def test_auto_chooses_by_the_size_of_the_result(
    options: dict[str, object], source: tuple[int, int], model: str, tmp_path: Path
) -> None:
    models = model_cache(tmp_path, device="cpu", precision="fp32", threads=1)
    chosen, natural = choose(models, JobOptions.model_validate(options), *source)
    assert (chosen.name, natural) == (model, 4)


def test_a_model_of_the_settings_serves_every_size(tmp_path: Path) -> None:
    write_model(tmp_path, "double", config=replace(TINY, scale=2))
    models = model_cache(tmp_path, default="double", device="cpu", precision="fp32", threads=1)
    for scale in (None, 2, 4):
        chosen, natural = choose(models, JobOptions(scale=scale), 64, 48)
        assert (chosen.name, natural) == ("double", 2)
