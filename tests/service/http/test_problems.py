"""Problem documents: their kinds, pages and fields, and what a failed job says about itself."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands.shared.embedded_redis import EmbeddedRedis
from jobs.errors import DecoderFailed, JobFailed, SkipVsrError, TooLarge, UnsupportedMedia, UnusableVideo
from jobs.schema import JobState, Problem
from jobs.settings import Settings
from service.http.problems import from_error
from tests.support.clips import make_clip
from tests.support.http_server import Service, serving

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=2)


@pytest.fixture(scope="module")
def service(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(Settings(redis_url=redis_server.url, data_dir=tmp_path_factory.mktemp("data"))) as running:
        running.operations.store.redis.flushall()
        yield running


def fail(service: Service, clip: Path, error: SkipVsrError) -> str:
    """A failed job's path."""
    job_id: str = service.post(clip).json()["id"]
    claim = service.operations.store.claim(job_id, "w")
    assert claim is not None
    service.operations.store.release(claim, JobState.FAILED, {"error": Problem.from_error(error)})
    return f"/jobs/{job_id}"


def test_every_kind_of_error_has_a_page(service: Service) -> None:
    kinds = SkipVsrError.kinds()
    assert {"no-worker", "precondition-failed", "job-failed", "decoder-failed"} <= set(kinds)
    for name, kind in kinds.items():
        about = service.client.get(f"/problems/{name}").json()
        assert (about["type"], about["title"], about["status"]) == (f"/problems/{name}", kind.title, kind.status)
        assert about["meaning"].endswith("."), f"{name} has no docstring"
        assert kind.cure is not SkipVsrError.cure, f"{name} has no cure"
        page = service.client.get(f"/problems/{name}", headers=BROWSER)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert kind.title in page.text
        assert "`" not in page.text
    listed = service.client.get("/problems").json()["problems"]
    assert {kind["type"] for kind in listed} == {f"/problems/{name}" for name in kinds}
    page = service.client.get("/problems", headers=BROWSER).text
    assert all(f'href="/problems/{name}"' in page for name in kinds)
    assert service.client.get("/problems/nonsense").json()["type"] == "/problems/not-found"


def test_the_pages_hold_a_strict_policy(service: Service) -> None:
    page = service.client.get("/problems/gone", headers=BROWSER)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    (style,) = re.findall("<style>(.*?)</style>", page.text)
    assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in policy
    assert "<script" not in page.text
    evil = service.client.get("/problems/%3Cscript%3E", headers=BROWSER)
    assert (evil.status_code, evil.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"crf": "99"}, ["crf"]),
        ({"crf": "99", "chunk": "x"}, ["chunk", "crf"]),
        ({"scale": "2", "height": "480"}, ["scale", "height"]),
        ({"container": "webm", "codec": "hevc"}, ["container", "codec"]),
        ({"speed": "1", "colour": "2"}, ["colour", "speed"]),
    ],
)
def test_an_invalid_request_names_its_fields(
    service: Service, clip: Path, fields: dict[str, str], wrong: list[str]
) -> None:
    problem = service.post(clip, **fields).json()
    assert (problem["status"], problem["type"]) == (400, "/problems/invalid-request")
    assert [error["field"] for error in problem["errors"]] == wrong
    assert all(
        error["detail"] in problem["detail"] or error["detail"] == "unknown option" for error in problem["errors"]
    )


def test_invalid_parameters_name_their_fields(service: Service, clip: Path) -> None:
    problem = service.client.get("/jobs", params={"limit": "0", "offset": "x"}).json()
    assert [error["field"] for error in problem["errors"]] == ["limit", "offset"]
    service.announce_worker()
    assert service.post(clip, model="huge").json()["errors"][0]["field"] == "model"
    assert service.client.post("/upscale").json()["errors"] == [], "no single field is wrong"


@pytest.mark.parametrize(
    ("error", "resumable"),
    [
        (UnusableVideo("no frame can be decoded"), False),
        (UnsupportedMedia("no video"), False),
        (DecoderFailed("the decoder ran out of memory"), True),
        (TooLarge("too many frames (SKIPVSR_MAX_FRAMES)"), True),
        (JobFailed("out of luck"), True),
    ],
)
def test_a_failed_job_offers_to_resume_if_that_can_help(
    service: Service, clip: Path, error: SkipVsrError, resumable: bool
) -> None:
    job = fail(service, clip, error)
    document = service.client.get(job).json()
    assert document["links"]["resume"] == (f"{job}/resume" if resumable else None)
    result = service.client.get(f"{job}/result")
    assert (result.status_code, result.json()) == (error.status, document["error"])
    answer = service.client.post(f"{job}/resume")
    if resumable:
        assert (answer.status_code, answer.json()["state"]) == (200, "queued")
    else:
        assert (answer.status_code, answer.json()["type"]) == (409, "/problems/not-ready")
        assert str(error) in answer.json()["detail"]


def test_a_problem_of_a_later_version_is_a_failed_job() -> None:
    problem = Problem(type="/problems/novel", title="Novel", status=418, detail="who knows")
    error = problem.to_error()
    assert (type(error), str(error)) == (JobFailed, "who knows")
    limit = Problem(type="/problems/limit-reached", title="Limit reached", status=429, detail="too many").to_error()
    assert (limit.kind, str(limit), limit.retry_after) == ("limit-reached", "too many", None)
    for kind in SkipVsrError.kinds():
        described = Problem(type=f"/problems/{kind}", title="", status=400, detail="why")
        assert from_error(described.to_error()).body
