"""What tests of the pipeline share: the tiny network, and a clip."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.engine.loading import load_model
from model.engine.upscaler import Upscaler
from tests.support.clips import make_clip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Upscaler:
    return load_model("tiny", weights_dir=tmp_path_factory.mktemp("weights"), device="cpu", precision="fp32", threads=1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=26, sound=True)
