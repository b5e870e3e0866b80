"""Conversion between job documents and protobuf messages."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from jobs.errors import FieldError, InvalidRequest
from jobs.schema import Estimate, Job, JobRequest, JobState, Request, StreamFacts
from jobs.store import Page
from service.admission import options_from_text
from service.estimates import Answer
from skipvsr.v1 import upscaler_pb2 as pb

STATES: Final = {
    JobState.QUEUED: pb.JOB_STATE_QUEUED,
    JobState.RUNNING: pb.JOB_STATE_RUNNING,
    JobState.PAUSED: pb.JOB_STATE_PAUSED,
    JobState.DONE: pb.JOB_STATE_DONE,
    JobState.FAILED: pb.JOB_STATE_FAILED,
    JobState.CANCELLED: pb.JOB_STATE_CANCELLED,
}
_REQUESTS: Final = {
    None: pb.PENDING_REQUEST_UNSPECIFIED,
    Request.PAUSE: pb.PENDING_REQUEST_PAUSE,
    Request.CANCEL: pb.PENDING_REQUEST_CANCEL,
}
_OPTIONS: Final = tuple(field.name for field in pb.JobOptions.DESCRIPTOR.fields)
_FACTS: Final = tuple(field.name for field in pb.StreamFacts.DESCRIPTOR.fields)
_METRICS: Final = tuple(field.name for field in pb.JobMetrics.DESCRIPTOR.fields)
_PROGRESS: Final = tuple(field.name for field in pb.Progress.DESCRIPTOR.fields)
_ESTIMATE: Final = tuple(field.name for field in pb.Estimate.DESCRIPTOR.fields)
_SEGMENTS: Final = tuple(field.name for field in pb.JobSegments.DESCRIPTOR.fields)
_QUEUE: Final = tuple(field.name for field in pb.QueuePlace.DESCRIPTOR.fields)


def options(message: pb.JobOptions, webhook: str = "") -> JobRequest:
    """Convert the options in a config, and its webhook. Raises InvalidRequest that lists every error."""
    given = {name: str(getattr(message, name)) for name in _OPTIONS if message.HasField(name)}
    try:
        return options_from_text({**given, "webhook": webhook})
    except InvalidRequest as error:
        fields = [FieldError(_path(field), detail) for field, detail in error.errors]
        raise InvalidRequest(str(error), fields) from error


def _path(field: str) -> str:
    """Path of an option in a request."""
    return "config.webhook" if field == "webhook" else f"config.options.{field}" if field else "config.options"


def state(number: int) -> JobState | None:
    """Convert a state filter; None means any state. Raises InvalidRequest for unknown numbers."""
    if number == pb.JOB_STATE_UNSPECIFIED:
        return None
    for ours, theirs in STATES.items():
        if theirs == number:
            return ours
    raise InvalidRequest(f"unknown job state {number}; see JobState in upscaler.proto")


def states(request: pb.ListJobsRequest) -> list[JobState]:
    """Convert a list's filter; empty means any state. Raises InvalidRequest for unknown numbers."""
    return [ours for number in (request.state, *request.states) if (ours := state(number)) is not None]


def page(found: Page, next_page_token: str) -> pb.ListJobsResponse:
    """Convert a page of jobs to a message."""
    return pb.ListJobsResponse(
        jobs=[job(document) for document in found.jobs],
        next_page_token=next_page_token,
        total=found.total,
        counts=[pb.StateCount(state=STATES[ours], jobs=count) for ours, count in found.counts.items()],
    )


def estimate(answer: Answer) -> pb.EstimateJobResponse:
    """Convert an estimate to a message."""
    return pb.EstimateJobResponse(
        input=_facts(answer.admission.facts),
        output=pb.ExpectedOutput(**answer.output._asdict()),
        model=answer.model,
        scale=answer.scale,
        estimate=_estimate(answer.estimate),
        wait_seconds=answer.wait_seconds,
        workers=answer.workers,
        warnings=answer.warnings,
    )


def job(document: Job) -> pb.Job:
    """Convert a job document to a message."""
    message = pb.Job(
        id=document.id,
        state=STATES[document.state],
        filename=document.filename,
        options=pb.JobOptions(**_set_fields(document.options, _OPTIONS)),
        created_at=_timestamp(document.created_at),
        started_at=_timestamp(document.started_at),
        finished_at=_timestamp(document.finished_at),
        attempt=document.attempt,
        deaths=document.deaths,
        worker=document.worker,
        device=document.device,
        model=document.model,
        progress=pb.Progress(**_set_fields(document.progress, _PROGRESS)),
        input=_facts(document.input),
        output=_facts(document.output),
        metrics=pb.JobMetrics(**_set_fields(document.metrics, _METRICS)),
        warnings=document.warnings,
        files_removed=document.files_removed,
        owner=document.owner,
        request=_REQUESTS[document.request],
        updated_at=_timestamp(document.updated_at),
        expires_at=_timestamp(document.expires_at),
        queue=pb.QueuePlace(**_set_fields(document.queue, _QUEUE)) if document.queue is not None else None,
        estimate=_estimate(document.estimate),
        webhook=document.webhook,
        segments=pb.JobSegments(**_set_fields(document.segments, _SEGMENTS)) if document.segments is not None else None,
    )
    if document.error is not None:
        message.error.CopyFrom(
            pb.Problem(title=document.error.title, status=document.error.status, detail=document.error.detail)
        )
    return message


def _estimate(known: Estimate | None) -> pb.Estimate | None:
    return pb.Estimate(**_set_fields(known, _ESTIMATE)) if known is not None else None


def _facts(facts: StreamFacts | None) -> pb.StreamFacts | None:
    return pb.StreamFacts(**_set_fields(facts, _FACTS)) if facts is not None else None


def _set_fields(document: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields that are set. Documents and messages use the same names."""
    return {name: value for name in names if (value := getattr(document, name)) is not None}


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
