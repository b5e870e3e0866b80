"""Around every request: an id, one line in the log, a problem document for a crash, and careful headers."""

from __future__ import annotations

import logging
import time
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import request_id as ids
from service.http.metrics import HttpMetrics
from service.http.problems import problem

log = logging.getLogger("service.http.access")
_METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS")
_LOGGED_PATH = 500
"""Characters of a path that the log's line has at most."""


class RequestMiddleware:
    """The outermost layer. Takes over a caller's `X-Request-ID`, or makes one, and returns it."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = ids.request_id(Headers(scope=scope).get(ids.HEADER, ""))
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Referrer-Policy", "no-referrer")
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception:
            log.exception("request %s failed", request_id)
            if status:
                raise  # the answer had begun: only breaking the connection tells the client
            answer = problem(
                500, "Internal error", f"an error in the server; its log has the details (request {request_id})"
            )
            await answer(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "none")  # the pattern: paths would make endless labels
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self.metrics.requests.labels(method, route, str(status)).observe(seconds)
            log.info(
                "%s %s %d %.0f ms",
                scope["method"],
                quote(scope["path"][:_LOGGED_PATH]),  # decoded it may hold line breaks, and what terminals obey
                status,
                1000 * seconds,
                extra={
                    "request_id": request_id,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "seconds": round(seconds, 4),
                },
            )
