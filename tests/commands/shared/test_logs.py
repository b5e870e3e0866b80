"""The log: readable lines, or JSON; health checks stay out of it."""

from __future__ import annotations

import json
import logging

import pytest

from commands.shared.logs import NAMED, name_data_folder, set_up
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


def test_the_data_folder_is_named_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`skipvsr up` names the folder, and its children do not repeat it."""
    settings = Settings()
    set_up(settings)
    name_data_folder(settings)
    assert str(settings.data_dir.absolute()) in capsys.readouterr().err
    monkeypatch.setenv(NAMED, "1")
    name_data_folder(settings)
    assert capsys.readouterr().err == ""


EVIL = "caf\u00e9 \x1b[2J \x9b2J \u202e4pm \u2066 \u2028 \u200f \r\n\t\x00 \ufff9 \U000e0041 \udcff"


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_line_steers_a_terminal_or_forges_a_record(capsys: pytest.CaptureFixture[str], form: str) -> None:
    set_up(Settings(log_format=form))
    log = logging.getLogger("some.module")
    log.info(EVIL, extra={"path": EVIL})
    log.info("path %s", EVIL)
    log.error("failed", exc_info=ValueError(f"{EVIL}2026-01-01 00:00:00,000 ERROR forged: x"))
    lines = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert all(line.isprintable() for line in lines), ascii(lines)
    assert "caf\u00e9 \\u001b[2J \\u009b2J \\u202e4pm" in lines[0]
    records = [line for line in lines if not line.startswith("  ")]
    assert len(records) == 3, records
    if form == "json":
        assert json.loads(lines[0])["message"] == json.loads(lines[0])["path"] == EVIL
        assert "ValueError: caf\u00e9" in json.loads(lines[2])["exception"]


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
