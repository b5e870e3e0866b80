"""Jobs over HTTP, with a real socket and a real Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from jobs import idempotency
from jobs.errors import NotReady, StoreUnavailable
from jobs.idempotency import Reservation
from jobs.schema import Job, JobState
from jobs.settings import Settings
from service.http.responses import JobDocument
from tests.support.clips import make_clip
from tests.support.fields import interlaced_clip
from tests.support.http_server import Service, serving
from tests.support.processes import wait_until


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings) as running:
        yield running


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=6, sound=True)


def test_upload_becomes_a_queued_job(service: Service, clip: Path) -> None:
    answer = service.post(clip, scale="2", crf="20", model="tiny", codec="hevc", priority="high")
    assert answer.status_code == 202
    document = JobDocument.model_validate(answer.json())
    assert answer.headers["location"] == f"/jobs/{document.id}" == document.links.self
    assert document.state is JobState.QUEUED
    assert (document.options.scale, document.options.crf, document.options.codec) == (2, 20, "hevc")
    assert document.input is not None
    assert (document.input.width, document.input.height, document.input.frames) == (32, 24, 6)
    assert document.input.audio == ["aac"]
    assert document.progress.frames_total == 6
    assert service.operations.storage.input_path(document.id).read_bytes() == clip.read_bytes()
    assert service.client.get(document.links.self).json() == answer.json()
    assert service.client.get("/jobs").json()["jobs"] == [answer.json()]
    assert service.client.get("/jobs", params={"state": "done"}).json()["jobs"] == []


def test_fields_of_interlaced_video_double_the_frames(service: Service, tmp_path: Path) -> None:
    clip = interlaced_clip(tmp_path / "in.mp4", 9)
    job = service.post(clip, deinterlace="field").json()
    assert job["options"]["deinterlace"] == "field"
    assert (job["input"]["frames"], job["progress"]["frames_total"]) == (9, 18)
    assert any("one frame for each field" in warning for warning in job["warnings"])
    job = service.post(clip).json()
    assert (job["options"]["deinterlace"], job["progress"]["frames_total"]) == ("frame", 9)
    assert service.post(clip, deinterlace="lines").status_code == 400


def test_empty_fields_are_defaults(service: Service, clip: Path) -> None:
    answer = service.post(clip, scale="", height="", model="")
    assert answer.status_code == 202, answer.text
    assert answer.json()["options"]["model"] == "auto"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"scale": "5"}, "scale: Input should be 2, 3 or 4"),
        ({"scale": "two"}, "scale: Input should be 2, 3 or 4"),
        ({"scale": "2", "height": "480"}, "give either scale or height, not both"),
        ({"crf": "99", "chunk": "x"}, "chunk: Input should be a valid integer"),
        ({"routing": "warp"}, "routing: Input should be 'off', 'balanced' or 'fast'"),
        ({"speed": "warp"}, "unknown option speed; valid options: model, scale"),
        ({"model": "x" * 5000}, "the field 'model' is longer than 4096 bytes"),
    ],
)
def test_bad_options_are_named_and_leave_no_files(
    service: Service, clip: Path, fields: dict[str, str], says: str
) -> None:
    answer = service.post(clip, **fields)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "/problems/invalid-request"
    assert says in problem["detail"]
    assert "\n" not in problem["detail"]
    assert service.files() == []


def test_models_of_live_workers(service: Service, clip: Path) -> None:
    assert service.client.get("/models").json() == {"models": []}
    assert service.post(clip, model="not-yet-known").status_code == 202  # no worker is alive to check
    service.announce_worker()
    assert service.client.get("/models").json() == {"models": ["small", "tiny"]}
    assert service.post(clip, model="tiny").status_code == 202
    answer = service.post(clip, model="huge")
    assert (answer.status_code, answer.json()["detail"]) == (
        400,
        "no worker has the model 'huge'; available: auto, small, tiny",
    )


def test_repeated_idempotency_key_makes_one_job(service: Service, clip: Path, tmp_path: Path) -> None:
    service.client.headers["Idempotency-Key"] = "holiday-1"
    (tmp_path / "empty.mp4").touch()
    assert service.post(tmp_path / "empty.mp4").status_code == 400  # a failed upload does not use up its key
    first, second = service.post(clip), service.post(clip)
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["id"] == second.json()["id"]
    assert second.headers["location"] == first.headers["location"]
    assert ("idempotency-replayed" in first.headers, second.headers["idempotency-replayed"]) == (False, "true")
    other = make_clip(tmp_path / "other.mp4", frames=3)
    for answer in (service.post(other), service.post(clip, crf="30")):
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/key-reused")
    assert service.post(clip, crf="").headers["idempotency-replayed"] == "true"
    files = service.files()
    assert service.post(clip, nonsense="1").status_code == 400
    assert service.files() == files
    service.client.headers["Idempotency-Key"] = "holiday-2"
    reservation = service.operations.reserve_key("holiday-2")
    assert isinstance(reservation, Reservation)
    answer = service.post(clip)
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/not-ready")
    service.operations.release_key(reservation)
    third = service.post(clip).json()["id"]
    assert third != first.json()["id"]
    assert len(service.operations.recent()) == 2
    for _ in range(2):  # first cancel, then delete
        service.client.delete(f"/jobs/{third}")
    answer = service.post(clip)
    assert (answer.status_code, answer.json()["state"]) == (202, "queued"), "the key still belongs to a removed job"


def test_job_survives_a_lost_redis_answer(service: Service, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis stored the job, but its answer came too late."""
    store, create = service.operations.store, service.operations.store.create

    def slow(*given: Any) -> None:
        create(*given)
        raise StoreUnavailable("Redis does not answer.")

    service.client.headers["Idempotency-Key"] = "holiday-0"
    with monkeypatch.context() as patch:
        patch.setattr(store, "create", slow)
        assert service.post(clip).status_code == 503
    again = service.post(clip)
    assert (again.status_code, again.json()["state"]) == (202, "queued")
    assert service.operations.storage.input_path(again.json()["id"]).read_bytes() == clip.read_bytes()
    assert len(service.operations.recent()) == 1


