"""Request middleware: request id, access and audit log, security headers, answers to unhandled exceptions."""

from __future__ import annotations

import logging
import time
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import request_id as ids
from service.audit import Entry
from service.http.api_metrics import ApiMetrics
from service.http.problems import problem

log = logging.getLogger("service.http.access")
HEADERS = "headers"
"""Name of the request's state that holds further headers for whichever response the route creates."""
_SAFE = ("GET", "HEAD", "OPTIONS")
_METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS")
_LOGGED_PATH = 500
"""Maximum characters of a path in the log."""


class RequestMiddleware:
    """Outermost layer. Keeps the caller's `X-Request-ID` or creates an id, and returns the id in the response."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = ids.request_id(Headers(scope=scope).get(ids.HEADER, ""))
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status, received = 0, 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Referrer-Policy", "no-referrer")
                headers.update(scope["state"].get(HEADERS, {}))
            await send(message)

        try:
            await self.app(scope, receive_counted, send_with_headers)
        except Exception:
            log.exception("request %s failed", request_id)
            if status:
                raise  # the response has started: only a broken connection can report the error
            answer = problem(500, "Internal error", f"internal error; see the server's log for request {request_id}")
            await answer(scope, receive, send_with_headers)
        finally:
            self._record(scope, status, time.perf_counter() - started)
            if scope["method"] not in _SAFE:
                _audit(scope, status, received)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request and write its log line."""
        # The label is the route's pattern. Real paths would create an unbounded number of time series.
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.metrics.requests.labels(method, route, str(status)).observe(seconds)
        log.info(
            "%s %s %d %.0f ms",
            scope["method"],
            quote(scope["path"][:_LOGGED_PATH]),  # a decoded path may contain line breaks and terminal escapes
            status,
            1000 * seconds,
            extra={
                "request_id": scope["state"]["request_id"],
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "seconds": round(seconds, 4),
            },
        )


def _audit(scope: Scope, status: int, received: int) -> None:
    """Write the audit line of a request that may change something."""
    state = scope["state"]
    route = getattr(scope.get("route"), "path", quote(scope["path"]))
    client = scope.get("client")
    Entry(
        scope["method"],
        route,
        client[0] if client else "unix",
        state["request_id"],
        state.get("caller"),
        state.get("job_id") or scope.get("path_params", {}).get("job_id", ""),
        received,
    ).write(status)
