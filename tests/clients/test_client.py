"""skipvsr_client against the real service: jobs, errors, progress, and what happens when connections break."""

from __future__ import annotations

import inspect
import threading
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import anyio
import pytest

from commands.shared.embedded_redis import EmbeddedRedis
from jobs import schema
from jobs.presence import WorkerInfo
from jobs.schema import JobState
from jobs.settings import Settings
from service.http.responses import JobDocument, JobList
from service.http.routes.estimate import EstimateDocument, EstimatedOutput
from service.operations import Operations
from skipvsr_client import (
    Activity,
    AsyncClient,
    AsyncJobs,
    Client,
    ConnectionFailed,
    InvalidRequest,
    Job,
    JobCancelled,
    JobFailed,
    Jobs,
    NotFound,
    NotPossible,
    SkipVsrError,
    Unauthorized,
    documents,
)
from tests.support.http_server import Service, serving
from tests.support.processes import wait_until
from tests.support.rpc_server import Proxy

PUBLIC = {AsyncClient: Client, AsyncJobs: Jobs}


def finished_later(service: Service, result: bytes, state: JobState = JobState.DONE) -> threading.Thread:
    """Finish the next job as a worker would."""
    known = {job.id for job in service.operations.recent()}

    def finish() -> None:
        wait_until(lambda: {job.id for job in service.operations.recent()} > known, 60, "no job")
        (job_id,) = {job.id for job in service.operations.recent()} - known
        service.finish(job_id, result, state)

    thread = threading.Thread(target=finish)
    thread.start()
    return thread


def public(cls: type) -> dict[str, object]:
    return {name: getattr(cls, name) for name in dir(cls) if not name.startswith("_")}


@pytest.mark.parametrize("asynchronous", PUBLIC)
def test_both_clients_have_the_same_methods(asynchronous: type) -> None:
    synchronous = PUBLIC[asynchronous]
    theirs, ours = public(asynchronous), public(synchronous)
    assert set(theirs) == set(ours) - {"connection"}
    for name, method in ours.items():
        if not callable(method):
            continue
        wanted, found = (inspect.signature(function) for function in (theirs[name], method))  # type: ignore[arg-type]
        assert list(found.parameters) == list(wanted.parameters), name
        assert inspect.getdoc(method), name
        assert not inspect.iscoroutinefunction(method), name


def test_upscale_reports_every_phase(service: Service, client: Client, clip: Path, tmp_path: Path) -> None:
    seen: list[Activity] = []
    worker = finished_later(service, b"result" * 100_000)
    upscaled = client.upscale(clip, tmp_path, on_progress=seen.append, scale=2, model="auto")
    worker.join()
    assert upscaled.path == tmp_path / "clip-x2.mp4"
    assert upscaled.path.read_bytes() == b"result" * 100_000
    assert (upscaled.job.state, upscaled.job.options["scale"]) == ("done", 2)
    assert upscaled.job.input is not None
    assert (upscaled.job.input.width, upscaled.job.input.frames) == (32, 4)
    phases = list(dict.fromkeys(activity.phase for activity in seen))
    assert phases[0] == "uploading"
    assert phases[-2:] == ["done", "downloading"]
    assert (seen[-1].done, seen[-1].total) == (600_000, 600_000)
    uploaded = [activity for activity in seen if activity.phase == "uploading"]
    assert uploaded[-1].done == uploaded[-1].total == clip.stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip-x2.mp4"]


@pytest.mark.parametrize("backend", ["asyncio"])
def test_upscale_in_an_event_loop(service: Service, clip: Path, tmp_path: Path, backend: str) -> None:
    async def upscale() -> None:
        async with AsyncClient(service.url) as client:
            job = await client.submit(clip, scale=2)
            assert [job.id for job in (await client.jobs.list(limit=1)).jobs] == [job.id]
            watched = []
            async for changed in client.watch(job.id):
                watched.append(changed.state)
                if len(watched) == 1:
                    await anyio.to_thread.run_sync(service.finish, job.id, b"result")
            assert (watched[0], watched[-1]) == ("queued", "done")
            path = await client.download(job.id, tmp_path / "out.mp4")
            assert path.read_bytes() == b"result"

    anyio.run(upscale, backend=backend)


