"""Measured speeds, kept in Redis by the workers, or in a file of the data folder by the command line."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, cast

from pydantic import BaseModel, Field, ValidationError
from redis import Redis

from jobs.keys import speed_key
from jobs.speed import Cell, Measurement, Rates, SpeedTable, updated
from jobs.store.connection import unavailable

T = TypeVar("T", bound=BaseModel)
log = logging.getLogger(__name__)

_MOST_CELLS: Final = 128
"""Cells of one kind of machine; the oldest are removed first."""
_KEPT_SECONDS: Final = 180 * 24 * 3600
"""Time after which an unused kind of machine is forgotten."""
_RATES: Final = "rates"


class SpeedRecords(Protocol):
    """Measured speeds of kinds of machines."""

    def table(self, machine: str) -> SpeedTable:
        """Return what is known of a kind of machine."""

    def calibrated(self, machine: str, rates: Rates) -> None:
        """Keep a calibration."""

    def add(self, machine: str, measurement: Measurement) -> None:
        """Add a measurement."""


class RedisSpeeds:
    """Speeds in Redis. Methods raise `StoreUnavailable`.

    If two workers add to the same cell at the same time, a measurement is lost; the loss does no harm.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def table(self, machine: str) -> SpeedTable:
        """Return what is known of a kind of machine."""
        with unavailable():
            return self._table(_key(machine))

    def calibrated(self, machine: str, rates: Rates) -> None:
        """Keep a calibration."""
        with unavailable(), self._redis.pipeline() as pipe:
            pipe.hset(_key(machine), _RATES, rates.model_dump_json())
            pipe.expire(_key(machine), _KEPT_SECONDS)
            pipe.execute()

    def add(self, machine: str, measurement: Measurement) -> None:
        """Add a measurement."""
        key, name = _key(machine), measurement.work.cell
        with unavailable():
            cell = updated(_parsed(Cell, cast("bytes | None", self._redis.hget(key, name))), measurement)
            with self._redis.pipeline() as pipe:
                pipe.hset(key, name, cell.model_dump_json())
                pipe.expire(key, _KEPT_SECONDS)
                pipe.hlen(key)
                count = pipe.execute()[-1]
            if count > _MOST_CELLS:
                for old in _oldest(self._table(key).cells):
                    self._redis.hdel(key, old.work.cell)

    def _table(self, key: str) -> SpeedTable:
        raw = cast("dict[bytes, bytes]", self._redis.hgetall(key))
        rates = _parsed(Rates, raw.pop(_RATES.encode(), None))
        return SpeedTable(rates, [cell for text in raw.values() if (cell := _parsed(Cell, text))])


class _Content(BaseModel):
    """Content of the file, for one kind of machine."""

    rates: Rates | None = None
    cells: dict[str, Cell] = Field(default_factory=dict)


class SpeedFile:
    """Speeds in a file. An unreadable file counts as empty, and never fails a command."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def table(self, machine: str) -> SpeedTable:
        """Return what is known of a kind of machine."""
        content = self._read().get(machine, _Content())
        return SpeedTable(content.rates, content.cells.values())

    def calibrated(self, machine: str, rates: Rates) -> None:
        """Keep a calibration."""
        known = self._read()
        known[machine] = known.get(machine, _Content()).model_copy(update={"rates": rates})
        self._write(known)

    def add(self, machine: str, measurement: Measurement) -> None:
        """Add a measurement."""
        known, name = self._read(), measurement.work.cell
        cells = known.setdefault(machine, _Content()).cells
        cells[name] = updated(cells.get(name), measurement)
        if len(cells) > _MOST_CELLS:
            for old in _oldest(cells.values()):
                cells.pop(old.work.cell, None)
        self._write(known)

    def _read(self) -> dict[str, _Content]:
        try:
            found: dict[str, Any] = json.loads(self._path.read_text())
            return {machine: _Content.model_validate(content) for machine, content in found.items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def _write(self, known: dict[str, _Content]) -> None:
        part = self._path.with_name(f".{self._path.name}-{secrets.token_hex(4)}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps({machine: content.model_dump() for machine, content in known.items()}))
            part.replace(self._path)
        except OSError as error:
            log.debug("cannot keep the measured speed: %s", error)
            with suppress(OSError):
                part.unlink()


def _key(machine: str) -> str:
    return speed_key(sha256(machine.encode()).hexdigest()[:16])


def _oldest(cells: Iterable[Cell]) -> list[Cell]:
    return sorted(cells, key=lambda cell: cell.at)[: _MOST_CELLS // 4]


def _parsed(kind: type[T], text: bytes | None) -> T | None:
    try:
        return None if text is None else kind.model_validate_json(text)
    except ValidationError:  # of another version
        return None
