"""Which workers are alive. Each worker repeats an announcement in Redis, which expires without repetition."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import cast

from pydantic import BaseModel, Field
from redis import Redis

from jobs.keys import WORKERS, worker_key
from jobs.store.connection import unavailable


class WorkerInfo(BaseModel):
    """A worker's announcement."""

    name: str
    host: str
    pid: int
    device: str = Field(description="Name of the worker's compute device.")
    model: str = Field(description="Name of the model that the worker keeps in memory.")
    models: list[str] = Field(default_factory=list, description="Names of the models in the worker's weights folder.")
    scales: dict[str, int] = Field(default_factory=dict, description="Enlargement of each of these models.")
    machine: str = Field("", description="Kind of machine that measured speeds belong to.")
    job: str | None = Field(None, description="Id of the current job; null for an idle worker.")
    jail_missing: list[str] = Field(
        default_factory=list,
        description="Layers of the decoder's jail that the worker's kernel does not enforce: system calls, files.",
    )
    started_at: datetime


class Presence:
    """Announcements of all workers. Methods raise `StoreUnavailable` if Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def announce(self, worker: WorkerInfo, ttl: float) -> None:
        """Announce a worker for `ttl` seconds."""
        with unavailable(), self._redis.pipeline() as pipe:
            pipe.sadd(WORKERS, worker.name)
            pipe.set(worker_key(worker.name), worker.model_dump_json(), px=max(1, round(ttl * 1000)))
            pipe.execute()

    def leave(self, name: str) -> None:
        """Remove the announcement of a worker that stops."""
        with unavailable(), self._redis.pipeline() as pipe:
            pipe.srem(WORKERS, name)
            pipe.delete(worker_key(name))
            pipe.execute()

    def workers(self) -> list[WorkerInfo]:
        """Workers with an announcement, sorted by name; names without an announcement are removed."""
        with unavailable():
            names = sorted(name.decode() for name in cast(Iterable[bytes], self._redis.smembers(WORKERS)))
            if not names:
                return []
            found = cast("list[bytes | None]", self._redis.mget([worker_key(name) for name in names]))
            expired = [name for name, text in zip(names, found, strict=True) if text is None]
            if expired:
                self._redis.srem(WORKERS, *expired)
            return [WorkerInfo.model_validate_json(text) for text in found if text is not None]
