"""Idempotency keys: an upload that is sent again makes no second job (IETF draft-ietf-httpapi-idempotency-key-header).

A key is reserved for seconds, which are renewed while its upload comes in: so it is free again soon after the process
that received it, or Redis, has gone away. The job that came of it is written down with the job itself, for a day.

Keys: `skipvsr:once:<SHA-256 of the key>`, hashed, for clients choose them.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final, cast

from redis import Redis

RESERVED_SECONDS: Final = 60
RENEW_SECONDS: Final = 15
"""How often a reservation is to be renewed."""
_KNOWN_SECONDS: Final = 86400
_UNDER_WAY: Final = b"under way"


def reserve(redis: Redis, key: str) -> bool:
    """Reserve a key for an upload; False if it is reserved, or has led to a job."""
    return bool(redis.set(_name(key), _UNDER_WAY, nx=True, ex=RESERVED_SECONDS))


def renew(redis: Redis, key: str) -> None:
    """Reserve it for that long from now. A key that has led to a job is left as it is: that is kept for longer."""
    redis.expire(_name(key), RESERVED_SECONDS, gt=True)


def release(redis: Redis, key: str) -> None:
    """Let a reserved key be used again."""
    redis.delete(_name(key))


def job_of(redis: Redis, key: str) -> str | None:
    """The job that a key has led to; None while it is reserved."""
    value = cast("bytes | None", redis.get(_name(key)))
    return None if value is None or value == _UNDER_WAY else value.decode()


def settle(redis: Any, key: str, job_id: str) -> None:
    """Write down what job a key has led to; `redis` may be a pipeline."""
    redis.set(_name(key), job_id, ex=_KNOWN_SECONDS)


def _name(key: str) -> str:
    return f"skipvsr:once:{sha256(key.encode()).hexdigest()}"