def test_jobs_are_listed_and_changed(service: Service, client: Client, clip: Path) -> None:
    first, second = client.submit(clip, filename="one.mp4"), client.submit(clip, filename="two.mp4")
    assert [job.id for job in client.jobs.list(limit=2).jobs] == [second.id, first.id]
    assert [job.filename for job in client.jobs.list(limit=1, offset=1).jobs] == ["one.mp4"]
    assert [job.id for job in client.jobs.all()][:2] == [second.id, first.id]
    assert client.jobs.pause(first.id).state == "paused"
    assert [job.id for job in client.jobs.list(state="paused").jobs] == [first.id]
    assert client.jobs.resume(first.id).state == "queued"
    assert client.jobs.cancel(first.id).state == "cancelled"
    assert client.jobs.delete(first.id).id == first.id
    with pytest.raises(NotFound) as unknown:
        client.jobs.get(first.id)
    assert (unknown.value.status, unknown.value.kind) == (404, "not-found")
    assert first.id in str(unknown.value)
    assert client.jobs.get(second.id).document["id"] == second.id


def test_a_job_that_fails_or_is_cancelled(service: Service, client: Client, clip: Path, tmp_path: Path) -> None:
    worker = finished_later(service, b"", JobState.FAILED)
    with pytest.raises(JobFailed) as failed:
        client.upscale(clip, tmp_path / "out.mp4")
    worker.join()
    assert failed.value.job.state == "failed"
    job = client.submit(clip)
    client.jobs.cancel(job.id)
    with pytest.raises(NotPossible, match="cancelled"):
        client.download(job.id, tmp_path / "out.mp4")
    assert client.wait(job.id).state == "cancelled"
    assert issubclass(JobCancelled, JobFailed)
    assert not list(tmp_path.iterdir())


def test_wait_gives_up_in_time(client: Client, clip: Path) -> None:
    job = client.submit(clip)
    with pytest.raises(TimeoutError, match="queued"):
        client.wait(job.id, timeout=0.3)


def test_problem_documents_become_exceptions(client: Client, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="crf") as invalid:
        client.submit(clip, crf=99)
    assert invalid.value.status in (400, 422)
    assert invalid.value.kind == "invalid-request"
    assert invalid.value.request_id
    (tmp_path / "text.mp4").write_text("no video" * 100)
    with pytest.raises(InvalidRequest) as unusable:
        client.submit(tmp_path / "text.mp4")
    assert unusable.value.kind == "unsupported-media"
    with pytest.raises(FileNotFoundError):
        client.submit(tmp_path / "absent.mp4")


def test_an_api_key_is_sent_and_not_shown(redis_server: EmbeddedRedis, tmp_path: Path, clip: Path) -> None:
    settings = Settings(redis_url=redis_server.url, data_dir=tmp_path, http_port=0, api_key="sésame")  # type: ignore[arg-type]
    with serving(settings) as service:
        with Client(service.url) as client, pytest.raises(Unauthorized):
            client.jobs.list()
        with Client(service.url, "sésame") as client:
            assert client.submit(clip).state == "queued"
            assert "sésame" not in repr(client.connection)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://here", "http://", "http://[::1"])
def test_a_bad_address_is_named(url: str) -> None:
    with pytest.raises(SkipVsrError, match="is not the address of a server"):
        Client(url)


def test_a_server_that_does_not_run_is_named_at_once() -> None:
    begun = time.monotonic()
    with (
        Client("http://127.0.0.1:1", patience=600) as client,
        pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:1 .*skipvsr up"),
    ):
        client.models()
    assert time.monotonic() - begun < 300


