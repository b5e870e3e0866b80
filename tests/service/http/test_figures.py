"""Report and skip map over HTTP: of waiting, running, finished and removed jobs."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.figures import FILES, FiguresWriter
from jobs.schema import JobState
from jobs.settings import Settings
from tests.support.clips import make_clip
from tests.support.figures import FACTS, chunk, maps
from tests.support.http_server import Service, serving


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings) as running:
        running.announce_worker()
        yield running


def test_a_running_and_a_finished_job_have_figures(service: Service, tmp_path: Path) -> None:
    job_id = service.post(make_clip(tmp_path / "clip.mp4", frames=2)).json()["id"]
    store, storage, get = service.operations.store, service.operations.storage, service.client.get
    report, skipmap = f"/jobs/{job_id}/report", f"/jobs/{job_id}/skipmap"
    assert [get(path).status_code for path in (report, skipmap)] == [409, 409]
    claim = store.claim(job_id, "w")
    assert claim is not None
    work = storage.take_work(job_id, claim.token)
    writer = FiguresWriter(work, FACTS, 0)
    assert (get(report).json()["chunks"], get(skipmap).json()["frames"]) == ([], [])
    writer.add(chunk(0, 4), maps(0, 4))
    answer = get(report).json()
    assert (answer["source"], answer["target"], answer["model"], answer["size"]) == (
        "clip.mp4",
        None,
        "tiny",
        [160, 96],
    )
    assert answer["chunks"] == [chunk(0, 4).model_dump()]
    writer.add(chunk(4, 4), maps(4, 4))
    for name in FILES:
        storage.publish(work / name, job_id)
    (work / "result.mp4").write_bytes(b"the result")
    storage.publish(work / "result.mp4", job_id)
    store.release(claim, JobState.DONE)
    storage.remove_work(job_id)
    answer = get(report).json()
    assert (answer["target"], len(answer["chunks"])) == ("clip-x4.mp4", 2)
    page = get(skipmap, params={"first": 3, "count": 2}).json()
    assert (page["total"], page["first"], page["columns"], page["rows"], page["cell"]) == (8, 3, 5, 3, 8)
    assert [base64.b64decode(frame) for frame in page["frames"]] == maps(3, 2)
    assert get(skipmap, params={"first": 100}).json()["frames"] == []
    assert get(skipmap, params={"count": 100_000}).status_code == 400


def test_a_job_without_files_has_no_figures(service: Service, tmp_path: Path) -> None:
    job_id = service.post(make_clip(tmp_path / "clip.mp4", frames=2)).json()["id"]
    service.client.post(f"/jobs/{job_id}/cancel")
    answer = service.client.get(f"/jobs/{job_id}/report")
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/cancelled")
