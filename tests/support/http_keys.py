"""Requests with API keys over HTTP."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.support.http_server import Service

TUS = {
    "Tus-Resumable": "1.0.0",
    "Content-Type": "application/offset+octet-stream",
    "Upload-Length": "5",
    "Upload-Offset": "0",
    "X-HTTP-Method-Override": "HEAD",
}


def ask(service: Service, method: str, path: str, key: str, clip: Path | None = None, **headers: str) -> httpx.Response:
    if path.startswith("/uploads") or method == "PUT":
        content = clip.read_bytes() if clip else b""
        return service.client.request(method, path, content=content, headers={"X-API-Key": key} | TUS if key else TUS)
    files = {"file": ("clip.mp4", clip.read_bytes())} if clip else None
    path += "?view=source&t=0" if path.endswith("/preview") else ""
    if method == "GET" and path.endswith("/events"):
        with service.client.stream(method, path, headers={"X-API-Key": key} | headers if key else headers) as answer:
            if not answer.is_success:
                answer.read()
            return answer  # an event stream has no end
    return service.client.request(method, path, files=files, headers={"X-API-Key": key} | headers if key else headers)
