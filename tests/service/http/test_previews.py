"""Previews over HTTP: views, running and finished jobs, errors, caches, limits."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from jobs.schema import JobState
from jobs.settings import Settings
from media.assemble import assemble
from media.encode.segment import SegmentWriter
from media.errors import DecoderCrashed
from media.preview import Preview
from media.probe import probe
from media.spec import output_spec
from service.http import previews
from tests.support.clips import make_clip
from tests.support.crew import held_crew
from tests.support.http_server import Service, serving
from tests.support.processes import wait_until


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings) as running:
        yield running


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=8)


def pixels_of(webp: bytes) -> np.ndarray[Any, Any]:
    with av.open(io.BytesIO(webp), format="webp_pipe") as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)


def size_of(webp: bytes) -> tuple[int, int]:
    height, width, _ = pixels_of(webp).shape
    return width, height


def work(service: Service, job_id: str, token: int) -> Path:
    return service.operations.storage.take_work(job_id, token)


def write_segments(folder: Path, source: Path, frames: list[int]) -> tuple[Path, ...]:
    """Segments with so many frames each, of twice the size, and the manifest of their checkpoint."""
    info = probe(source)
    spec = output_spec(info, scale=2)
    paths, index = [], 0
    for number, count in enumerate(frames):
        path = folder / f"segment-{number:06d}.mp4"
        with SegmentWriter(path, spec) as writer:
            for _ in range(count):
                picture = np.full((info.video.height * 2, info.video.width * 2, 3), 30 * index, np.uint8)
                writer.write(picture, round(index / (info.video.frame_rate or Fraction(25)) / spec.time_base))
                index += 1
        paths.append(path)
    (folder / "manifest.json").write_text(json.dumps({"segments": len(frames)}))
    return tuple(paths)


def get(service: Service, job_id: str, **query: Any) -> Any:
    return service.client.get(f"/jobs/{job_id}/preview", params=query)


def test_a_queued_job_shows_its_source_only(service: Service, clip: Path) -> None:
    info = probe(clip)
    job_id = service.post(clip, scale="2").json()["id"]
    source = get(service, job_id, view="source", t=0)
    assert (source.status_code, source.headers["content-type"]) == (200, "image/webp")
    assert size_of(source.content) == (info.video.width, info.video.height)
    assert source.headers["Skipvsr-Time"] == "0.000000"
    assert size_of(get(service, job_id, view="bicubic", t=0).content) == (2 * info.video.width, 2 * info.video.height)
    assert size_of(get(service, job_id, view="source", t=0, width=16).content)[0] == 16
    refused = get(service, job_id)
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/not-ready")
    assert int(refused.headers["Retry-After"]) > 0


def test_a_running_job_shows_its_finished_segments(service: Service, clip: Path) -> None:
    job_id = service.post(clip).json()["id"]
    store = service.operations.store
    claim = store.claim(job_id, "worker")
    assert claim
    assert get(service, job_id).status_code == 409
    folder = work(service, job_id, claim.token)
    write_segments(folder, clip, [3])
    newest = get(service, job_id)
    rate = probe(clip).video.frame_rate
    assert rate
    assert float(newest.headers["Skipvsr-Time"]) == pytest.approx(float(2 / rate), abs=0.001)
    assert newest.headers["Cache-Control"] == "private, no-cache"
    seconds = newest.headers["Skipvsr-Time"]
    for view in ("source", "bicubic", "result"):
        same = get(service, job_id, view=view, t=seconds)
        assert same.status_code == 200
        assert same.headers["Skipvsr-Time"] == seconds
    assert size_of(get(service, job_id, view="bicubic", t=seconds).content) == size_of(newest.content)
    beyond = get(service, job_id, t=float(3 / rate))
    assert (beyond.status_code, "as far" in beyond.json()["detail"]) == (409, True)
    assert int(beyond.headers["Retry-After"]) > 0
    folder = work(service, job_id, claim.token + 1)  # another worker takes the job over
    write_segments(folder, clip, [3, 3])
    assert get(service, job_id, t=float(3 / rate)).status_code == 200
    assert float(get(service, job_id).headers["Skipvsr-Time"]) > float(seconds)


def test_a_finished_job_shows_all_views(service: Service, clip: Path, tmp_path: Path) -> None:
    info = probe(clip)
    result = tmp_path / "result.mp4"
    assemble(write_segments(tmp_path, clip, [4, 4]), clip, result, output_spec(info, scale=2))
    job_id = service.post(clip).json()["id"]
    service.finish(job_id, result.read_bytes())
    last = get(service, job_id)
    assert size_of(last.content) == (2 * info.video.width, 2 * info.video.height)
    assert float(last.headers["Skipvsr-Time"]) > 0
    assert last.headers["Cache-Control"] == "private, max-age=3600"
    assert get(service, job_id, t=9999).content == last.content
    again = service.client.get(f"/jobs/{job_id}/preview", headers={"If-None-Match": last.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == last.headers["ETag"]
    head = service.client.head(f"/jobs/{job_id}/preview")
    assert (head.status_code, head.content) == (200, b"")
    service.operations.storage.result_path(job_id).unlink()
    assert get(service, job_id).status_code == 410
    service.operations.storage.input_path(job_id).unlink()
    assert get(service, job_id, view="source").status_code == 410


def test_cancelled_and_failed_jobs_say_why_there_is_nothing(service: Service, clip: Path) -> None:
    cancelled = service.post(clip).json()["id"]
    service.client.post(f"/jobs/{cancelled}/cancel")
    assert get(service, cancelled).json()["type"] == "/problems/cancelled"
    failed = service.post(clip).json()["id"]
    claim = service.operations.store.claim(failed, "worker")
    assert claim
    service.operations.store.release(claim, JobState.FAILED)
    assert get(service, failed).status_code == 410
    assert get(service, failed, view="source").status_code == 200
    assert get(service, "0" * 24).status_code == 404


@pytest.mark.parametrize(
    "query", [{"t": -1}, {"t": "nan"}, {"t": "inf"}, {"t": "x"}, {"width": 8}, {"width": 9999}, {"view": "both"}]
)
def test_wrong_parameters_are_refused(service: Service, clip: Path, query: dict[str, Any]) -> None:
    answer = get(service, service.post(clip).json()["id"], **query)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == next(iter(query))


def test_links_in_place_of_files_are_refused(service: Service, clip: Path) -> None:
    job_id = service.post(clip).json()["id"]
    path = service.operations.storage.input_path(job_id)
    path.unlink()
    path.symlink_to(clip)
    assert get(service, job_id, view="source").status_code == 500


def test_a_damaged_result_is_an_error_of_the_client_and_leaves_no_trace(service: Service, clip: Path) -> None:
    job_id = service.post(clip).json()["id"]
    service.finish(job_id, b"no video at all")
    answer = get(service, job_id)
    assert answer.status_code == 415
    assert "/" not in answer.json()["detail"]


def test_a_slow_decoder_is_no_matter_of_a_setting(
    service: Service, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of previews is fixed: the answer names the time, and no setting without effect."""

    def slow(*_: Any, **__: Any) -> Preview:
        raise DecoderCrashed("Reading the video made no progress for 10 seconds (SKIPVSR_MAX_DECODER_SECONDS).")

    job_id = service.post(clip).json()["id"]
    monkeypatch.setattr(previews, "preview", slow)
    answer = service.client.get(f"/jobs/{job_id}/preview", params={"view": "source"})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/decoder-failed")
    assert "within 10 seconds" in answer.json()["detail"]
    assert "SKIPVSR" not in answer.json()["detail"]


