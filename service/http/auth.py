"""Who may use the API: everybody, or, where `api_key` is set, whoever has the key."""

from __future__ import annotations

import hmac
from typing import Annotated
from urllib.parse import unquote

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from jobs.errors import Unauthorized
from service.http.dependencies import SettingsDep

COOKIE = "skipvsr_key"
"""Set by the web page, so that the browser's own requests (video, download) carry the key."""
_SAFE = ("GET", "HEAD")

_bearer = HTTPBearer(
    auto_error=False, description="The key that `SKIPVSR_API_KEY` sets; none is needed where it is empty."
)
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key in a header of its own.")


def require_key(
    request: Request,
    settings: SettingsDep,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    header: Annotated[str | None, Depends(_header)],
) -> None:
    """Raise Unauthorized unless the request carries the key, where one is set.

    A cookie counts for reading only: it would be sent along by a form on any web page.
    """
    if settings.api_key is None or not settings.api_key.get_secret_value():
        return
    expected = settings.api_key.get_secret_value().encode()
    cookie = unquote(request.cookies.get(COOKIE, "")) if request.method in _SAFE else ""
    headers = [bearer.credentials if bearer else "", header or ""]
    # A header's bytes come one letter each. They are the key in UTF-8 (curl), or in Latin-1 (browsers, most libraries).
    given = [cookie.encode(), *(h.encode("latin-1") for h in headers), *(h.encode() for h in headers)]
    if not any(given):
        raise Unauthorized("this server needs its API key: Authorization: Bearer <key>, or X-API-Key: <key>")
    # Every candidate is compared, each in constant time, so that the answer's timing tells nothing.
    if not sum(hmac.compare_digest(key, expected) for key in given):
        raise Unauthorized("the API key is wrong")


def same_site(request: Request) -> None:
    """Refuse what another web site makes a visitor's browser send to this server (403)."""
    if request.method not in _SAFE and request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise HTTPException(403, "requests from other web sites are not taken")
