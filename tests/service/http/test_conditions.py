"""Conditional requests, resumed downloads, HEAD, OPTIONS and the `Allow` of a path."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fastapi.responses import StreamingResponse

from commands.shared.embedded_redis import EmbeddedRedis
from jobs.settings import Settings
from tests.support.clips import make_clip
from tests.support.http_server import Service, serving
from tests.support.processes import wait_until

PAST = "Mon, 01 Jan 2001 00:00:00 GMT"
FUTURE = "Fri, 01 Jan 2100 00:00:00 GMT"
HUGE = "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"
RESULT = bytes(range(256)) * 4000


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=2)


@pytest.fixture(scope="module")
def service(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(Settings(redis_url=redis_server.url, data_dir=tmp_path_factory.mktemp("data"))) as running:
        running.operations.store.redis.flushall()
        yield running


@pytest.fixture(scope="module")
def job(service: Service, clip: Path) -> str:
    """Path of a finished job."""
    job_id = service.post(clip).json()["id"]
    service.finish(job_id, RESULT)
    return f"/jobs/{job_id}"


@pytest.mark.parametrize("rest", ["", "/input", "/result"])
def test_a_current_copy_is_not_sent_again(service: Service, job: str, rest: str) -> None:
    first = service.client.get(job + rest)
    tag = first.headers["etag"]
    assert service.client.get(job + rest).headers["etag"] == tag
    for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = service.client.get(job + rest, headers={"If-None-Match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag), given
    for given in ('"other"', "other", ""):
        assert service.client.get(job + rest, headers={"If-None-Match": given}).status_code == 200, given
    assert service.client.head(job + rest, headers={"If-None-Match": tag}).status_code == 304
    both = {"If-None-Match": '"other"', "If-Modified-Since": FUTURE}
    assert service.client.get(job + rest, headers=both).status_code == 200, "the tag has priority over the time"


@pytest.mark.parametrize("rest", ["", "/input", "/result"])
def test_another_version_than_the_client_knows_is_refused(service: Service, job: str, rest: str) -> None:
    tag = service.client.get(job + rest).headers["etag"]
    for given in (tag, f'"other", {tag}', "*"):
        assert service.client.get(job + rest, headers={"If-Match": given}).status_code == 200, given
    for given in ('"other"', f"W/{tag}", "other"):
        answer = service.client.get(job + rest, headers={"If-Match": given})
        assert (answer.status_code, answer.json()["type"]) == (412, "/problems/precondition-failed"), given


@pytest.mark.parametrize("rest", ["", "/input", "/result"])
def test_times(service: Service, job: str, rest: str) -> None:
    changed = service.client.get(job + rest).headers["last-modified"]

    def status(name: str, value: str) -> int:
        return service.client.get(job + rest, headers={name: value}).status_code

    assert [status("If-Modified-Since", time) for time in (PAST, changed, FUTURE, "soon", HUGE)] == [
        200,
        304,
        304,
        200,
        200,
    ]
    assert [status("If-Unmodified-Since", time) for time in (PAST, changed, FUTURE, "soon")] == [412, 200, 200, 200]


def test_a_change_of_another_version_is_refused(service: Service, clip: Path) -> None:
    path = f"/jobs/{service.post(clip).json()['id']}"
    tag = service.client.get(path).headers["etag"]
    old, current = {"If-Match": '"other"'}, {"If-Match": tag}
    for method, rest in [("POST", "/pause"), ("POST", "/resume"), ("POST", "/cancel"), ("DELETE", "")]:
        assert service.client.request(method, path + rest, headers=old).status_code == 412
    assert service.client.post(f"{path}/pause", headers=current).json()["state"] == "paused"
    assert service.client.post(f"{path}/resume", headers=current).status_code == 412
    assert service.client.get(path).json()["state"] == "paused"
    assert service.client.delete(path, headers={"If-None-Match": "*"}).status_code == 412
    assert service.client.delete("/jobs/0123456789abcdef", headers=old).status_code == 404


def test_ranges(service: Service, job: str) -> None:
    whole = service.client.get(f"{job}/result")

    def part(text: str, **headers: str) -> tuple[int, bytes]:
        answer = service.client.get(f"{job}/result", headers={"Range": text, **headers})
        return answer.status_code, answer.content

    assert part("bytes=256-257") == (206, b"\x00\x01")
    assert part("bytes=0-1, 5000000-") == (206, b"\x00\x01"), "one part lies outside the file"
    assert part("bytes=0-1", **{"If-Range": whole.headers["etag"]}) == (206, b"\x00\x01")
    assert part("bytes=0-1", **{"If-Range": whole.headers["last-modified"]}) == (206, b"\x00\x01")
    assert part("bytes=0-1", **{"If-Range": '"other"'}) == (200, RESULT)
    assert part("bytes=0-1", **{"If-Range": PAST}) == (200, RESULT)
    assert part("bytes=0-1", **{"If-None-Match": whole.headers["etag"]}) == (304, b"")
    assert part("bytes=0-1", **{"If-Match": '"other"'})[0] == 412
    head = service.client.head(f"{job}/result", headers={"Range": "bytes=0-1"})
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(RESULT)))


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl_resumes_a_download(service: Service, job: str, tmp_path: Path) -> None:
    target = tmp_path / "result.mp4"
    target.write_bytes(RESULT[:300_000])
    command = ["curl", "-fsS", "-C", "-", "-o", str(target), "-w", "%{http_code} %{size_download}"]
    done = subprocess.run([*command, f"{service.url}{job}/result"], capture_output=True, text=True, check=True)
    assert done.stdout == f"206 {len(RESULT) - 300_000}"
    assert target.read_bytes() == RESULT


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl_with_fail_saves_no_error(service: Service, tmp_path: Path) -> None:
    """The commands in README and docs use -f."""
    target = tmp_path / "result.mp4"
    command = ["curl", "-fsS", "-o", str(target), f"{service.url}/jobs/0123456789abcdef/result"]
    assert subprocess.run(command, capture_output=True).returncode == 22
    assert not target.exists() or os.path.getsize(target) == 0


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics", "/models", "/jobs", "/metrics/jobs", ""]
)
def test_head_is_get_without_the_body(service: Service, job: str, path: str) -> None:
    service.announce_worker()
    get, head = service.client.get(path or job), service.client.head(path or job)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    if path != "/metrics":
        assert head.headers["content-length"] == get.headers["content-length"]


def test_head_ends_an_endless_stream(service: Service) -> None:
    ended = []

    async def numbers() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"data: 1\n\n"
                await asyncio.sleep(0.01)
        finally:
            ended.append(True)

    service.app.add_api_route("/stream", lambda: StreamingResponse(numbers(), media_type="text/event-stream"))
    answer = service.client.head("/stream")
    assert (answer.status_code, answer.headers["content-type"][:17], answer.content) == (200, "text/event-stream", b"")
    assert service.client.get("/healthz").status_code == 200
    wait_until(lambda: ended == [True], 60, "the stream goes on")


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/jobs", "GET, HEAD, OPTIONS"),
        ("/jobs/0123456789abcdef", "DELETE, GET, HEAD, OPTIONS"),
        ("/jobs/0123456789abcdef/result", "GET, HEAD, OPTIONS"),
        ("/jobs/0123456789abcdef/cancel", "OPTIONS, POST"),
    ],
)
def test_a_path_lists_all_of_its_methods(service: Service, path: str, methods: str) -> None:
    for method in ("PATCH", "TRACE", "BREW"):
        answer = service.client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)
        assert answer.json()["detail"].startswith(f"{path} does not support {method}, but ")
    options = service.client.options(path, headers={"Origin": "http://evil.test"})
    assert (options.status_code, options.headers["allow"], options.content) == (204, methods, b"")
    assert "access-control-allow-origin" not in options.headers
    assert service.client.options("/nowhere").status_code == 404
