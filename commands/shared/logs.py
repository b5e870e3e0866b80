"""Log output of a process: text lines for people, or one JSON document a line for log collectors."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime

from jobs.settings import Settings

_PROBES = ("/healthz", "/readyz", "/metrics")
_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

_TERMINAL = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
"""Characters that steer terminals or the direction of text; JSON leaves all but the C0 controls as they are."""


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
        text = json.dumps(document, default=str, ensure_ascii=False)
        return _TERMINAL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _not_a_probe(record: logging.LogRecord) -> bool:
    """Filter out health checks and metric scrapes, which arrive every few seconds."""
    return getattr(record, "path", None) not in _PROBES


def set_up(settings: Settings) -> None:
    """Send the log of this process to the error stream, with the settings' format and level."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(_Json())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(_not_a_probe)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("skipvsr.audit").setLevel(logging.INFO)  # the audit log has no severity
    for library in ("httpx", "rq", "uvicorn"):
        logging.getLogger(library).setLevel(logging.WARNING)
