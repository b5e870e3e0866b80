"""Who may use the API: everybody, or, where `api_key` is set, whoever has the key."""

from __future__ import annotations

import hmac
import socket
from functools import cache
from ipaddress import ip_address
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
_LOCAL = (".localhost", ".local", ".localdomain", ".internal", ".lan", ".home", ".home.arpa")
"""Ends of names that public DNS does not give to anybody."""

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


def known_name(request: Request, settings: SettingsDep) -> None:
    """Refuse requests for a name that may be anybody's (403), where no key is set.

    A web page can have its own name lead to this machine (DNS rebinding), and what its visitor's browser then sends
    counts as the page's own. It can't do so with addresses, or with names that only a local network gives.
    """
    if settings.api_key is not None and settings.api_key.get_secret_value():
        return
    host = request.headers.get("host", "").lower()
    name = (host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]).rstrip(".")
    ours = [given.strip().lower() for given in settings.http_names.split(",")]
    if "." not in name or _is_address(name) or name.endswith(_LOCAL) or name in (*ours, _here()):
        return
    raise HTTPException(
        403,
        f"this server does not know that {name} is a name of its own, so another web site may be behind the request; "
        f"set SKIPVSR_HTTP_NAMES={name} if it is, or SKIPVSR_API_KEY",
    )


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


@cache
def _here() -> str:
    return socket.getfqdn().lower()


def same_site(request: Request) -> None:
    """Refuse what another web site makes a visitor's browser send to this server (403)."""
    if request.method not in _SAFE and request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise HTTPException(403, "requests from other web sites are not taken")
