"""Where a server of ours is asked: its settings say what it listens on."""

from __future__ import annotations


def address(host: str, port: int) -> str:
    """`host:port` of a server that listens on `host`, for a client on the same machine."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (compared, not bound)
    return f"[{here}]:{port}" if ":" in here else f"{here}:{port}"
