"""Which workers are alive. Each worker repeats an announcement in Redis, which expires without repetition.

Some duties need few workers, whatever their number: a thousand workers need not all watch for dead workers. A worker
keeps a duty by asking again before the end of the duty's term.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from fractions import Fraction
from typing import Final, cast

from pydantic import BaseModel, Field
from redis import Redis

from jobs.keys import WORKERS, duty_key, worker_key
from jobs.store.connection import unavailable


class WorkerInfo(BaseModel):
    """A worker's announcement."""

    name: str
    host: str
    pid: int
    device: str = Field(description="Name of the worker's compute device.")
    model: str = Field(description="Name of the model that the worker keeps in memory.")
    model_x2: str = Field("", description="Name of the model that `auto` means for outputs of up to twice the size.")
    models: list[str] = Field(default_factory=list, description="Names of the models in the worker's weights folder.")
    scales: dict[str, int] = Field(default_factory=dict, description="Enlargement of each of these models.")
    machine: str = Field("", description="Kind of machine that measured speeds belong to.")
    job: str | None = Field(None, description="Id of the current job; null for an idle worker.")
    jail_missing: list[str] = Field(
        default_factory=list,
        description="Layers of the decoder's jail that the worker's kernel does not enforce: system calls, files.",
    )
    device_notes: list[str] = Field(
        default_factory=list,
        description="Preferred devices and number formats that failed, with the reasons.",
    )
    started_at: datetime

    def resolved(self, model: str, enlargement: Fraction) -> str:
        """Return the name of the model that `model` means for an enlargement."""
        if model != "auto":
            return model
        return self.model_x2 if enlargement <= 2 and self.model_x2 else self.model


class Duty(StrEnum):
    """Work for all workers together."""

    WATCH = "watch"
    """Look for dead workers and lost tickets."""
    CLEAN = "clean"
    """Remove expired files and documents."""


_MOST: Final = {Duty.WATCH: 3, Duty.CLEAN: 1}
"""Workers on a duty at the same time. If an observer dies, the second observer has the same knowledge."""
_TAKE_DUTY: Final = """#!lua flags=allow-oom
-- KEYS[1]: the workers on a duty; ARGV: name, milliseconds of a term, most workers. Returns 1 if the worker is on duty.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
redis.call('EXPIRE', KEYS[1], 86400)
return 1
"""


class Presence:
    """Announcements and duties of all workers. Methods raise `StoreUnavailable` if Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def announce(self, worker: WorkerInfo, ttl: float) -> None:
        """Announce a worker for `ttl` seconds."""
        with unavailable(), self._redis.pipeline() as pipe:
            pipe.sadd(WORKERS, worker.name)
            pipe.set(worker_key(worker.name), worker.model_dump_json(), px=max(1, round(ttl * 1000)))
            pipe.execute()

    def leave(self, name: str) -> None:
        """Remove the announcement of a worker that stops, and free its duties."""
        with unavailable(), self._redis.pipeline() as pipe:
            for duty in Duty:
                pipe.zrem(duty_key(duty), name)
            pipe.srem(WORKERS, name)
            pipe.delete(worker_key(name))
            pipe.execute()

    def on_duty(self, duty: Duty, name: str, seconds: float) -> bool:
        """Take a duty for a term of `seconds`, or extend the term; return False if enough others are on duty."""
        term = max(1, round(seconds * 1000))
        with unavailable():
            return bool(self._redis.eval(_TAKE_DUTY, 1, duty_key(duty), name, term, _MOST[duty]))

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
