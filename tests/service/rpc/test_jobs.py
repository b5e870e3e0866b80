"""Jobs over gRPC. Store and errors are the same as for REST."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from jobs.presence import WorkerInfo
from jobs.schema import Estimate, Job, JobMetrics, JobOptions, Progress, QueuePlace, StreamFacts
from service.operations import Operations
from skipvsr.v1 import upscaler_pb2 as pb
from skipvsr_client.live import StreamClient
from tests.support.clips import make_clip
from tests.support.processes import wait_until
from tests.support.rpc_jobs import finish, upload
from tests.support.rpc_server import RpcServer, details, rpc_server


def test_from_upload_to_download(client: StreamClient, operations: Operations, tmp_path: Path) -> None:
    data = make_clip(tmp_path / "clip.mp4").read_bytes()
    job = client.jobs.CreateJob(
        upload(data, len(data), lookahead=2, scale=2, priority="high", container="mkv"), timeout=60
    ).job
    assert job.state == pb.JOB_STATE_QUEUED
    assert job.filename == "my clip.mp4"
    assert (job.input.width, job.input.height, job.input.frames) == (32, 24, 24)
    assert (job.options.lookahead, job.options.scale, job.options.priority, job.options.chunk) == (2, 2, "high", 24)
    assert (job.options.container, job.options.codec) == ("mkv", "auto")
    assert operations.storage.input_path(job.id).read_bytes() == data

    with pytest.raises(grpc.RpcError) as early:
        list(client.jobs.DownloadResult(pb.DownloadResultRequest(job_id=job.id), timeout=60))
    assert early.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert details(early.value)["ErrorInfo"].reason == "NOT_READY"

    seen: list[pb.Job] = []
    watch = threading.Thread(
        target=lambda: seen.extend(
            answer.job for answer in client.jobs.WatchJob(pb.WatchJobRequest(job_id=job.id), timeout=60)
        )
    )
    watch.start()
    wait_until(lambda: bool(seen), 60, "the watch does not begin")
    result = bytes(range(256)) * 3000
    finish(operations, job.id, result)
    watch.join(60)
    assert seen[0].state == pb.JOB_STATE_QUEUED
    assert seen[-1].state == pb.JOB_STATE_DONE

    first, *rest = client.jobs.DownloadResult(pb.DownloadResultRequest(job_id=job.id), timeout=60)
    assert (first.file.filename, first.file.size_bytes) == ("my clip-x2.mkv", len(result))
    assert first.file.media_type == "video/matroska"
    assert b"".join(part.data for part in rest) == result
    _, *rest = client.jobs.DownloadResult(pb.DownloadResultRequest(job_id=job.id, offset=700_000), timeout=60)
    assert b"".join(part.data for part in rest) == result[700_000:]
    assert client.jobs.GetJob(pb.GetJobRequest(job_id=job.id), timeout=60).job.HasField("finished_at")


def test_request_id_is_logged_and_returned(client: StreamClient, server: RpcServer, tmp_path: Path) -> None:
    data = make_clip(tmp_path / "clip.mp4", frames=6).read_bytes()
    answer, call = client.jobs.CreateJob.with_call(upload(data), timeout=60, metadata=(("x-request-id", "from-me.7"),))
    assert dict(call.trailing_metadata())["x-request-id"] == "from-me.7"
    assert f"job {answer.job.id}: queued by request from-me.7" in server.log
    with pytest.raises(grpc.RpcError) as unknown:
        client.jobs.GetJob(pb.GetJobRequest(job_id="0" * 24), timeout=60, metadata=(("x-request-id", "not harmless"),))
    assert len(dict(unknown.value.trailing_metadata())["x-request-id"]) == 16
    assert details(unknown.value)["ErrorInfo"].reason == "NOT_FOUND"


def test_list_pause_resume_cancel(client: StreamClient, operations: Operations, tmp_path: Path) -> None:
    data = make_clip(tmp_path / "clip.mp4", frames=6).read_bytes()
    ids = [client.jobs.CreateJob(upload(data), timeout=60).job.id for _ in range(3)]
    page = client.jobs.ListJobs(pb.ListJobsRequest(page_size=2), timeout=60)
    assert [job.id for job in page.jobs] == ids[:0:-1]
    page = client.jobs.ListJobs(pb.ListJobsRequest(page_size=2, page_token=page.next_page_token), timeout=60)
    assert [job.id for job in page.jobs] == ids[:1]
    assert not page.next_page_token
    assert client.jobs.PauseJob(pb.PauseJobRequest(job_id=ids[0]), timeout=60).job.state == pb.JOB_STATE_PAUSED
    paused = client.jobs.ListJobs(pb.ListJobsRequest(state=pb.JOB_STATE_PAUSED), timeout=60)
    assert [job.id for job in paused.jobs] == ids[:1]
    assert client.jobs.ResumeJob(pb.ResumeJobRequest(job_id=ids[0]), timeout=60).job.state == pb.JOB_STATE_QUEUED
    assert client.jobs.CancelJob(pb.CancelJobRequest(job_id=ids[0]), timeout=60).job.state == pb.JOB_STATE_CANCELLED
    assert not operations.storage.input_path(ids[0]).exists()


def test_lists_have_totals_filters_and_pages(client: StreamClient, operations: Operations, tmp_path: Path) -> None:
    data = make_clip(tmp_path / "clip.mp4", frames=6).read_bytes()
    ids = [client.jobs.CreateJob(upload(data), timeout=60).job.id for _ in range(4)]
    operations.pause(ids[0])
    operations.cancel(ids[1])

    def listed(**fields: object) -> pb.ListJobsResponse:
        return client.jobs.ListJobs(pb.ListJobsRequest(**fields), timeout=60)  # type: ignore[arg-type]

    first = listed(page_size=3)
    last = listed(page_size=3, page_token=first.next_page_token)
    assert [job.id for job in (*first.jobs, *last.jobs)] == ids[::-1]
    assert (first.total, last.total, last.next_page_token) == (4, 4, "")
    numbers = {count.state: count.jobs for count in first.counts}
    assert (numbers[pb.JOB_STATE_QUEUED], numbers[pb.JOB_STATE_PAUSED], numbers[pb.JOB_STATE_CANCELLED]) == (2, 1, 1)
    some = listed(states=[pb.JOB_STATE_PAUSED, pb.JOB_STATE_CANCELLED])
    assert ([job.id for job in some.jobs], some.total) == (ids[1::-1], 2)
    assert listed(state=pb.JOB_STATE_PAUSED, filename_contains="MY CLIP").total == 1
    assert listed(filename_contains="another").total == 0
    with pytest.raises(grpc.RpcError, match="unknown job state 99"):
        listed(states=[99])


def test_a_running_job_shows_the_request_that_is_pending(
    client: StreamClient, operations: Operations, tmp_path: Path
) -> None:
    data = make_clip(tmp_path / "clip.mp4", frames=6).read_bytes()
    job_id = client.jobs.CreateJob(upload(data), timeout=60).job.id
    waiting = client.jobs.GetJob(pb.GetJobRequest(job_id=job_id), timeout=60).job
    assert (waiting.request, waiting.queue.position) == (pb.PENDING_REQUEST_UNSPECIFIED, 1)
    assert operations.store.claim(job_id, "test-worker") is not None
    pausing = client.jobs.PauseJob(pb.PauseJobRequest(job_id=job_id), timeout=60).job
    assert (pausing.state, pausing.request) == (pb.JOB_STATE_RUNNING, pb.PENDING_REQUEST_PAUSE)
    assert not pausing.HasField("queue")
    cancelling = client.jobs.CancelJob(pb.CancelJobRequest(job_id=job_id), timeout=60).job
    assert cancelling.request == pb.PENDING_REQUEST_CANCEL


def test_a_finished_job_names_the_time_of_its_removal(
    client: StreamClient, operations: Operations, tmp_path: Path
) -> None:
    data = make_clip(tmp_path / "clip.mp4", frames=6).read_bytes()
    job_id = client.jobs.CreateJob(upload(data), timeout=60).job.id
    finish(operations, job_id, b"result")
    job = client.jobs.GetJob(pb.GetJobRequest(job_id=job_id), timeout=60).job
    assert job.expires_at.ToDatetime() > job.finished_at.ToDatetime()


def ends(data: bytes, size: int, head: int, tail: int, **options: object) -> Iterator[pb.EstimateJobRequest]:
    chosen = pb.JobOptions(**options)  # type: ignore[arg-type]
    yield pb.EstimateJobRequest(config=pb.EstimateConfig(size_bytes=size, options=chosen))
    for start in range(0, head, 1000):
        yield pb.EstimateJobRequest(head=pb.UploadChunk(data=data[start : min(start + 1000, head)]))
    if tail:
        yield pb.EstimateJobRequest(tail=pb.UploadChunk(data=data[-tail:]))


def test_an_estimate_needs_the_ends_of_a_file(client: StreamClient, operations: Operations, tmp_path: Path) -> None:
    data = make_clip(tmp_path / "clip.mp4", frames=60, width=64, height=48).read_bytes()
    operations.presence.announce(
        WorkerInfo(
            name="w",
            host="here",
            pid=1,
            device="cpu",
            model="tiny",
            models=["tiny"],
            started_at=datetime.now(UTC),
        ),
        ttl=60,
    )

    def estimated() -> pb.EstimateJobResponse:
        return client.jobs.EstimateJob(ends(data, len(data), 2000, 4000, scale=2), timeout=60)

    wait_until(lambda: estimated().workers == 1, 60, "the server knows no worker")
    answer = estimated()
    assert (answer.input.width, answer.input.frames, answer.input.size_bytes) == (64, 60, len(data))
    assert (answer.output.width, answer.output.height, answer.output.frames) == (128, 96, 60)
    assert (answer.scale, answer.workers, answer.model) == (2, 1, "tiny")
    assert not answer.HasField("estimate")
    assert any("speed" in warning for warning in answer.warnings)
    assert not operations.recent()
    for request, reason in (
        (ends(data, len(data), 500, 0), "HEADER_NOT_SENT"),
        (ends(data, 100, 2000, 0), "INVALID_REQUEST"),
        (ends(data, 10**12, 2000, 4000), "TOO_LARGE"),
        (ends(bytes(5_000_000), 5_000_000, 5_000_000, 0), "INVALID_REQUEST"),
        (upload(data), "INVALID_REQUEST"),
    ):
        with pytest.raises(grpc.RpcError) as error:
            client.jobs.EstimateJob(request, timeout=60)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details(error.value)["ErrorInfo"].reason == reason


def test_estimates_at_the_same_time_are_limited(client: StreamClient) -> None:
    over = threading.Event()

    def held() -> Iterator[pb.EstimateJobRequest]:
        yield from ends(bytes(1000), 10_000, 1000, 0)
        over.wait(60)

    def refusal() -> tuple[grpc.StatusCode, str, bool]:
        with pytest.raises(grpc.RpcError) as error:
            client.jobs.EstimateJob(ends(bytes(1000), 1000, 1000, 0), timeout=60)
        found = details(error.value)
        return error.value.code(), found["ErrorInfo"].reason, "RetryInfo" in found

    calls = [client.jobs.EstimateJob.future(held(), timeout=60) for _ in range(8)]
    try:
        busy = (grpc.StatusCode.UNAVAILABLE, "TOO_MANY_ESTIMATES", True)
        wait_until(lambda: refusal() == busy, 60, "a ninth estimate was accepted")
    finally:
        over.set()
        for call in calls:
            call.cancel()
    wait_until(lambda: refusal()[1] != "TOO_MANY_ESTIMATES", 60, "the places are still taken")


def test_every_wrong_field_is_named(client: StreamClient) -> None:
    with pytest.raises(grpc.RpcError) as error:
        client.jobs.CreateJob(upload(b"x", crf=99, codec="mp3"), timeout=60)
    violations = details(error.value)["BadRequest"].field_violations
    assert {each.field for each in violations} == {"config.options.crf", "config.options.codec"}
    assert all(each.description for each in violations)


def test_delete_and_download_of_the_input(client: StreamClient, operations: Operations, tmp_path: Path) -> None:
    data = make_clip(tmp_path / "clip.mp4").read_bytes()
    job_id = client.jobs.CreateJob(upload(data), timeout=60).job.id
    request = pb.DownloadInputRequest(job_id=job_id)
    first, *rest = client.jobs.DownloadInput(request, timeout=60)
    assert (first.file.filename, first.file.size_bytes) == ("my clip.mp4", len(data))
    assert first.file.media_type == "application/octet-stream"
    assert b"".join(part.data for part in rest) == data
    _, *rest = client.jobs.DownloadInput(pb.DownloadInputRequest(job_id=job_id, offset=500), timeout=60)
    assert b"".join(part.data for part in rest) == data[500:]
    with pytest.raises(grpc.RpcError, match="beyond the file's size"):
        list(client.jobs.DownloadInput(pb.DownloadInputRequest(job_id=job_id, offset=10**9), timeout=60))
    finish(operations, job_id, b"result")
    assert client.jobs.DeleteJob(pb.DeleteJobRequest(job_id=job_id), timeout=60).job.state == pb.JOB_STATE_DONE
    for call in (
        lambda: client.jobs.GetJob(pb.GetJobRequest(job_id=job_id), timeout=60),
        lambda: client.jobs.DeleteJob(pb.DeleteJobRequest(job_id=job_id), timeout=60),
        lambda: list(client.jobs.DownloadInput(request, timeout=60)),
    ):
        with pytest.raises(grpc.RpcError) as error:
            call()
        assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_errors_match_rest(client: StreamClient, server: RpcServer) -> None:
    for call in (
        lambda: client.jobs.GetJob(pb.GetJobRequest(job_id="0" * 16), timeout=60),
        lambda: client.jobs.GetJob(pb.GetJobRequest(job_id="../../etc"), timeout=60),
        lambda: list(client.jobs.WatchJob(pb.WatchJobRequest(job_id="nothing"), timeout=60)),
        lambda: client.jobs.CancelJob(pb.CancelJobRequest(job_id=""), timeout=60),
    ):
        with pytest.raises(grpc.RpcError) as error:
            call()
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        assert details(error.value)["ErrorInfo"].reason == "NOT_FOUND"
    for request in (
        pb.ListJobsRequest(page_size=1000),
        pb.ListJobsRequest(page_token="x"),
        pb.ListJobsRequest(page_token="9" * 5000),
        pb.ListJobsRequest(filename_contains="x" * 201),
    ):
        with pytest.raises(grpc.RpcError) as error:
            client.jobs.ListJobs(request, timeout=60)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_without_redis_only_jobs_are_unavailable(tmp_path: Path) -> None:
    with rpc_server(tmp_path, "redis://127.0.0.1:1/0") as server, server.client() as client:
        with pytest.raises(grpc.RpcError) as error:
            client.jobs.GetJob(pb.GetJobRequest(job_id="0" * 16), timeout=60)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert details(error.value)["RetryInfo"].retry_delay.seconds == 5
        assert client.upscaler.ListModels(pb.ListModelsRequest(), timeout=60).models


def test_messages_have_every_field_of_the_documents() -> None:
    """Fails if a new field of a job document is missing in upscaler.proto."""
    for model, message, left_out in (
        (Job, pb.Job, {"traceparent"}),
        (Progress, pb.Progress, set()),
        (Estimate, pb.Estimate, set()),
        (QueuePlace, pb.QueuePlace, set()),
        (JobMetrics, pb.JobMetrics, {"chunk_seconds"}),
        (JobOptions, pb.JobOptions, set()),
        (StreamFacts, pb.StreamFacts, set()),
    ):
        assert set(model.model_fields) - left_out == {field.name for field in message.DESCRIPTOR.fields}


def test_a_link_in_place_of_the_result_is_not_served(
    client: StreamClient, operations: Operations, tmp_path: Path
) -> None:
    data = make_clip(tmp_path / "clip.mp4", frames=6).read_bytes()
    job = client.jobs.CreateJob(upload(data), timeout=60).job
    finish(operations, job.id, b"the result")
    path = operations.storage.result_path(job.id)
    (tmp_path / "secret").write_bytes(b"secret of the machine")
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(grpc.RpcError, match="no regular file"):
        list(client.jobs.DownloadResult(pb.DownloadResultRequest(job_id=job.id), timeout=60))


def test_watchers_are_limited(client: StreamClient, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4").read_bytes()
    request = pb.WatchJobRequest(job_id=client.jobs.CreateJob(upload(clip)).job.id)
    calls = [client.jobs.WatchJob(request) for _ in range(3)]
    for call in calls:
        assert next(call).job.state == pb.JOB_STATE_QUEUED
    with pytest.raises(grpc.RpcError) as error:
        next(client.jobs.WatchJob(request))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details(error.value)["ErrorInfo"].reason == "TOO_MANY_WATCHERS"
    for call in calls:
        call.cancel()


def test_downloads_that_are_not_read_are_limited_and_end(
    client: StreamClient, operations: Operations, tmp_path: Path
) -> None:
    """600 such downloads once held 600 files and 670 MB."""
    clip = make_clip(tmp_path / "clip.mp4").read_bytes()
    job_id = client.jobs.CreateJob(upload(clip), timeout=60).job.id
    finish(operations, job_id, bytes(50_000_000))
    request = pb.DownloadResultRequest(job_id=job_id)
    calls = [client.jobs.DownloadResult(request, timeout=60) for _ in range(2)]
    for call in calls:
        assert next(call).HasField("file")
    with pytest.raises(grpc.RpcError) as error:
        next(client.jobs.DownloadResult(request, timeout=60))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details(error.value)["ErrorInfo"].reason == "TOO_MANY_DOWNLOADS"
    assert "SKIPVSR_GRPC_MAX_DOWNLOADS" in error.value.details()
    found: list[bytes] = []

    def downloaded() -> bool:
        """Whether a third download has a place: the server has ended the two that nobody reads."""
        try:
            found[:] = [part.data for part in client.jobs.DownloadResult(request, timeout=60)]
        except grpc.RpcError:
            return False
        return True

    wait_until(downloaded, 60, "downloads that are not read go on")
    assert sum(map(len, found)) == 50_000_000
    for call in calls:
        with pytest.raises(grpc.RpcError) as error:
            list(call)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert details(error.value)["ErrorInfo"].reason == "CLIENT_IDLE"
