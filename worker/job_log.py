"""Log lines about one job."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any


class JobLog(logging.LoggerAdapter[logging.Logger]):
    """A log that adds the job's id to each line: as a prefix for people, and as the field `job_id` for programs."""

    def __init__(self, log: logging.Logger, job_id: str) -> None:
        super().__init__(log)
        self._job_id = job_id

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the id to a line, and keep the line's other fields."""
        return f"job {self._job_id}: {msg}", {**kwargs, "extra": {"job_id": self._job_id, **kwargs.get("extra", {})}}