def test_a_lost_answer_creates_no_second_job(
    service: Service, proxy: Proxy, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks when the job is queued, before the answer."""
    made: list[str] = []
    submit = Operations.submit

    def cut_off(*args: Any) -> Any:
        job = submit(*args)
        made.append(job.id)
        proxy.cut()
        return job

    monkeypatch.setattr(Operations, "submit", cut_off)
    seen: list[Activity] = []
    with Client(f"http://{proxy.address}", patience=20) as client:
        job = client.submit(clip, on_progress=seen.append)
    assert made == [job.id]
    assert "away" in [activity.phase for activity in seen]


def test_a_cut_download_resumes(service: Service, proxy: Proxy, client: Client, clip: Path, tmp_path: Path) -> None:
    job = client.submit(clip)
    result = bytes(range(256)) * 200_000
    service.finish(job.id, result)
    cuts: list[int] = []

    def cut(activity: Activity) -> None:
        if activity.phase == "downloading" and activity.done >= (len(cuts) + 1) * 10_000_000 and len(cuts) < 3:
            cuts.append(activity.done)
            proxy.cut()

    with Client(f"http://{proxy.address}", patience=20) as through:
        path = through.download(job.id, tmp_path / "out.mp4", on_progress=cut)
    assert len(cuts) == 3
    assert path.read_bytes() == result
    assert [found.name for found in tmp_path.iterdir()] == ["out.mp4"]


def test_a_download_continues_in_a_new_process(
    service: Service, proxy: Proxy, client: Client, clip: Path, tmp_path: Path
) -> None:
    job = client.submit(clip)
    result = bytes(range(256)) * 100_000
    service.finish(job.id, result)

    class Interrupted(Exception):
        pass

    def interrupt(activity: Activity) -> None:
        if activity.done > 5_000_000:
            raise Interrupted

    with pytest.raises(Interrupted):
        client.download(job.id, tmp_path / "out.mp4", on_progress=interrupt)
    assert not (tmp_path / "out.mp4").exists()
    (part,) = tmp_path.iterdir()
    kept = part.stat().st_size
    first: list[Activity] = []
    with Client(service.url) as again:
        again.download(job.id, tmp_path / "out.mp4", on_progress=first.append)
    assert first[0].done == kept > 5_000_000
    assert (tmp_path / "out.mp4").read_bytes() == result
    assert [found.name for found in tmp_path.iterdir()] == ["out.mp4"]


def test_watch_survives_a_server_that_restarts(redis_server: EmbeddedRedis, tmp_path: Path, clip: Path) -> None:
    seen: list[str] = []

    def on_progress(activity: Activity) -> None:
        seen.append(activity.phase)

    settings = Settings(redis_url=redis_server.url, data_dir=tmp_path, http_port=0)
    with serving(settings) as service:
        job_id = service.post(clip, scale="2").json()["id"]
        between = Proxy(service.port)
        waited: list[Job] = []
        with Client(f"http://{between.address}", patience=600) as client:
            client.models()
            thread = threading.Thread(target=lambda: waited.append(client.wait(job_id, on_progress=on_progress)))
            thread.start()
            wait_until(lambda: "queued" in seen, 60, "not watched")
            between.cut()
            time.sleep(0.5)
            service.finish(job_id, b"result")
            thread.join(60)
        between.close()
    assert [job.state for job in waited] == ["done"]


def test_documents_have_every_field_of_the_server() -> None:
    for ours, theirs in (
        (documents.Job, JobDocument),
        (documents.JobEstimate, schema.Estimate),
        (documents.JobPage, JobList),
        (documents.Queue, schema.QueuePlace),
        (documents.Progress, schema.Progress),
        (documents.Metrics, schema.JobMetrics),
        (documents.StreamFacts, schema.StreamFacts),
        (documents.Problem, schema.Problem),
        (documents.Estimate, EstimateDocument),
        (documents.OutputFacts, EstimatedOutput),
        (documents.Worker, WorkerInfo),
    ):
        assert {field.name for field in fields(ours)} >= set(theirs.model_fields), ours  # type: ignore[arg-type]
    assert set(documents.Options.__annotations__) == set(schema.JobRequest.model_fields)
