"""Redis clients, and Redis errors as `StoreUnavailable`.

With Sentinels, each new connection goes to the server that the Sentinels name then. Commands to a former primary server
fail, and are repeated like commands to a stopped server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis import Redis, asyncio
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from jobs.errors import StoreUnavailable
from jobs.redis_address import sentinels_of


def connect(url: str, *, timeout: float = 5.0, attempts: int = 3) -> Redis:
    """Create a client for a Redis URL; the first command opens the connection.

    A command fails after `timeout` seconds without an answer. The client does not retry after a timeout, because every
    retry would add the same delay. The client retries refused and broken connections up to `attempts` times, with
    growing pauses.
    """
    return client(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=min(timeout, 3.0),
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), attempts, supported_errors=(RedisConnectionError,)),
    )


def client(url: str, **options: Any) -> Redis:
    """Create a client with options of redis-py."""
    found = sentinels_of(url)
    if found is None:
        return Redis.from_url(url, **options)
    timeouts = _timeouts(options)
    sentinel: Any = Sentinel(found.hosts, sentinel_kwargs={**found.options, **timeouts}, **found.server_options)  # type: ignore[no-untyped-call]
    server: _Followed = sentinel.master_for(found.service, redis_class=_Followed, **options)
    server.sentinels = sentinel.sentinels
    return server


def asynchronous(url: str, **options: Any) -> asyncio.Redis:
    """Create an asynchronous client with options of redis-py."""
    found = sentinels_of(url)
    if found is None:
        return asyncio.Redis.from_url(url, **options)
    timeouts = _timeouts(options)
    sentinel: Any = asyncio.Sentinel(found.hosts, sentinel_kwargs={**found.options, **timeouts}, **found.server_options)  # type: ignore[no-untyped-call]
    server: _FollowedAsync = sentinel.master_for(found.service, redis_class=_FollowedAsync, **options)
    server.sentinels = sentinel.sentinels
    return server


class _Followed(Redis):
    """Client of a server that Sentinels name; closes the connections to the Sentinels, too.

    After a failover, redis-py's exceptions hold a client in a cycle. The garbage collector may then meet an open socket
    before the client that would close the socket. The opener of a client therefore closes the client.
    """

    sentinels: Sequence[Redis] = ()

    def close(self) -> None:
        super().close()
        for sentinel in self.sentinels:
            sentinel.close()


class _FollowedAsync(asyncio.Redis):
    """The same for asyncio."""

    sentinels: Sequence[asyncio.Redis] = ()

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        for sentinel in self.sentinels:
            await sentinel.aclose()


def _timeouts(options: dict[str, Any]) -> dict[str, Any]:
    """Timeouts of a Sentinel, which answers at once: those of the client, or its timeout of a connection."""
    seconds = options.get("socket_connect_timeout")
    return {"socket_timeout": options.get("socket_timeout", seconds), "socket_connect_timeout": seconds}


@contextmanager
def unavailable() -> Iterator[None]:
    """Raise Redis errors in the block as `StoreUnavailable`."""
    try:
        yield
    except RedisError as error:
        raise StoreUnavailable(
            f"Redis does not answer ({error or type(error).__name__}). Try again shortly."
        ) from error
