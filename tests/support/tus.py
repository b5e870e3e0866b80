"""A small tus client: one function for each request."""

from __future__ import annotations

import base64
import hashlib

import httpx

from tests.support.http_server import Service

TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {"Content-Type": "application/offset+octet-stream"}


def metadata(name: str) -> str:
    return f"filename {base64.b64encode(name.encode()).decode()}"


def checksum(algorithm: str, data: bytes) -> dict[str, str]:
    digest = base64.b64encode(hashlib.new(algorithm, data).digest()).decode()
    return {"Upload-Checksum": f"{algorithm} {digest}"}


def create(service: Service, length: int, **headers: str) -> str:
    """Create an upload; return its address."""
    answer = service.client.post("/uploads", headers={**TUS, "Upload-Length": str(length), **headers})
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


def patch(service: Service, address: str, offset: int, data: bytes, **headers: str) -> httpx.Response:
    sent = {**TUS, **BYTES, "Upload-Offset": str(offset), **headers}
    return service.client.patch(address, content=data, headers=sent)


def offset(service: Service, address: str) -> int:
    answer = service.client.head(address, headers=TUS)
    assert answer.status_code == 200, answer.headers
    return int(answer.headers["upload-offset"])


def whole(service: Service, data: bytes, name: str = "a.mp4") -> str:
    """Upload data; return the upload's id."""
    address = create(service, len(data), **{"Upload-Metadata": metadata(name)})
    assert patch(service, address, 0, data).status_code == 204
    return address.rpartition("/")[2]


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["type"]
