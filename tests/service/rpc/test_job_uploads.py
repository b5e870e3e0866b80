"""Uploads of jobs over gRPC: repeated, refused, cut off, and too many at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from service.operations import Operations
from skipvsr.v1 import upscaler_pb2 as pb
from skipvsr_client.live import StreamClient
from tests.support.clips import make_clip
from tests.support.processes import wait_until
from tests.support.rpc_jobs import upload
from tests.support.rpc_server import details


def test_a_repeated_upload_creates_no_second_job(client: StreamClient, operations: Operations, tmp_path: Path) -> None:
    data = make_clip(tmp_path / "clip.mp4", frames=6).read_bytes()
    first = client.jobs.CreateJob(upload(data, key="mine", crf=20), timeout=60)
    again = client.jobs.CreateJob(upload(data, len(data), key="mine", crf=20), timeout=60)
    assert (first.replayed, again.replayed) == (False, True)
    assert first.job.id == again.job.id
    for other in (upload(data, key="mine", crf=21), upload(data[:-1], key="mine", crf=20)):
        with pytest.raises(grpc.RpcError) as reused:
            client.jobs.CreateJob(other, timeout=60)
        assert reused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details(reused.value)["ErrorInfo"].reason == "KEY_REUSED"
    assert client.jobs.CreateJob(upload(data, key="another", crf=20), timeout=60).job.id != first.job.id
    assert len(operations.recent()) == 2
    assert not [path for path in operations.storage.uploads.glob("*") if path.is_file()]


def test_a_key_is_busy_during_its_upload_and_free_after_a_failed_one(
    client: StreamClient, operations: Operations, tmp_path: Path
) -> None:
    data = make_clip(tmp_path / "clip.mp4", frames=6).read_bytes()
    over = threading.Event()

    def held() -> Iterator[pb.CreateJobRequest]:
        yield from upload(data[:1000], len(data), key="mine")
        over.wait(60)

    call = client.jobs.CreateJob.future(held(), timeout=60)
    wait_until(lambda: bool(list(operations.storage.uploads.glob("*.part"))), 60, "the upload did not begin")
    with pytest.raises(grpc.RpcError) as busy:
        client.jobs.CreateJob(upload(data, key="mine"), timeout=60)
    assert details(busy.value)["ErrorInfo"].reason == "NOT_READY"
    over.set()
    with pytest.raises(grpc.RpcError):
        call.result()
    assert client.jobs.CreateJob(upload(data, key="mine"), timeout=60).job.state == pb.JOB_STATE_QUEUED
    for key in ("x" * 256, "two\nlines"):
        with pytest.raises(grpc.RpcError, match="idempotency_key"):
            client.jobs.CreateJob(upload(data, key=key), timeout=60)


@pytest.mark.parametrize(
    ("data", "options", "code", "words"),
    [
        (b"", {}, "INVALID_ARGUMENT", "empty"),
        (b"no video at all" * 99, {}, "INVALID_ARGUMENT", ""),
        (bytes(300_000), {}, "INVALID_ARGUMENT", "SKIPVSR_MAX_UPLOAD_BYTES"),
        (b"x", {"crf": 99}, "INVALID_ARGUMENT", "crf"),
        (b"x", {"scale": 2, "height": 100}, "INVALID_ARGUMENT", "not both"),
    ],
)
def test_refused_uploads_leave_no_files(
    client: StreamClient, operations: Operations, data: bytes, options: dict[str, object], code: str, words: str
) -> None:
    with pytest.raises(grpc.RpcError) as error:
        client.jobs.CreateJob(upload(data, **options), timeout=60)
    assert error.value.code().name == code
    assert words in error.value.details()
    assert details(error.value)["ErrorInfo"].domain == "skipvsr"
    assert not [path for path in operations.storage.uploads.glob("*") if path.is_file()]


def test_truncated_and_stalled_uploads(client: StreamClient, operations: Operations) -> None:
    with pytest.raises(grpc.RpcError) as error:
        client.jobs.CreateJob(upload(bytes(1000), 2000), timeout=60)
    assert "cut off" in error.value.details()

    over = threading.Event()

    def stalled() -> Iterator[pb.CreateJobRequest]:
        yield from upload(bytes(1000))
        over.wait(60)

    with pytest.raises(grpc.RpcError) as error:
        client.jobs.CreateJob(stalled(), timeout=60)
    over.set()
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: not list(operations.storage.uploads.glob("*.part")), 60, "the stalled upload is still there")


def test_slow_uploads_are_cut_off(client: StreamClient, operations: Operations) -> None:
    """A client that sends a little and never pauses for long holds its place for a few seconds only."""

    def slow() -> Iterator[pb.CreateJobRequest]:
        for part in upload(bytes(60_000), 60_000):
            yield part
            time.sleep(0.3)

    with pytest.raises(grpc.RpcError) as error:
        client.jobs.CreateJob(slow(), timeout=60)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "SKIPVSR_UPLOAD_MIN_RATE" in error.value.details()
    assert details(error.value)["ErrorInfo"].reason == "UPLOAD_STALLED"
    wait_until(lambda: not list(operations.storage.uploads.glob("*.part")), 60, "the slow upload is still there")


def test_uploads_at_the_same_time_are_limited(client: StreamClient, operations: Operations, tmp_path: Path) -> None:
    over = threading.Event()
    clip = make_clip(tmp_path / "clip.mp4").read_bytes()

    def held() -> Iterator[pb.CreateJobRequest]:
        yield from upload(bytes(1000), 150_000)
        over.wait(60)

    calls = [client.jobs.CreateJob.future(held(), timeout=60) for _ in range(3)]
    wait_until(lambda: len(list(operations.storage.uploads.glob("*.part"))) == 3, 60, "the uploads did not begin")
    with pytest.raises(grpc.RpcError) as error:
        client.jobs.CreateJob(upload(clip), timeout=60)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert details(error.value)["ErrorInfo"].reason == "TOO_MANY_UPLOADS"
    assert "SKIPVSR_MAX_UPLOADS" in error.value.details()
    over.set()
    for call in calls:
        call.cancel()
    wait_until(lambda: not list(operations.storage.uploads.glob("*.part")), 60, "the uploads are still there")
    assert client.jobs.CreateJob(upload(clip), timeout=60).job.id
