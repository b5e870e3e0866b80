"""A job's document as a hash in Redis."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from pydantic_core import to_jsonable_python

from jobs.schema import STORED, Job

_PLAIN: Final = frozenset({"state", "token", "beat", "request", "ticket", "attempt", "deaths", "died_at", "died_there"})
"""Fields that scripts read or count: stored as they are, all others as JSON."""
_DOCUMENT: Final = frozenset(Job.model_fields)


def encode(name: str, value: Any) -> str:
    """A field's value as it is stored."""
    return str(value) if name in _PLAIN else json.dumps(to_jsonable_python(value))


def to_hash(job: Job) -> dict[str, str]:
    """All fields of a document."""
    return {name: encode(name, getattr(job, name)) for name in _DOCUMENT}


def from_hash(raw: dict[bytes, bytes]) -> Job:
    """The document in a hash, whatever else is in there."""
    texts = {name.decode(): value.decode() for name, value in raw.items()}
    plain: Callable[[str], bool] = _PLAIN.__contains__
    return Job.model_validate(
        {name: text if plain(name) else json.loads(text) for name, text in texts.items() if name in _DOCUMENT},
        context=STORED,
    )
