"""The audit log: a line for each request that makes a change, and for each refused attempt."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from service.callers import Caller

log = logging.getLogger("skipvsr.audit")
_LONGEST: Final = 200
"""Maximum characters of a field that a client chooses."""


@dataclass
class Entry:
    """An entry of the audit log, about a request. Fields may change until the entry is written."""

    method: str
    """HTTP method, or gRPC."""
    route: str
    """Pattern of the path, or name of the RPC."""
    remote: str
    request_id: str = ""
    caller: Caller | None = None
    """None: no valid key."""
    job_id: str = ""
    bytes: int = 0
    written: bool = False

    def write(self, status: object) -> None:
        """Write the line, once."""
        if self.written:
            return
        self.written = True
        fields: dict[str, object] = {
            "method": self.method,
            "route": self.route,
            "status": status,
            "key_id": self.caller.key_id if self.caller else "",
            "key_name": self.caller.name if self.caller else "",
            "remote": self.remote,
            "job_id": self.job_id,
            "bytes": self.bytes,
            "request_id": self.request_id,
        }
        harmless = {name: _harmless(value) for name, value in fields.items()}
        log.info(" ".join(f"{name}={_quoted(value)}" for name, value in harmless.items()), extra=harmless)


def _harmless(value: object) -> object:
    """The value; text is shortened, and its control characters are escaped."""
    if not isinstance(value, str):
        return value
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in value[:_LONGEST])


def _quoted(value: object) -> str:
    text = str(value)
    plain = text and not set(text) & set(" \"'=")
    return text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
