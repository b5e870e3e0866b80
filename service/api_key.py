"""API keys of requests: which caller a key belongs to. HTTP and gRPC ask here, before they read a message.

`SKIPVSR_API_KEY` is the administrator's key. `skipvsr keys` manages further keys (`service.key_file`). With neither,
the server is open to everybody.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from jobs.errors import KeysUnreadable, Unauthorized
from jobs.settings import Settings
from service.callers import ADMINISTRATOR, ANYBODY, Caller
from service.key_file import KeyFile, StoredKey, cookie_of

WRONG = "the API key is wrong"


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
        """The caller with one of the keys `given`, or with the cookie.

        The time of the comparison reveals nothing about a key. Raises Unauthorized, or KeysUnreadable.
        """
        if not self.required:
            return ANYBODY
        if self._is_admin(given, cookie):
            return replace(ADMINISTRATOR, cookie=cookie_of(self._admin))
        for key in given:
            if row := self._file.find(key):
                return self._checked(row, f"{row.id}.{cookie_of(key)}")
        if row := self._file.find_cookie(cookie):
            return self._checked(row, cookie.decode())
        raise Unauthorized(WRONG)

    def _is_admin(self, given: Sequence[bytes], cookie: bytes) -> bool:
        if not self._admin:
            return False
        matches = [hmac.compare_digest(key, self._admin) for key in given]
        return any([*matches, hmac.compare_digest(cookie, cookie_of(self._admin).encode())])

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
