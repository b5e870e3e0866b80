"""Idempotency keys: a repeated upload creates no second job (IETF draft-ietf-httpapi-idempotency-key-header).

An upload reserves its key for a minute and renews the reservation while bytes arrive. The key is free a minute after
the receiving process or Redis has failed. A job's key stays stored for a day.

The Redis key holds the SHA-256 of the client's key, because clients choose keys freely. The value is the job's id and
the upload's fingerprint, which tells a repetition from another upload with the same key. The value of a reserved key is
a random text: only the owner can renew or release the reservation.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, cast

from redis import Redis

from jobs.keys import idempotency_key

RENEW_SECONDS: Final = 15.0
"""Seconds between two renewals of a reservation."""
_RESERVED_SECONDS: Final = 60
_SETTLED_SECONDS: Final = 86400
_RESERVED: Final = b"under way "

_CHANGE: Final = """
-- KEYS[1]: the key; ARGV: the expected value, the new time to live in seconds (0: delete the key)
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end
return redis.call('EXPIRE', KEYS[1], ARGV[2])
"""


@dataclass(frozen=True)
class Reservation:
    """An upload's reserved key; the upload renews the reservation until it settles or releases the key."""

    key: str
    value: bytes = field(default_factory=lambda: _RESERVED + secrets.token_hex(8).encode())
    fingerprint: str = ""
    """Digest of the upload's file and options, known at the upload's end."""


@dataclass(frozen=True)
class Settled:
    """A key that belongs to a job."""

    key: str
    value: bytes

    @property
    def job_id(self) -> str:
        return self.value.partition(b" ")[0].decode()

    @property
    def fingerprint(self) -> str:
        """Digest of the upload's file and options; empty if unknown."""
        return self.value.partition(b" ")[2].decode()


def reserve(redis: Redis, key: str, owner: str = "") -> Reservation | Settled | None:
    """Reserve a key for an upload. Each owner, the id of an API key, has keys of its own.

    Returns:
        The reservation; or the key's job; or None if another upload has reserved the key.
    """
    if owner:
        key = f"{owner}\n{key}"  # no client's key has a line break
    reservation = Reservation(key)
    if redis.set(_name(key), reservation.value, nx=True, ex=_RESERVED_SECONDS):
        return reservation
    value = cast("bytes | None", redis.get(_name(key)))
    return None if value is None or value.startswith(_RESERVED) else Settled(key, value)


def renew(redis: Redis, reservation: Reservation) -> None:
    """Extend a reservation to a minute from now."""
    redis.eval(_CHANGE, 1, _name(reservation.key), reservation.value, _RESERVED_SECONDS)


def release(redis: Redis, reservation: Reservation) -> None:
    """Free a reserved key."""
    redis.eval(_CHANGE, 1, _name(reservation.key), reservation.value, 0)


def forget(redis: Redis, settled: Settled) -> None:
    """Free the key of a removed job."""
    redis.eval(_CHANGE, 1, _name(settled.key), settled.value, 0)


def settle(redis: Any, reservation: Reservation, job_id: str) -> None:
    """Store the job's id and the fingerprint under a reserved key; `redis` may be a pipeline."""
    redis.set(_name(reservation.key), f"{job_id} {reservation.fingerprint}".rstrip(), ex=_SETTLED_SECONDS)


def _name(key: str) -> str:
    return idempotency_key(sha256(key.encode()).hexdigest())
