"""Models kept on the device between jobs or streams."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Generic, TypeVar

from model.errors import DeviceError
from model.faults import allocation_failed, chain
from model.zoo.models import Card, card, default_model, present, revisions, unusable
from model.zoo.user_models import Revision

log = logging.getLogger(__name__)
T = TypeVar("T")


class ModelCache(Generic[T]):
    """Loads each model at its first use and keeps the most recently used models. Threads may share a cache."""

    def __init__(
        self,
        weights_dir: Path,
        load: Callable[[str], T],
        *,
        default: str = "auto",
        automatic: Callable[[Fraction | int | None], str] = default_model,
        capacity: int | None = None,
        on_evict: Callable[[], None] = lambda: None,
    ) -> None:
        """Use `load` to load a model by name, and call `on_evict` after a model leaves the cache.

        `default` is the model for `auto`; "auto" asks `automatic`, with the enlargement as the argument. `capacity` is
        the most models to keep; None keeps all.
        """
        self._auto, self._automatic = default, automatic
        self._weights_dir, self._load, self._capacity, self._on_evict = weights_dir, load, capacity, on_evict
        self._loaded: OrderedDict[str, tuple[T, tuple[Revision, Revision, Revision]]] = OrderedDict()
        self._scales: dict[str, int] = {}
        self._reported: set[str] = set()
        self._lock = threading.Lock()

    @property
    def default(self) -> str:
        """Name of the model for `auto`, without a wanted enlargement."""
        return self.resolved("auto")

    def resolved(self, name: str, enlargement: Fraction | int | None = None) -> str:
        """Return the name of a model; `auto` means the default for an enlargement."""
        if name != "auto":
            return name
        return self._automatic(enlargement) if self._auto == "auto" else self._auto

    def scale(self, name: str) -> int:
        """Return the enlargement of the model `name` without loading the model. Raises ModelError."""
        return card(name, self._weights_dir).scale

    def get(self, name: str, enlargement: Fraction | int | None = None) -> T:
        """Return the model `name`, loaded again if its files have changed. Raises ModelError.

        `enlargement` chooses the model for `auto`. Streams in progress keep their model.
        """
        chosen = self.resolved(name, enlargement)
        model = self._current(chosen)
        # The first model may find that the GPU is of no use; `auto` then means another model.
        now = self.resolved(name, enlargement)
        return model if now == chosen else self._current(now)

    def _current(self, name: str) -> T:
        with self._lock:
            now = revisions(name, self._weights_dir)
            if name in self._loaded and self._loaded[name][1] != now:
                log.info("the files of model %s have changed; loading them again", name)
                self._evict(name)
            if name not in self._loaded:
                while self._capacity is not None and len(self._loaded) >= self._capacity:
                    self._evict(next(iter(self._loaded)))
                # The revision is from before loading, so that the next call notices a change during loading.
                self._loaded[name] = self._loaded_with_room(name), now
            self._loaded.move_to_end(name)
            return self._loaded[name][0]

    def _loaded_with_room(self, name: str) -> T:
        """Load a model; if memory runs out, drop the others first. Streams may hold the models of an endless cache."""
        if self._capacity is None or not self._loaded:
            return self._load(name)
        try:
            return self._load(name)
        except DeviceError as error:
            if not any(map(allocation_failed, chain(error))):
                raise
        log.warning("no memory for model %s beside %s", name, ", ".join(self._loaded))
        for other in list(self._loaded):
            self._evict(other)
        return self._load(name)

    def present(self) -> list[Card]:
        """Return the models whose weights file exists."""
        return present(self._weights_dir)

    def names(self) -> list[str]:
        """Return the names of the models whose weights file exists."""
        return list(self.scales())

    def scales(self) -> dict[str, int]:
        """Return the scale of each model whose weights file exists, by name; log each unusable file once.

        If the weights folder cannot be read, the result of the last call is returned.
        """
        try:
            self._scales = {entry.name: entry.scale for entry in self.present()}
            lines = set(unusable(self._weights_dir))
        except OSError as error:  # a heartbeat calls this function and must go on
            lines = {f"the weights folder cannot be read: {error}"}
        for line in sorted(lines - self._reported):
            log.warning("%s", line)
        self._reported = lines
        return dict(self._scales)

    def _evict(self, name: str) -> None:
        del self._loaded[name]
        self._on_evict()
