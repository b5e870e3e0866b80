"""Every kind of error of the service has a gRPC code of its own; a job names its device."""

from __future__ import annotations

from collections.abc import Iterator

from grpc import StatusCode

from jobs.errors import SkipVsrError
from jobs.schema import Job, JobOptions
from service.rpc import messages
from service.rpc.errors import to_status_error


def kinds(parent: type[SkipVsrError] = SkipVsrError) -> Iterator[type[SkipVsrError]]:
    for kind in parent.__subclasses__():
        yield kind
        yield from kinds(kind)


def test_no_kind_of_error_is_internal() -> None:
    for kind in kinds():
        error = to_status_error(kind.__new__(kind, "what is wrong"))
        assert error.code not in (StatusCode.INTERNAL, StatusCode.UNKNOWN), kind
        assert error.reason == "".join(f"_{c}" if c.isupper() else c.upper() for c in kind.__name__).lstrip("_")


def test_a_job_says_where_it_is_computed() -> None:
    job = Job(id="0" * 24, filename="a.mp4", options=JobOptions(), device="cuda, bfloat16")
    assert messages.job(job).device == "cuda, bfloat16"
    assert not messages.job(job.model_copy(update={"device": None})).HasField("device")