def test_a_repeated_request_is_answered_from_memory(
    service: Service, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(previews, "preview", lambda path, *_, **__: made.append(path) or Preview(b"webp", 0.0))
    job_id = service.post(clip).json()["id"]
    for _ in range(3):
        assert get(service, job_id, view="source", t=0).content == b"webp"
    assert len(made) == 1
    get(service, job_id, view="source", t=0, width=100)
    assert len(made) == 2


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "_CACHE_BYTES", 100)
    cache = previews._Cache()
    for number in range(10):
        cache.add(number, Preview(bytes(30), 0.0))
        cache.add(number, Preview(bytes(30), 0.0))
    assert [number for number in range(10) if cache.get(number)] == [7, 8, 9]


def test_many_requests_wait_and_more_are_refused(service: Service, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "_WAITING", 2)
    release, busy, most = threading.Event(), [0], [0]
    lock = threading.Lock()

    def slow(*_: object, **__: object) -> Preview:
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        release.wait(60)
        with lock:
            busy[0] -= 1
        return Preview(b"webp", 0.0)

    monkeypatch.setattr(previews, "preview", slow)
    job_id = service.post(clip).json()["id"]
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(get, service, job_id, view="source", t=number) for number in range(12)]
        wait_until(lambda: sum(future.done() for future in asked) == 8, 60, "refusals")
        refused = next(future for future in asked if future.done()).result()
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/too-many-previews")
        assert service.client.get(f"/jobs/{job_id}").status_code == 200
        release.set()
        statuses = [future.result().status_code for future in asked]
    assert most[0] == 2
    assert statuses.count(200) == 4


