"""API keys of requests: which caller a key belongs to. HTTP and gRPC ask here, before they read a message.

`SKIPVSR_API_KEY` is the administrator's key. `skipvsr keys` manages further keys (`service.key_file`). With neither,
the server is open to everybody.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from jobs.errors import KeysUnreadable, Unauthorized
from jobs.settings import Settings
from service.callers import ADMINISTRATOR, ANYBODY, Caller
from service.key_file import KeyFile, StoredKey, cookie_of

WRONG = "the API key is wrong"


def given_keys(headers: Iterable[tuple[str, bytes]]) -> list[bytes]:
    """The keys in headers with lower-case names, or in gRPC metadata."""
    found = []
    for name, value in headers:
        if name == "x-api-key":
            found.append(value.strip())
        elif name == "authorization" and value[:7].lower() == b"bearer ":
            found.append(value[7:].strip())
    return [key for key in found if key]


class ApiKeys:
    """The keys of one server process."""

    def __init__(self, settings: Settings) -> None:
        self._admin = settings.api_key.get_secret_value().encode() if settings.api_key else b""
        self._always = settings.require_api_key
        self._file = KeyFile.of(settings)

    @property
    def required(self) -> bool:
        """Whether requests need a key. A file without usable keys, or a damaged file, keeps the server closed."""
        try:
            return bool(self._always or self._admin or self._file.keys())
        except KeysUnreadable:
            return True

    def caller(self, given: Sequence[bytes], cookie: bytes = b"") -> Caller:
        """The caller with the one valid key among `given`; without any, the caller with the cookie.

        The time of the comparison reveals nothing about a key. Raises Unauthorized, or KeysUnreadable.
        """
        if not self.required:
            return replace(ANYBODY, confirm=self._confirm_open)
        found = {"": self._administrator()} if self._is_admin(given) else {}
        try:
            found |= {row.id: self._checked(row, f"{row.id}.{cookie_of(key)}") for key, row in self._rows(given)}
        except KeysUnreadable:
            if not found:
                raise
        if len(found) > 1:
            raise Unauthorized("the request carries two different API keys: send one key")
        caller = next(iter(found.values()), None) or self._with_cookie(cookie)
        if caller is None:
            raise Unauthorized(WRONG)
        return caller

    def _is_admin(self, given: Sequence[bytes]) -> bool:
        return bool(self._admin) and any(hmac.compare_digest(key, self._admin) for key in given)

    def _rows(self, given: Sequence[bytes]) -> list[tuple[bytes, StoredKey]]:
        return [(key, row) for key in given if (row := self._file.find(key))]

    def _with_cookie(self, cookie: bytes) -> Caller | None:
        if self._admin and hmac.compare_digest(cookie, cookie_of(self._admin).encode()):
            return self._administrator()
        row = self._file.find_cookie(cookie)
        return self._checked(row, cookie.decode()) if row else None

    def _administrator(self) -> Caller:
        return replace(ADMINISTRATOR, cookie=cookie_of(self._admin))

    def _confirm_open(self) -> None:
        if self.required:
            raise Unauthorized("this server needs an API key now: ask the server's administrator for a key")

    def _checked(self, row: StoredKey, cookie: str) -> Caller:
        """The caller with this row's key. Raises Unauthorized if the key is no longer usable."""
        if row.state == "revoked":
            raise Unauthorized("this API key has been revoked: ask the server's administrator for another key")
        if row.state == "expired":
            raise Unauthorized("this API key has expired: ask the server's administrator for another key")
        return Caller(row.id, row.name, frozenset(row.scopes), row.limits, cookie, partial(self._confirm, row.id))

    def _confirm(self, key_id: str) -> None:
        row = self._file.keys().get(key_id)
        if row is None:
            raise Unauthorized(WRONG)
        self._checked(row, "")
