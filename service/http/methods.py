"""Methods of HTTP beyond the routes' own: HEAD everywhere GET is, OPTIONS, and the `Allow` of a path."""

from __future__ import annotations

from anyio.lowlevel import cancel_shielded_checkpoint
from fastapi.routing import iter_route_contexts
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send


def allowed(scope: Scope) -> list[str]:
    """Return the methods that the path of a request supports, sorted; nothing for an unknown path."""
    found: set[str] = set()
    for route in iter_route_contexts(scope["app"].routes):
        if route.matches(scope)[0] is not Match.NONE:
            found |= route.methods or set()
    if "GET" in found:
        found.add("HEAD")
    return sorted(found | {"OPTIONS"}) if found else []


class HeadMiddleware:
    """Answers HEAD with the head of the answer to GET, unless the path has a route of its own for HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or _has_own_route(scope):
            await self.app(scope, receive, send)
            return
        complete = False

        async def send_head(message: Message) -> None:
            nonlocal complete
            if complete:
                await cancel_shielded_checkpoint()  # the stream ends where it waits itself, and cleans up at once
                return
            if message["type"] == "http.response.body":
                # The end of the answer also ends an endless stream: the server then reports a disconnected client.
                message, complete = {"type": "http.response.body", "body": b""}, True
            await send(message)

        scope["method"] = "GET"
        try:
            await self.app(scope, receive, send_head)
        finally:
            scope["method"] = "HEAD"  # for the log


def _has_own_route(scope: Scope) -> bool:
    return any(route.matches(scope)[0] is Match.FULL for route in iter_route_contexts(scope["app"].routes))
