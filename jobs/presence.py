"""Which workers are alive: each one writes a note that fades unless it is written again."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final, cast

from pydantic import BaseModel, Field
from redis import Redis

from jobs.store import PREFIX, unavailable

_NAMES: Final = f"{PREFIX}workers"


class WorkerInfo(BaseModel):
    """What a worker says of itself."""

    name: str
    host: str
    pid: int
    device: str = Field(description="What it computes on, for people.")
    model: str = Field(description="The model that it keeps warm.")
    models: list[str] = Field(default_factory=list, description="Models whose weights it has.")
    job: str | None = Field(None, description="Id of the job that it works on.")
    started_at: datetime


class Presence:
    """The notes of all workers. Methods raise `StoreUnavailable` when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def announce(self, worker: WorkerInfo, ttl: float) -> None:
        """Say that a worker is alive, for `ttl` seconds."""
        with unavailable(), self._redis.pipeline() as pipe:
            pipe.sadd(_NAMES, worker.name)
            pipe.set(_key(worker.name), worker.model_dump_json(), px=max(1, round(ttl * 1000)))
            pipe.execute()

    def leave(self, name: str) -> None:
        """Say that a worker has stopped."""
        with unavailable(), self._redis.pipeline() as pipe:
            pipe.srem(_NAMES, name)
            pipe.delete(_key(name))
            pipe.execute()

    def workers(self) -> list[WorkerInfo]:
        """The workers whose notes have not faded, by name."""
        with unavailable():
            names = sorted(name.decode() for name in cast(Iterable[bytes], self._redis.smembers(_NAMES)))
            if not names:
                return []
            notes = cast("list[bytes | None]", self._redis.mget([_key(name) for name in names]))
            faded = [name for name, note in zip(names, notes, strict=True) if note is None]
            if faded:
                self._redis.srem(_NAMES, *faded)
            return [WorkerInfo.model_validate_json(note) for note in notes if note is not None]


def _key(name: str) -> str:
    return f"{PREFIX}worker:{name}"
