"""The models that the server holds: loaded when first asked for, then kept until their files change."""

from __future__ import annotations

import threading

from jobs.settings import Settings
from model.device import resolve_device
from model.engine.upscaler import Upscaler, load_model
from model.zoo.models import DEFAULT_MODEL, Card, present, revisions
from model.zoo.user_models import Revision


class Models:
    """Networks on the device, by name. Its methods may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        """Raises ModelError where the settings' device is not there."""
        self._settings = settings
        self.device = resolve_device(settings.device)
        self.default = settings.model if settings.model != "auto" else DEFAULT_MODEL
        self._loaded: dict[str, tuple[Upscaler, tuple[Revision, Revision]]] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> Upscaler:
        """The model of that name, loaded; anew where its files have changed, of which streams under way see nothing.

        Raises ModelError.
        """
        with self._lock:
            now = revisions(name, self._settings.weights)
            if name not in self._loaded or self._loaded[name][1] != now:
                self._loaded.pop(name, None)
                model = load_model(
                    name,
                    weights_dir=self._settings.weights,
                    device=self._settings.device,
                    precision=self._settings.precision,
                    threads=self._settings.threads,
                )
                self._loaded[name] = model, now  # from before: what has changed meanwhile is noticed the next time
            return self._loaded[name][0]

    def present(self) -> list[Card]:
        """Those whose weights are here."""
        return present(self._settings.weights)
