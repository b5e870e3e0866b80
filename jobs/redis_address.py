"""Where Redis is: one server, or the server that Sentinels name.

    redis://[user:password@]host[:port]/[database]
    rediss://…                                                             TLS
    unix://[user:password@]/path
    redis+sentinel://[user:password@]host[:port],host[:port]/name[/database]    rediss+sentinel://… with TLS

The options `sentinel_username` and `sentinel_password` of such a URL (`?sentinel_password=…`) are for the Sentinels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

_SENTINEL: Final = "+sentinel"
_SENTINEL_PORT: Final = 26379
_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")


@dataclass(frozen=True)
class Sentinels:
    """Sentinels, and the server that they name."""

    hosts: list[tuple[str, int]]
    service: str
    options: dict[str, Any] = field(repr=False)
    """Options of connections to Sentinels."""
    server_options: dict[str, Any] = field(repr=False)
    """Options of connections to the server."""


def sentinels_of(url: str) -> Sentinels | None:
    """The Sentinels of a URL; None for the URL of a server. Raises ValueError, without the URL's password."""
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"is no URL of Redis: begin with {', '.join(f'{scheme}://' for scheme in _SCHEMES)}")
    if not parts.scheme.endswith(_SENTINEL):
        return None
    from redis.connection import parse_url  # here: it takes as long as all other imports of the settings together

    user, _, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    if not (service and hosts):
        raise ValueError("names no server: write redis+sentinel://host:26379,host:26379/name")
    scheme = parts.scheme.removesuffix(_SENTINEL)
    server: dict[str, Any] = parse_url(f"{scheme}://{user + '@' if user else ''}server/{database}?{parts.query}")  # type: ignore[no-untyped-call]
    del server["host"]
    tls = {"ssl": True} if server.pop("connection_class", None) else {}
    own = {name: server.pop(f"sentinel_{name}") for name in ("username", "password") if f"sentinel_{name}" in server}
    files = {name: value for name, value in server.items() if name.startswith("ssl_")}
    return Sentinels([_host(text) for text in hosts.split(",")], service, {**own, **files, **tls}, {**server, **tls})


def with_tls_files(url: str, **files: Path | None) -> str:
    """A URL with TLS and the paths of `ca_certs`, `certfile` and `keyfile`; a URL without TLS stays the same."""
    given = {f"ssl_{name}": str(path) for name, path in files.items() if path is not None}
    if not given or not urlsplit(url).scheme.startswith("rediss"):
        return url
    return f"{url}{'&' if '?' in url else '?'}{urlencode(given, quote_via=quote)}"


def _host(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("names an empty host")
    return parts.hostname, parts.port or _SENTINEL_PORT
