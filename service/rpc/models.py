"""The models that the server holds: loaded when first asked for, then kept."""

from __future__ import annotations

import threading

from jobs.settings import Settings
from model.device import resolve_device
from model.engine import Upscaler, load_model
from model.weights import CARDS, DEFAULT_MODEL, Card


class Models:
    """Networks on the device, by name. Its methods may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        """Raises ModelError where the settings' device is not there."""
        self._settings = settings
        self.device = resolve_device(settings.device)
        self.default = settings.model if settings.model != "auto" else DEFAULT_MODEL
        self._loaded: dict[str, Upscaler] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> Upscaler:
        """The model of that name, loaded. Raises ModelError."""
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = load_model(
                    name,
                    weights_dir=self._settings.weights,
                    device=self._settings.device,
                    precision=self._settings.precision,
                    threads=self._settings.threads,
                )
            return self._loaded[name]

    def present(self) -> list[Card]:
        """Those whose weights are here."""
        return [card for card in CARDS if card.present(self._settings.weights)]