def test_key_is_reserved_for_a_minute(service: Service, clip: Path) -> None:
    """A crashed process blocks its key for a minute at most, and only the owner renews or releases a reservation."""
    operations, redis = service.operations, service.operations.store.redis
    lost = operations.reserve_key("holiday-3")
    assert isinstance(lost, Reservation)
    (key,) = redis.keys("skipvsr:once:*")
    redis.expire(key, 5)
    operations.renew_key(lost)
    assert 50 < redis.ttl(key) <= 60
    redis.delete(key)  # the owner has crashed, and the minute has passed
    mine = operations.reserve_key("holiday-3")
    assert isinstance(mine, Reservation)
    operations.release_key(lost)
    with pytest.raises(NotReady):
        operations.reserve_key("holiday-3")
    operations.release_key(mine)
    service.client.headers["Idempotency-Key"] = "holiday-3"
    job_id = service.post(clip).json()["id"]
    operations.renew_key(mine)
    operations.release_key(mine)
    assert redis.ttl(key) > 80_000
    assert service.post(clip).json()["id"] == job_id


def test_key_is_renewed_during_the_upload(service: Service, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "RENEW_SECONDS", 0.05)
    redis = service.operations.store.redis
    boundary = b'--x7f\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'

    def slowly() -> Iterator[bytes]:
        yield boundary
        wait_until(lambda: bool(redis.keys("skipvsr:once:*")), 60, "not reserved")
        (key,) = redis.keys("skipvsr:once:*")
        redis.expire(key, 600)
        wait_until(lambda: redis.ttl(key) <= 60, 60, "not renewed")
        yield clip.read_bytes() + b"\r\n--x7f--\r\n"

    headers = {"Idempotency-Key": "holiday-4", "Content-Type": "multipart/form-data; boundary=x7f"}
    assert service.client.post("/upscale", content=slowly(), headers=headers).status_code == 202


def test_job_of_an_earlier_version_is_listed(service: Service, clip: Path) -> None:
    """The current version would refuse its options."""
    job_id = service.post(clip).json()["id"]
    store = service.operations.store
    options = {**store.get(job_id).options.model_dump(mode="json"), "routing": "warp"}
    store.redis.hset(f"skipvsr:job:{job_id}", "options", json.dumps(options))
    (listed,) = service.client.get("/jobs").json()["jobs"]
    assert listed["options"]["routing"] == "warp"
    assert service.client.post(f"/jobs/{job_id}/cancel").json()["state"] == "cancelled"


