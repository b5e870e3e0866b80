"""The present call: its caller, and its entry for the audit log."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from service.audit import Entry
from service.callers import Caller

_ENTRY: Final[ContextVar[Entry]] = ContextVar("entry")


def begin(entry: Entry) -> None:
    """Set the entry of this call; `service.rpc.auth` does so before any code of a service runs."""
    _ENTRY.set(entry)


def entry() -> Entry:
    """The audit log's entry of this call. Raises LookupError outside of a call."""
    return _ENTRY.get()


def caller() -> Caller:
    """The caller of this call. Raises LookupError outside of a call."""
    found = entry().caller
    if found is None:
        raise LookupError("the call has no caller")
    return found
