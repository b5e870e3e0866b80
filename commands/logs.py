"""Where log lines go, and how they look: lines for people, or a JSON document each, for machines that collect them."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from jobs.settings import Settings

_PROBES = ("/healthz", "/readyz", "/metrics")
_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str, ensure_ascii=False)


def _no_probe(record: logging.LogRecord) -> bool:
    """Health checks and scrapes come every few seconds, and say nothing."""
    return getattr(record, "path", None) not in _PROBES


def set_up(settings: Settings) -> None:
    """Send this process's log to the error stream, as the settings say."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(_Json())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(_no_probe)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    for quieter in ("httpx", "rq", "uvicorn"):
        logging.getLogger(quieter).setLevel(logging.WARNING)
