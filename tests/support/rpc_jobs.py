"""Jobs over gRPC: the requests of an upload, and a result as of a worker."""

from __future__ import annotations

from collections.abc import Iterator

from jobs.schema import Job, JobState
from service.operations import Operations
from skipvsr.v1 import upscaler_pb2 as pb


def upload(data: bytes, size: int | None = None, key: str = "", **options: object) -> Iterator[pb.CreateJobRequest]:
    chosen = pb.JobOptions(**options)  # type: ignore[arg-type]
    config = pb.UploadConfig(filename="dir/my clip.mp4", options=chosen, idempotency_key=key)
    if size is not None:
        config.size_bytes = size
    yield pb.CreateJobRequest(config=config)
    for start in range(0, len(data), 1000):
        yield pb.CreateJobRequest(chunk=pb.UploadChunk(data=data[start : start + 1000]))


def finish(operations: Operations, job_id: str, result: bytes) -> Job:
    """Publish `result` as a worker would."""
    claim = operations.store.claim(job_id, "test-worker")
    assert claim is not None
    work = operations.storage.take_work(job_id, claim.token)
    (work / "result.mkv").write_bytes(result)
    operations.storage.publish(work / "result.mkv", job_id)
    assert operations.store.release(claim, JobState.DONE)
    return operations.get(job_id)
