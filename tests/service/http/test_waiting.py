"""`Prefer: wait=N` and `?wait=N`: answers that come when a job is settled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from jobs.schema import Job, JobOptions, JobState, Progress
from jobs.settings import Settings
from jobs.storage import new_id
from service.http.waiting import retry_after
from tests.support.api_keys import make_keys
from tests.support.clips import make_clip
from tests.support.http_server import Service, serving
from tests.support.processes import wait_until


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings) as running:
        yield running


def create(service: Service, owner: str = "") -> str:
    job = Job(id=new_id(), owner=owner, filename="clip.mp4", options=JobOptions())
    service.operations.store.create(job)
    return job.id


def when_waiting(service: Service, act: Callable[[], object]) -> threading.Thread:
    """Act as soon as a request waits."""

    def run() -> None:
        wait_until(lambda: len(service.app.state.streams) > 0, 60, "no request waits")
        act()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("prefer", ["wait=60", "respond-async, wait=60; why", 'WAIT = "60"'])
def test_the_answer_comes_when_the_job_is_settled(service: Service, prefer: str) -> None:
    job_id, store = create(service), service.operations.store
    claim = store.claim(job_id, "worker")
    assert claim

    def finish() -> None:
        store.heartbeat(claim, {"progress": Progress(frames_done=1)})
        store.release(claim, JobState.DONE)

    thread = when_waiting(service, finish)
    started = time.monotonic()
    answer = service.client.get(f"/jobs/{job_id}", headers={"Prefer": prefer})
    thread.join()
    assert (answer.status_code, answer.json()["state"]) == (200, "done")
    assert answer.headers["Preference-Applied"] == "wait=60"
    assert time.monotonic() - started < 60


def test_a_paused_job_ends_the_wait_and_a_removed_job_is_not_found(service: Service) -> None:
    job_id, store = create(service), service.operations.store
    thread = when_waiting(service, lambda: store.request_pause(job_id))
    assert service.client.get(f"/jobs/{job_id}?wait=20").json()["state"] == "paused"
    thread.join()
    removed = create(service)

    def remove() -> None:
        store.request_cancel(removed)
        store.forget(removed)

    thread = when_waiting(service, remove)
    answer = service.client.get(f"/jobs/{removed}?wait=20")
    thread.join()
    assert answer.status_code in (200, 404)  # cancelled is settled, too


def test_the_wait_ends_after_its_time_with_the_current_state(service: Service) -> None:
    job_id = create(service)
    started = time.monotonic()
    answer = service.client.get(f"/jobs/{job_id}?wait=1")
    assert 1 <= time.monotonic() - started < 60
    assert (answer.json()["state"], answer.headers["Preference-Applied"]) == ("queued", "wait=1")


@pytest.mark.parametrize("headers", [{}, {"Prefer": "wait"}, {"Prefer": "wait=soon"}, {"Prefer": "return=minimal"}])
def test_without_a_usable_wish_nobody_waits(service: Service, headers: dict[str, str]) -> None:
    answer = service.client.get(f"/jobs/{create(service)}", headers=headers)
    assert "Preference-Applied" not in answer.headers


@pytest.mark.parametrize("wait", ["61", "-1", "soon"])
def test_a_wrong_parameter_is_refused(service: Service, wait: str) -> None:
    answer = service.client.get(f"/jobs/{create(service)}?wait={wait}")
    assert (answer.status_code, "wait" in answer.json()["detail"]) == (400, True)


def test_a_long_wish_is_cut_to_a_minute(service: Service) -> None:
    job_id = create(service)
    thread = when_waiting(service, lambda: service.operations.store.request_pause(job_id))
    answer = service.client.get(f"/jobs/{job_id}", headers={"Prefer": "wait=100000"})
    thread.join()
    assert answer.headers["Preference-Applied"] == "wait=60"


def test_nobody_waits_for_jobs_of_others_or_unknown_jobs(settings: Settings, data_dir: Path) -> None:
    keys = make_keys(data_dir)
    with serving(settings) as service:
        theirs = create(service, keys.ids["other"])
        for job_id in (theirs, new_id()):
            started = time.monotonic()
            answer = service.client.get(f"/jobs/{job_id}?wait=60", headers={"X-API-Key": keys.text("own")})
            assert answer.status_code == 404
            assert time.monotonic() - started < 60


def test_without_a_free_place_the_answer_comes_at_once(settings: Settings) -> None:
    with serving(settings.model_copy(update={"http_max_streams": 0})) as service:
        answer = service.client.get(f"/jobs/{create(service)}?wait=20")
        assert answer.status_code == 200
        assert "Preference-Applied" not in answer.headers


def test_a_client_that_goes_away_gives_its_place_back(service: Service) -> None:
    job_id = create(service)
    with pytest.raises(httpx.ReadTimeout):
        service.client.get(f"/jobs/{job_id}?wait=60", timeout=0.5)
    wait_until(lambda: not len(service.app.state.streams), 60, "the place of a client that is gone")


def test_the_end_of_the_server_ends_a_wait(settings: Settings) -> None:
    with serving(settings, grace=600) as service:
        job_id = create(service)
        thread = when_waiting(service, service.stop)
        started = time.monotonic()
        assert service.client.get(f"/jobs/{job_id}?wait=60").json()["state"] == "queued"
        thread.join()
        assert time.monotonic() - started < 60


def test_an_upload_can_wait_for_its_result(service: Service, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=2)
    thread = when_waiting(
        service, lambda: [service.operations.store.request_cancel(job.id) for job in service.operations.recent()]
    )
    answer = service.client.post("/upscale?wait=20", files={"file": ("clip.mp4", clip.read_bytes())})
    thread.join()
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    assert answer.headers["Preference-Applied"] == "wait=20"
    at_once = service.client.post("/upscale", files={"file": ("clip.mp4", clip.read_bytes())})
    assert (at_once.status_code, at_once.json()["state"]) == (202, "queued")
    assert int(at_once.headers["Retry-After"]) > 0


@pytest.mark.parametrize(("eta", "seconds"), [(None, "2"), (0.0, "1"), (100.0, "10"), (9000.0, "30")])
def test_retry_after_grows_with_the_remaining_time(eta: float | None, seconds: str) -> None:
    job = Job(id=new_id(), filename="", options=JobOptions(), progress=Progress(eta_seconds=eta))
    assert retry_after(job) == seconds
