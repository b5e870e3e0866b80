"""The Redis client, and Redis errors as `StoreUnavailable`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from jobs.errors import StoreUnavailable


def connect(url: str, *, timeout: float = 5.0, attempts: int = 3) -> Redis:
    """Create a client for a Redis URL; the first command opens the connection.

    A command fails after `timeout` seconds without an answer. The client does not retry after a timeout, because every
    retry would add the same delay. The client retries refused and broken connections up to `attempts` times, with
    growing pauses.
    """
    return Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=min(timeout, 3.0),
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), attempts, supported_errors=(RedisConnectionError,)),
    )


@contextmanager
def unavailable() -> Iterator[None]:
    """Raise Redis errors in the block as `StoreUnavailable`."""
    try:
        yield
    except RedisError as error:
        raise StoreUnavailable(
            f"Redis does not answer ({error or type(error).__name__}). Try again shortly."
        ) from error
