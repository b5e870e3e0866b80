"""Networks that are kept warm between jobs."""

from __future__ import annotations

import gc
import logging
from collections import OrderedDict

import torch

from jobs.settings import Settings
from model.engine.memory import give_back
from model.engine.upscaler import Upscaler, load_model
from model.zoo.models import DEFAULT_MODEL, present, revisions, unusable
from model.zoo.user_models import Revision

log = logging.getLogger(__name__)


class Models:
    """Loads networks when they are first asked for, and keeps the last `keep` of them on the device."""

    def __init__(self, settings: Settings, keep: int = 2) -> None:
        self._settings = settings
        self._keep = keep
        self._warm: OrderedDict[str, tuple[Upscaler, tuple[Revision, Revision]]] = OrderedDict()
        self._names: list[str] = []
        self._told: set[str] = set()

    def get(self, name: str) -> Upscaler:
        """The network of that name; `auto` is the one of the settings. Raises ModelError.

        One whose files have changed since is loaded anew.
        """
        wanted = self._settings.model if name == "auto" else name
        now = revisions(DEFAULT_MODEL if wanted == "auto" else wanted, self._settings.weights)
        if wanted in self._warm and self._warm[wanted][1] != now:
            log.info("the files of %s have changed; it is loaded anew", wanted)
            del self._warm[wanted]
            free_memory()
        if wanted not in self._warm:
            while len(self._warm) >= self._keep:
                self._warm.popitem(last=False)
                free_memory()
            model = load_model(
                wanted,
                weights_dir=self._settings.weights,
                device=self._settings.device,
                precision=self._settings.precision,
                threads=self._settings.threads,
            )
            self._warm[wanted] = model, now  # from before: what has changed meanwhile is noticed the next time
        self._warm.move_to_end(wanted)
        return self._warm[wanted][0]

    def names(self) -> list[str]:
        """Names that `get` takes now. What in the weights folder is no model is told to the log, once."""
        try:
            self._names = [card.name for card in present(self._settings.weights)]
            lines = set(unusable(self._settings.weights))
        except OSError as error:  # the heart asks, which must not stop for a folder
            lines = {f"the weights folder cannot be read: {error}"}
        for line in sorted(lines - self._told):
            log.warning("%s", line)
        self._told = lines
        return self._names


def free_memory() -> None:
    """Give memory that nothing uses back to the system, and to the device."""
    gc.collect()
    give_back()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