def test_non_videos_are_refused_and_leave_no_files(service: Service, tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("this is no video\n" * 100)
    answer = service.post(text)
    assert (answer.status_code, answer.json()["type"]) == (415, "/problems/unsupported-media")
    empty = tmp_path / "empty.mp4"
    empty.touch()
    answer = service.post(empty)
    assert (answer.status_code, answer.json()["detail"]) == (400, "the file 'empty.mp4' is empty")
    assert service.files() == []
    assert service.client.get("/jobs").json()["jobs"] == []


def test_limits_name_their_setting(settings: Settings, clip: Path) -> None:
    with serving(settings.model_copy(update={"max_output_pixels": 1000})) as service:
        answer = service.post(clip)
        assert (answer.status_code, answer.json()["type"]) == (413, "/problems/too-large")
        assert "SKIPVSR_MAX_OUTPUT_PIXELS" in answer.json()["detail"]
        assert service.post(clip, height="16").status_code == 202
    with serving(settings.model_copy(update={"max_output_pixels": 64 * 48})) as service:  # twice 32x24
        service.announce_worker(double=2, tiny=4)
        assert service.post(clip, model="double").status_code == 202
        assert service.post(clip, model="tiny").status_code == 413
        assert service.post(clip).status_code == 413
    with serving(settings.model_copy(update={"quota_gb": 1e-9})) as service:
        answer = service.post(clip)
        assert (answer.status_code, answer.json()["type"]) == (507, "/problems/storage-full")


def test_container_and_codec_must_match(service: Service, clip: Path) -> None:
    answer = service.post(clip, container="webm", codec="hevc")
    assert (answer.status_code, answer.json()["detail"]) == (400, "webm can't hold hevc; it holds av1")


def test_cancel_pause_and_resume(service: Service, clip: Path) -> None:
    first, second = (service.post(clip).json()["id"] for _ in range(2))
    assert service.client.post(f"/jobs/{first}/pause").json()["state"] == "paused"
    assert service.client.get(f"/jobs/{first}").json()["links"]["resume"] == f"/jobs/{first}/resume"
    assert service.client.post(f"/jobs/{first}/resume").json()["state"] == "queued"
    again = service.client.post(f"/jobs/{first}/resume")
    assert (again.status_code, again.json()["type"]) == (409, "/problems/not-ready")
    assert service.client.post(f"/jobs/{first}/cancel").json()["state"] == "cancelled"
    assert service.client.post(f"/jobs/{first}/cancel").json()["state"] == "cancelled"
    assert not service.operations.storage.job_dir(first).exists()
    answer = service.client.get(f"/jobs/{first}/result")
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/cancelled")
    assert service.client.get(f"/jobs/{first}/input").status_code == 410
    service.finish(second, b"x")
    assert service.client.post(f"/jobs/{second}/cancel").status_code == 409
    service.operations.storage.result_path(second).unlink()
    answer = service.client.get(f"/jobs/{second}/result")
    assert (answer.status_code, answer.json()["type"]) == (410, "/problems/gone")


def test_delete_cancels_active_and_removes_finished_jobs(service: Service, clip: Path) -> None:
    waiting, done = (service.post(clip).json()["id"] for _ in range(2))
    assert service.client.delete(f"/jobs/{waiting}").json()["state"] == "cancelled"
    assert service.client.get(f"/jobs/{waiting}").status_code == 200
    service.operations.store.request_pause(done)
    service.operations.store.resume(done)
    service.finish(done, b"x")
    assert service.client.delete(f"/jobs/{done}").json()["state"] == "done"
    assert service.client.delete(f"/jobs/{done}").status_code == 404
    assert service.files() == []
    assert [job["id"] for job in service.client.get("/jobs").json()["jobs"]] == [waiting]


def test_result_of_a_failed_job_states_the_reason(service: Service, clip: Path) -> None:
    job_id = service.post(clip).json()["id"]
    claim = service.operations.store.claim(job_id, "w")
    assert claim is not None
    reason = {"type": "/problems/job-failed", "title": "Job failed", "status": 500, "detail": "out of luck"}
    service.operations.store.release(claim, JobState.FAILED, {"error": reason})
    answer = service.client.get(f"/jobs/{job_id}/result")
    assert answer.status_code == 500
    assert answer.json() == reason


def test_failed_job_resumes_while_its_files_are_kept(service: Service, clip: Path) -> None:
    job_id = service.post(clip).json()["id"]
    for _ in range(2):
        claim = service.operations.store.claim(job_id, "w")
        assert claim is not None
        service.operations.store.release(claim, JobState.FAILED, {"error": None})
        assert service.client.get(f"/jobs/{job_id}").json()["links"]["resume"] == f"/jobs/{job_id}/resume"
        last = service.client.post(f"/jobs/{job_id}/resume")
        assert (last.status_code, last.json()["state"]) == (200, "queued")
    claim = service.operations.store.claim(job_id, "w")
    assert claim is not None
    service.operations.store.release(claim, JobState.FAILED, {"error": None})
    service.operations.storage.remove(job_id)
    answer = service.client.post(f"/jobs/{job_id}/resume")
    assert (answer.status_code, answer.json()["type"]) == (410, "/problems/gone")
    assert service.client.get(f"/jobs/{job_id}").json()["state"] == "failed"


@pytest.mark.parametrize("job_id", ["0" * 24, "nonsense", "..%2F..%2Fetc", "%00", "a" * 4000])
@pytest.mark.parametrize("rest", ["", "/result", "/input"])
def test_unknown_jobs(service: Service, job_id: str, rest: str) -> None:
    answer = service.client.get(f"/jobs/{job_id}{rest}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_list_is_paged_newest_first(service: Service, clip: Path) -> None:
    ids = [service.post(clip).json()["id"] for _ in range(3)]
    listed = service.client.get("/jobs", params={"limit": 2}).json()["jobs"]
    assert [job["id"] for job in listed] == ids[:0:-1]
    assert [j["id"] for j in service.client.get("/jobs", params={"offset": 2}).json()["jobs"]] == ids[:1]
    bad = service.client.get("/jobs", params={"limit": "0", "state": "odd"})
    assert bad.status_code == 400
    assert "limit:" in bad.json()["detail"]
    assert "state:" in bad.json()["detail"]


def test_a_list_has_numbers_and_the_next_page(service: Service, clip: Path, tmp_path: Path) -> None:
    named = tmp_path / "Größe & Maß.mp4"
    named.write_bytes(clip.read_bytes())
    ids = [service.post(path).json()["id"] for path in (clip, named, named, clip, named)]
    for job_id in ids[:2]:
        service.client.post(f"/jobs/{job_id}/pause")
    service.client.post(f"/jobs/{ids[4]}/cancel")
    first = service.client.get("/jobs", params={"q": "größe &", "limit": 2, "state": ["queued", "cancelled", "paused"]})
    page = first.json()
    assert ([job["id"] for job in page["jobs"]], page["total"]) == ([ids[4], ids[2]], 3)
    assert page["counts"] == {"queued": 1, "running": 0, "paused": 1, "done": 0, "failed": 0, "cancelled": 1}
    assert first.headers["link"] == f'<{page["next"]}>; rel="next"'
    assert first.links["next"]["url"] == page["next"]
    second = service.client.get(page["next"])
    assert ([job["id"] for job in second.json()["jobs"]], second.json()["next"]) == ([ids[1]], None)
    assert "link" not in second.headers
    known = {"If-None-Match": second.headers["etag"]}
    assert service.client.get(page["next"], headers=known).status_code == 304
    assert service.client.get("/jobs", params={"q": "nowhere"}).json()["total"] == 0
    assert service.client.get("/jobs", params={"q": "x" * 201}).status_code == 400


def test_workers(service: Service) -> None:
    assert service.client.get("/workers").json() == {"workers": []}
    worker = service.announce_worker()
    (shown,) = service.client.get("/workers").json()["workers"]
    assert (shown["name"], shown["host"]) == (worker.name, worker.host)


def test_finished_jobs_say_when_their_files_go(settings: Settings, clip: Path) -> None:
    hours = {"result_ttl_hours": 2.0, "failed_ttl_hours": 3.0, "history_ttl_hours": 1000.0}
    with serving(settings.model_copy(update=hours)) as service:
        ids = [service.post(clip).json()["id"] for _ in range(4)]
        service.finish(ids[1], b"x")
        service.finish(ids[2], b"x", JobState.FAILED)
        service.client.post(f"/jobs/{ids[3]}/cancel")
        jobs = [service.client.get(f"/jobs/{job_id}").json() for job_id in ids]
        kept = [
            job["expires_at"]
            and (datetime.fromisoformat(job["expires_at"]) - datetime.fromisoformat(job["finished_at"]))
            / timedelta(hours=1)
            for job in jobs
        ]
        assert kept == [None, 2, 3, None]
        listed = {job["id"]: job["expires_at"] for job in service.client.get("/jobs").json()["jobs"]}
        assert listed == {job["id"]: job["expires_at"] for job in jobs}
    with serving(settings.model_copy(update={"result_ttl_hours": 0.0})) as service:
        assert service.client.get(f"/jobs/{ids[1]}").json()["links"]["result"] is None


def test_job_document_is_the_job_plus_links(service: Service, clip: Path) -> None:
    document = service.post(clip).json()
    stored = json.loads(service.operations.get(document["id"]).model_dump_json())
    links = document.pop("links")
    assert document == stored
    assert set(document) == set(Job.model_fields)
    assert links["pause"] == f"/jobs/{document['id']}/pause"


def test_links_name_what_is_possible(service: Service, clip: Path) -> None:
    waiting, done, cancelled = (service.post(clip).json()["id"] for _ in range(3))
    service.finish(done, b"x")
    service.client.post(f"/jobs/{cancelled}/cancel")
    found = {
        job_id: {name for name, link in service.client.get(f"/jobs/{job_id}").json()["links"].items() if link}
        for job_id in (waiting, done, cancelled)
    }
    assert found == {
        waiting: {"self", "input", "events", "preview", "cancel", "pause"},
        done: {"self", "input", "events", "preview", "result", "delete", "report", "skipmap"},
        cancelled: {"self", "input", "events", "delete"},
    }
    routes = {route.path for route in iter_route_contexts(service.app.routes)}
    links = service.client.get(f"/jobs/{done}").json()["links"]
    assert {link.replace(done, "{job_id}") for link in links.values() if link} <= routes
