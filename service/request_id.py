"""Request ids for the log."""

from __future__ import annotations

import re
import secrets

HEADER = "x-request-id"
"""Name of the HTTP header, and of the key in gRPC metadata."""
_HARMLESS = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id(given: str) -> str:
    """Return `given` if safe to log, else a new id of 16 hexadecimal digits."""
    return given if _HARMLESS.fullmatch(given) else secrets.token_hex(8)
