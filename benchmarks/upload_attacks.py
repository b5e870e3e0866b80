"""Attacks on resumable uploads, by clients that hold the API key."""

from __future__ import annotations

import hashlib
import socket
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import httpx

from benchmarks.targets import KEY, Target, in_parallel

_CLIP: Final = Path(__file__).parents[1] / "examples" / "clip.mp4"
_HEADERS: Final = {"X-API-Key": KEY, "Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
_SECONDS: Final = 10.0
_DRIP_SECONDS: Final = 25.0
_CLIENTS: Final = 8


def tiny_patches(server: Target) -> list[str]:
    """Eight clients send one byte in each PATCH, for ten seconds."""

    def attack(client: httpx.Client, until: float) -> int:
        address, sent = _create(client, 1_000_000), 0
        while time.monotonic() < until:
            sent += _patch(client, address, sent, b"x").status_code == httpx.codes.NO_CONTENT
        return sent

    return [f"{sum(_for_seconds(server, attack)):,} bytes"]


def announcements(server: Target) -> list[str]:
    """Eight clients announce 4 GB as often as they can, for ten seconds; another client then sends a clip."""

    def attack(client: httpx.Client, until: float) -> int:
        count = 0
        while time.monotonic() < until:
            answer = client.post("/uploads", headers=_HEADERS | {"Upload-Length": "4000000000"})
            count += answer.status_code == httpx.codes.CREATED
        return count

    opened = sum(_for_seconds(server, attack))
    return [f"{opened} open", f"other upload: {_other_upload(server)}"]


def slow_patches(server: Target) -> list[str]:
    """20 PATCHes of 4 GB send a byte each second; another client sends a clip until the clip is accepted."""
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=f"http://{server.address}", timeout=30))
        attackers = []
        for _ in range(20):
            head = f"PATCH {_create(client, 4_000_000_000)} HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000000\r\n"
            head += "".join(f"{name}: {value}\r\n" for name, value in _HEADERS.items()) + "Upload-Offset: 0\r\n\r\n"
            attackers.append(stack.enter_context(socket.create_connection(("127.0.0.1", server.port))))
            attackers[-1].sendall(head.encode())
        begun, said = time.monotonic(), 0
        while time.monotonic() - begun < _DRIP_SECONDS and said != httpx.codes.ACCEPTED:
            for attacker in attackers:
                with suppress(OSError):
                    attacker.sendall(b"x")
            said = _other_upload(server)
            time.sleep(1)
    return [f"other upload: {said} after {time.monotonic() - begun:.0f} s"]


def wrong_checksums(server: Target) -> list[str]:
    """Eight clients send a MiB with a wrong checksum in each PATCH, for ten seconds."""
    wrong = {"Upload-Checksum": f"sha256 {b64encode(hashlib.sha256(b'').digest()).decode()}"}
    data = bytes(1 << 20)

    def attack(client: httpx.Client, until: float) -> int:
        address, count = _create(client, 1_000_000_000), 0
        while time.monotonic() < until:
            count += _patch(client, address, 0, data, **wrong).status_code == 460
        return count

    return [f"{sum(_for_seconds(server, attack)):,} × 460"]


def _for_seconds(server: Target, attack: Callable[[httpx.Client, float], int]) -> list[int]:
    until = time.monotonic() + _SECONDS

    def run(_: int) -> str:
        with httpx.Client(base_url=f"http://{server.address}", timeout=30) as client:
            return str(attack(client, until))

    return [int(count) for count in in_parallel(_CLIENTS, run)]


def _create(client: httpx.Client, length: int) -> str:
    headers = _HEADERS | {"Upload-Length": str(length)}
    del headers["Content-Type"]
    return client.post("/uploads", headers=headers).raise_for_status().headers["location"]


def _patch(client: httpx.Client, address: str, offset: int, data: bytes, **more: str) -> httpx.Response:
    return client.patch(address, content=data, headers=_HEADERS | {"Upload-Offset": str(offset)} | more)


def _other_upload(server: Target) -> int:
    """Status of another client's upload of a clip."""
    with _CLIP.open("rb") as file:
        return httpx.post(
            f"http://{server.address}/upscale", files={"file": file}, headers={"X-API-Key": KEY}, timeout=30
        ).status_code
