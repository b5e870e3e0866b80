"""Idempotency keys: an upload that is sent again makes no second job (IETF draft-ietf-httpapi-idempotency-key-header).

A key is reserved for a minute, which is renewed while its upload comes in: so it is free again soon after the process
that received it, or Redis, has gone away. The job that came of it is written down with the job itself, for a day.

Keys: `skipvsr:once:<SHA-256 of the key>`, hashed, for clients choose them. The value is the job's id, or, while it is
reserved, whose it is: nobody renews or drops what has become another's meanwhile.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, cast

from redis import Redis

RENEW_SECONDS: Final = 15.0
"""How often a reservation is to be renewed."""
_RESERVED_SECONDS: Final = 60
_KNOWN_SECONDS: Final = 86400
_RESERVED: Final = b"under way "

_CHANGE: Final = """
-- KEYS[1] the key; ARGV: the value it must have, seconds from now on (0: remove it)
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end
return redis.call('EXPIRE', KEYS[1], ARGV[2])
"""


@dataclass(frozen=True)
class Reservation:
    """A key that this upload has, to be renewed until it is settled or released."""

    key: str
    value: bytes = field(default_factory=lambda: _RESERVED + secrets.token_hex(8).encode())


def reserve(redis: Redis, key: str) -> Reservation | str | None:
    """Reserve a key for an upload; or the job that it has led to; or None where another upload has it."""
    reservation = Reservation(key)
    if redis.set(_name(key), reservation.value, nx=True, ex=_RESERVED_SECONDS):
        return reservation
    value = cast("bytes | None", redis.get(_name(key)))
    return None if value is None or value.startswith(_RESERVED) else value.decode()


def renew(redis: Redis, reservation: Reservation) -> None:
    """Reserve it for a minute from now."""
    redis.eval(_CHANGE, 1, _name(reservation.key), reservation.value, _RESERVED_SECONDS)


def release(redis: Redis, reservation: Reservation) -> None:
    """Let a reserved key be used again."""
    redis.eval(_CHANGE, 1, _name(reservation.key), reservation.value, 0)


def forget(redis: Redis, key: str, job_id: str) -> None:
    """Let a key be used again that has led to a job which is gone."""
    redis.eval(_CHANGE, 1, _name(key), job_id, 0)


def settle(redis: Any, reservation: Reservation, job_id: str) -> None:
    """Write down what job a key has led to; `redis` may be a pipeline."""
    redis.set(_name(reservation.key), job_id, ex=_KNOWN_SECONDS)


def _name(key: str) -> str:
    return f"skipvsr:once:{sha256(key.encode()).hexdigest()}"
