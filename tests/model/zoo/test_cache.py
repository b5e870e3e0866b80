"""The model cache: changed files are reloaded, and the least recently used model is evicted."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from model.engine.loading import model_cache
from model.errors import BadWeights, DeviceError, UnknownModel
from model.network.basicvsr import NetworkConfig
from model.zoo.cache import ModelCache
from model.zoo.weights_file import fingerprint
from tests.support.user_models import TINY, fit_estimator, truncate, write_model


def test_changed_files_are_reloaded(weights_folder: Path, tmp_path: Path) -> None:
    deep = NetworkConfig(8, 2, "light", "light", coupled=True)
    path = write_model(weights_folder, config=deep)
    models = model_cache(weights_folder, default="tiny", device="cpu", precision="fp32", threads=1, capacity=2)
    first = models.get("mine")
    assert models.get("mine") is first
    write_model(weights_folder, seed=1, config=deep)
    second = models.get("mine")
    assert second is not first
    assert second.fingerprint.startswith(fingerprint("mine", path))
    assert second.identity("fast") != first.identity("fast")
    fit_estimator(weights_folder, tmp_path)
    third = models.get("mine")
    assert third.estimator is not None
    assert third.identity("off") == second.identity("off")
    assert models.get("mine") is third
    truncate(path)
    with pytest.raises(BadWeights, match="damaged"):
        models.get("mine")
    assert models.get("tiny").name == "tiny"
    path.unlink()
    with pytest.raises(UnknownModel):
        models.get("mine")
    write_model(weights_folder, config=deep)
    assert models.get("mine").fingerprint == first.fingerprint


def test_a_full_cache_evicts_the_least_recently_used_model(tmp_path: Path) -> None:
    loaded: list[str] = []
    evicted: list[str] = []

    def load(name: str) -> str:
        loaded.append(name)
        return name

    for name in ("one", "two"):
        write_model(tmp_path, name)
    models = ModelCache(tmp_path, load, default="tiny", capacity=2, on_evict=lambda: evicted.append(loaded[-1]))
    for name in ("one", "auto", "one", "two", "one", "tiny"):
        assert models.get(name) == ("tiny" if name == "auto" else name)
    assert loaded == ["one", "tiny", "two", "tiny"]
    assert len(evicted) == 2
    assert {"one", "two", "tiny", "small"} <= set(models.names())


@pytest.mark.parametrize("capacity", [None, 2])
def test_a_model_without_memory_is_loaded_alone(tmp_path: Path, capacity: int | None) -> None:
    """Streams may hold the models of a cache without a limit: their memory would not become free."""
    loaded: list[str] = []

    def load(name: str) -> str:
        if loaded:
            raise DeviceError("cuda ran out of memory") from torch.OutOfMemoryError("CUDA out of memory")
        loaded.append(name)
        return name

    write_model(tmp_path, "one")
    models = ModelCache(tmp_path, load, default="tiny", capacity=capacity, on_evict=loaded.clear)
    assert models.get("tiny") == "tiny"
    if capacity is None:
        with pytest.raises(DeviceError, match="memory"):
            models.get("one")
    else:
        assert models.get("one") == "one"
        assert loaded == ["one"]


def test_auto_is_the_network_for_the_enlargement_unless_a_model_is_set(tmp_path: Path) -> None:
    write_model(tmp_path, "double", config=replace(TINY, scale=2))
    models = ModelCache(tmp_path, str)
    for enlargement, name in (
        (None, "small"),
        (1, "small-x2"),
        (2, "small-x2"),
        (Fraction(1440, 720), "small-x2"),
        (Fraction(1442, 720), "small"),
        (4, "small"),
    ):
        assert models.resolved("auto", enlargement) == models.get("auto", enlargement) == name
        assert models.resolved("small-clean", enlargement) == "small-clean"
        assert ModelCache(tmp_path, str, default="tiny").resolved("auto", enlargement) == "tiny"
    assert models.scale("double") == 2
    scales = models.scales()
    assert (scales["double"], scales["small-x2"], scales["small"]) == (2, 2, 4)
