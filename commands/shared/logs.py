"""Log output of a process: text lines for people, or one JSON document a line for log collectors."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, Final

from jobs.settings import Settings

NAMED: Final = "_SKIPVSR_DATA_FOLDER_NAMED"
"""Set for the children of `skipvsr up`, which prints the data folder itself."""
log = logging.getLogger(__name__)
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
        return escaped(json.dumps(document, default=str, ensure_ascii=False))


class _Text(logging.Formatter):
    """One line for each record. The lines of a traceback are indented: no line of a traceback looks like a record."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escaped(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return "\n".join(f"  {escaped(line)}" for line in super().formatException(ei).split("\n"))


def escaped(text: str) -> str:
    """Replace control characters of terminals and of text direction by their escape sequences in JSON."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _not_a_probe(record: logging.LogRecord) -> bool:
    """Filter out health checks and metric scrapes, which arrive every few seconds."""
    return getattr(record, "path", None) not in _PROBES


def set_up(settings: Settings) -> None:
    """Send the log of this process to the error stream, with the settings' format and level."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(_Json())
    else:
        handler.setFormatter(_Text("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(_not_a_probe)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("skipvsr.audit").setLevel(logging.INFO)  # the audit log has no severity
    for library in ("httpx", "rq", "uvicorn"):
        logging.getLogger(library).setLevel(logging.WARNING)


def name_data_folder(settings: Settings) -> None:
    """Log the path of this process's data folder, unless the parent process has logged the path."""
    if NAMED not in os.environ:
        log.info("data folder: %s", settings.data_dir.absolute())
