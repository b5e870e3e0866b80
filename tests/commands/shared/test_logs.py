"""The log: readable lines, or JSON; health checks stay out of it."""

from __future__ import annotations

import json
import logging

import pytest

from commands.shared.logs import set_up
from jobs.settings import Settings
from worker.job_log import JobLog


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(Settings(log_format="json"))
    log = logging.getLogger("some.module")
    log.info("job %s: done", "ab", extra={"job": "ab", "seconds": 1.5})
    log.error("it broke", exc_info=ValueError("no"))
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("info", "some.module", "job ab: done")
    assert first["seconds"] == 1.5
    assert "ValueError: no" in second["exception"]


def test_json_leaves_no_character_that_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(Settings(log_format="json"))
    evil = "caf\u00e9 \x1b[2J \x9b2J \u202e4pm \u2066 \u2028 \u200f"
    logging.getLogger("some.module").info(evil, extra={"path": evil})
    text = capsys.readouterr().err.removesuffix("\n")
    assert all(c.isprintable() for c in text), ascii(text)
    assert "caf\u00e9" in text
    assert (json.loads(text)["message"], json.loads(text)["path"]) == (evil, evil)


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_jobs_lines_have_its_id(capsys: pytest.CaptureFixture[str], form: str) -> None:
    set_up(Settings(log_format=form))
    JobLog(logging.getLogger("some.module"), "ab12").info("chunk %d computed", 3, extra={"chunk": 3})
    (line,) = capsys.readouterr().err.splitlines()
    if form == "text":
        assert line.endswith("INFO some.module: job ab12: chunk 3 computed")
        return
    document = json.loads(line)
    assert (document["job_id"], document["chunk"]) == ("ab12", 3)
    assert document["message"] == "job ab12: chunk 3 computed"


def test_text_and_level(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(Settings(log_level="warning"))
    logging.getLogger("some.module").info("quiet")
    logging.getLogger("some.module").warning("loud")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("WARNING some.module: loud")


def test_health_checks_are_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(Settings())
    for path in ("/healthz", "/jobs"):
        logging.getLogger("service.http.access").info("GET %s", path, extra={"path": path})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("GET /jobs")
