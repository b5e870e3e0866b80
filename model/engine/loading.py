"""Loading a model onto a device, and the cache of loaded models."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch

from model.admission import Place, admit
from model.device import resolve_device, set_threads, suits_large_networks
from model.engine.trial import check
from model.engine.upscaler import Upscaler
from model.gates.estimator import load_estimator
from model.zoo.cache import ModelCache
from model.zoo.models import card, default_model, load_network, usable_estimator, usable_scales
from model.zoo.scales import chosen_scales, wants_integers


def load_model(
    name: str,
    *,
    weights_dir: Path,
    device: str = "auto",
    precision: str = "auto",
    threads: int = 0,
    enlargement: Fraction | int | None = None,
) -> Upscaler:
    """Load a model by name (`auto`: the default for an enlargement and the device) onto a device.

    On a GPU, the model has to pass a trial; `notes` of the model say which better places failed (`model.admission`).
    Raises ModelError.
    """
    load = partial(_load, name, enlargement, weights_dir, precision, threads)
    # Each thread that runs torch on several cores keeps its own OpenMP threads. More threads than cores sleep at every
    # barrier, and BasicVSR takes 1.45 times as long. A short-lived thread therefore loads the model, and the cores
    # belong to the thread that calls `forward`.
    with ThreadPoolExecutor(1) as loader:
        model, notes = loader.submit(admit, device, precision, load).result()
    model.notes = notes
    return model


def model_cache(
    weights_dir: Path,
    *,
    default: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int = 0,
    capacity: int | None = None,
    on_evict: Callable[[], None] = lambda: None,
) -> ModelCache[Upscaler]:
    """Return an empty cache that loads models with `load_model`; `ModelCache` documents the other arguments.

    The first model decides the device for `auto`, for all models. The device then decides the model for `auto`.
    """

    def load(name: str) -> Upscaler:
        nonlocal device
        model = load_model(name, weights_dir=weights_dir, device=device, precision=precision, threads=threads)
        device = str(model.device)
        return model

    def automatic(enlargement: Fraction | int | None) -> str:
        return default_model(enlargement, large=suits_large_networks(resolve_device(device)))

    return ModelCache(weights_dir, load, default=default, automatic=automatic, capacity=capacity, on_evict=on_evict)


def _load(
    name: str,
    enlargement: Fraction | int | None,
    weights_dir: Path,
    precision: str,
    threads: int,
    place: Place,
) -> Upscaler:
    if name == "auto":
        name = default_model(enlargement, large=suits_large_networks(place.device))
    integers = wants_integers(precision, place.device)
    if place.device.type == "cpu":
        set_threads(threads)
    entry = card(name, weights_dir)
    network, fingerprint = load_network(name, weights_dir)
    path = usable_estimator(entry, weights_dir)
    estimator = load_estimator(path, fingerprint, network) if path else None
    scales = chosen_scales(name, usable_scales(entry, weights_dir), fingerprint, integers)
    model = Upscaler(name, network, fingerprint, place.device, place.dtype, estimator, scales)
    if place.device.type != "cpu":
        check(model, Upscaler(name, network, fingerprint, torch.device("cpu"), torch.float32))
    return model