def test_nobody_decodes_for_clients_that_have_gone(
    service: Service, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, made = threading.Event(), []

    def slow(*given: object, **_: object) -> Preview:
        made.append(given[1])
        release.wait(60)
        return Preview(b"webp", 0.0)

    monkeypatch.setattr(previews, "preview", slow)
    job_id = service.post(clip).json()["id"]
    waiting = service.app.state.previews._places.statistics
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(get, service, job_id, view="source", t=number) for number in range(2)]
        wait_until(lambda: len(made) == 2, 60, "two pictures in work")
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(f"GET /jobs/{job_id}/preview?view=source&t=2 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            wait_until(lambda: waiting().tasks_waiting == 1, 60, "a request that waits")
        asked.append(pool.submit(get, service, job_id, view="source", t=3))
        wait_until(lambda: waiting().tasks_waiting == 2, 60, "another request that waits")
        release.set()
        assert [future.result().status_code for future in asked] == [200] * 3
    assert sorted(made) == [0, 1, 3]


def test_a_worker_s_unfinished_result_looks_like_the_finished_one(settings: Settings, tmp_path: Path) -> None:
    """The worker waits in the middle of its third chunk until the job is paused."""
    clip = make_clip(tmp_path / "clip.mp4", frames=12, width=64, height=48, sound=True)
    with serving(settings) as service, held_crew(settings, tmp_path, 3):
        job_id = service.post(clip, model="tiny", chunk="2", scale="2").json()["id"]

        def newest() -> Any:
            return get(service, job_id)

        wait_until(lambda: newest().status_code == 200, 90, "no finished frame")
        found = newest()
        seconds = found.headers["Skipvsr-Time"]
        early = get(service, job_id, t=seconds)
        service.operations.pause(job_id)
        wait_until(lambda: service.operations.get(job_id).state is JobState.PAUSED, 60, "not paused")
        service.operations.resume(job_id)
        done = service.client.get(f"/jobs/{job_id}?wait=60").json()
        assert done["state"] == "done", done["error"]
        late = get(service, job_id, t=seconds)
        assert late.headers["Skipvsr-Time"] == seconds
        assert np.abs(pixels_of(early.content) - pixels_of(late.content)).max() <= 2
        assert np.abs(
            pixels_of(late.content) - pixels_of(get(service, job_id, view="bicubic", t=seconds).content)
        ).max()
