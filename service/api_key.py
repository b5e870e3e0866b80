"""The server's API key."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from jobs.settings import Settings


def configured(settings: Settings) -> str:
    """Return the server's API key; empty if none is set."""
    return settings.api_key.get_secret_value() if settings.api_key else ""


def matches(expected: bytes, candidates: Iterable[bytes]) -> bool:
    """Compare every candidate with the key in constant time, so that timing reveals nothing about the key."""
    return sum(hmac.compare_digest(candidate, expected) for candidate in candidates) > 0
