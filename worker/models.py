"""Networks that are kept warm between jobs."""

from __future__ import annotations

import gc
from collections import OrderedDict

import torch

from jobs.settings import Settings
from model.engine import Upscaler, load_model
from model.memory import give_back


class Models:
    """Loads networks when they are first asked for, and keeps the last `keep` of them on the device."""

    def __init__(self, settings: Settings, keep: int = 2) -> None:
        self._settings = settings
        self._keep = keep
        self._warm: OrderedDict[str, Upscaler] = OrderedDict()

    def get(self, name: str) -> Upscaler:
        """The network of that name; `auto` is the one of the settings. Raises ModelError."""
        wanted = self._settings.model if name == "auto" else name
        if wanted not in self._warm:
            while len(self._warm) >= self._keep:
                self._warm.popitem(last=False)
                free_memory()
            self._warm[wanted] = load_model(
                wanted,
                weights_dir=self._settings.weights,
                device=self._settings.device,
                precision=self._settings.precision,
                threads=self._settings.threads,
            )
        self._warm.move_to_end(wanted)
        return self._warm[wanted]


def free_memory() -> None:
    """Give memory that nothing uses back to the system, and to the device."""
    gc.collect()
    give_back()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
