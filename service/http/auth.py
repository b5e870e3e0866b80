"""Access control: API keys and scopes, protection against DNS rebinding and cross-site requests."""

from __future__ import annotations

import socket
from functools import cache
from ipaddress import ip_address
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.exceptions import HTTPException

from jobs.errors import KeysUnreadable, Unauthorized
from jobs.settings import Settings
from service.api_key import given_keys
from service.callers import Caller, Scope
from service.http.dependencies import KeysDep, OperationsDep, SettingsDep
from service.operations import Operations

COOKIE = "skipvsr_read"
"""Cookie with a token of an API key, for video and download requests of the page: these requests send no headers.

The token only reads the key's own jobs, and does not reveal the key.
"""
_SAFE = ("GET", "HEAD")
_PORTS = {"http": ":80", "https": ":443"}
"""Default ports, which browsers leave out."""
_LOCAL = (".localhost", ".local", ".localdomain", ".internal", ".lan", ".home", ".home.arpa")
"""Suffixes that public DNS does not delegate."""

_bearer = HTTPBearer(
    auto_error=False,
    description="A key of `skipvsr keys add`, or the administrator's key, `SKIPVSR_API_KEY`. Not needed if the server "
    "has no keys. A key may read, submit or both, and sees its own jobs only.",
)
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key, in a separate header.")


def require_key(
    request: Request,
    keys: KeysDep,
    _in_bearer: Annotated[object, Depends(_bearer)],
    _in_header: Annotated[object, Depends(_header)],
) -> Caller:
    """The request's caller. Raises Unauthorized if the server has API keys and the request carries none of them.

    The cookie is accepted for GET and HEAD only: browsers also attach cookies to forms posted by other sites. The
    cookie of an earlier key never stands in for a wrong `X-API-Key`.
    """
    headers = [(name.decode("latin-1"), value) for name, value in request.headers.raw]
    # Clients encode the key as UTF-8 (curl) or as Latin-1 (browsers).
    given = [variant for key in given_keys(headers) for variant in {key, key.decode("latin-1").encode()}]
    cookie = request.cookies.get(COOKIE, "") if request.method in _SAFE and "x-api-key" not in request.headers else ""
    if not given and not cookie and keys.required:
        raise Unauthorized("this server needs its API key: send Authorization: Bearer <key>, or X-API-Key: <key>")
    caller = keys.caller(given, cookie.encode())
    request.state.caller = caller  # for the audit log
    return caller


CallerDep = Annotated[Caller, Depends(require_key)]


def needs(scope: Scope) -> Any:
    """A dependency that raises Forbidden if the caller's key lacks a scope."""

    def check(caller: CallerDep) -> None:
        caller.require(scope)

    return Depends(check)


def jobs_of(operations: OperationsDep, caller: CallerDep) -> Operations:
    """The operations of the request's caller."""
    return operations.for_caller(caller)


JobsDep = Annotated[Operations, Depends(jobs_of)]


def is_admin(
    request: Request,
    keys: KeysDep,
    in_bearer: Annotated[object, Depends(_bearer)],
    in_header: Annotated[object, Depends(_header)],
) -> bool:
    """Whether the request carries the key of an administrator."""
    try:
        return require_key(request, keys, in_bearer, in_header).admin
    except (Unauthorized, KeysUnreadable):
        return False


def known_name(request: Request, settings: SettingsDep, keys: KeysDep) -> None:
    """Refuse requests for unknown public host names with 403, if the server has no API key.

    DNS rebinding: a web site can point its own name at this machine, and browsers then treat its requests as
    same-site. IP addresses, local names and the names in `http_names` cannot be abused like this.
    """
    if keys.required:
        return
    name = _host_name(request.headers.get("host", ""))
    if "." not in name or _is_address(name) or name.endswith(_LOCAL) or name in (*_names(settings), _own_name()):
        return
    raise HTTPException(
        403,
        f"the host name {name} is not known to this server, so the request may come from another web site; "
        f"set SKIPVSR_HTTP_NAMES={name} to allow the name, or set SKIPVSR_API_KEY",
    )


def same_site(request: Request, settings: SettingsDep) -> None:
    """Refuse state-changing requests that other web sites trigger in a visitor's browser, with 403.

    Browsers send `Origin` with every such request, but `Sec-Fetch-Site` only to HTTPS and local addresses.
    """
    if request.method in _SAFE:
        return
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    foreign = origin is not None and not _is_own(origin, host, settings)
    if foreign or request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise HTTPException(
            403,
            "requests from other web sites are not allowed; behind a proxy, make the proxy pass the Host header, or "
            "set SKIPVSR_HTTP_NAMES to the name in the browser's address bar",
        )


def _is_own(origin: str, host: str, settings: Settings) -> bool:
    """Whether an Origin is this server's: the request's Host, or a name in `http_names`."""
    scheme, _, given = origin.lower().partition("://")
    if scheme not in _PORTS:
        return False  # `null`, or a program's own scheme
    port = _PORTS[scheme]
    return given.removesuffix(port) == host.lower().removesuffix(port) or _host_name(given) in _names(settings)


def _names(settings: Settings) -> list[str]:
    return [name for given in settings.http_names.split(",") if (name := given.strip().lower())]


def _host_name(host: str) -> str:
    """Return the lower-case name or address of a Host header, without port, brackets or trailing dot."""
    host = host.lower()
    if host.startswith("["):
        return host.partition("]")[0].lstrip("[").rstrip(".")
    return host.partition(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


@cache
def _own_name() -> str:
    return socket.getfqdn().lower()
