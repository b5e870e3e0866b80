"""A job document as a Redis hash."""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic_core import to_jsonable_python

from jobs.schema import STORED, Job

_PLAIN: Final = frozenset(
    {"state", "owner", "token", "beat", "request", "ticket", "attempt", "deaths", "died_at", "died_there"}
)
"""Fields that the Lua scripts read or increment; the hash holds these as plain text and all others as JSON."""
_DOCUMENT: Final = frozenset(Job.model_fields) - {"queue"}
"""Fields that the hash holds. A place in the queue is computed at each reading."""


def encode(name: str, value: Any) -> str:
    """Text of a field's value in the hash."""
    return str(value) if name in _PLAIN else json.dumps(to_jsonable_python(value))


def to_hash(job: Job) -> dict[str, str]:
    """Fields of a job document as hash fields. A request is pending at a running job only, and no job starts so."""
    return {name: encode(name, getattr(job, name)) for name in _DOCUMENT if name != "request"}


def from_hash(raw: dict[bytes, bytes]) -> Job:
    """Job document in a hash; fields that only the store uses are ignored."""
    texts = {name.decode(): value.decode() for name, value in raw.items()}
    document = {name: text if name in _PLAIN else json.loads(text) for name, text in texts.items() if name in _DOCUMENT}
    if "changed" in texts:  # the number of the last change is its time in microseconds
        document["updated_at"] = int(texts["changed"]) / 1_000_000
    return Job.model_validate(document, context=STORED)
