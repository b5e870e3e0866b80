"""Lines of the log that are about one job."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any


class JobLog(logging.LoggerAdapter[logging.Logger]):
    """A log whose lines begin with the job's id for people, and have it as a field, `job_id`, for machines."""

    def __init__(self, log: logging.Logger, job_id: str) -> None:
        super().__init__(log)
        self._job_id = job_id

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the id; what a line says besides is kept."""
        return f"job {self._job_id}: {msg}", {**kwargs, "extra": {"job_id": self._job_id, **kwargs.get("extra", {})}}
