"""The id under which a request stands in the log: its caller's own, if that is harmless there, or a new one."""

from __future__ import annotations

import re
import secrets

HEADER = "x-request-id"
"""Of HTTP's header, and of gRPC's metadata, in which it comes and goes back."""
_HARMLESS = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id(given: str) -> str:
    """`given`, or an id of 16 hexadecimal digits."""
    return given if _HARMLESS.fullmatch(given) else secrets.token_hex(8)
