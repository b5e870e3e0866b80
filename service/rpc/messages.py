"""Conversion between job documents and protobuf messages."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from jobs.errors import InvalidRequest
from jobs.schema import Job, JobOptions, JobState, StreamFacts
from service.admission import options_from_text
from skipvsr.v1 import upscaler_pb2 as pb

STATES: Final = {
    JobState.QUEUED: pb.JOB_STATE_QUEUED,
    JobState.RUNNING: pb.JOB_STATE_RUNNING,
    JobState.PAUSED: pb.JOB_STATE_PAUSED,
    JobState.DONE: pb.JOB_STATE_DONE,
    JobState.FAILED: pb.JOB_STATE_FAILED,
    JobState.CANCELLED: pb.JOB_STATE_CANCELLED,
}
_OPTIONS: Final = tuple(field.name for field in pb.JobOptions.DESCRIPTOR.fields)
_FACTS: Final = tuple(field.name for field in pb.StreamFacts.DESCRIPTOR.fields)
_METRICS: Final = tuple(field.name for field in pb.JobMetrics.DESCRIPTOR.fields)
_PROGRESS: Final = tuple(field.name for field in pb.Progress.DESCRIPTOR.fields)


def options(message: pb.JobOptions) -> JobOptions:
    """Convert a client's options. Raises InvalidRequest that lists every error."""
    given = {name: str(getattr(message, name)) for name in _OPTIONS if message.HasField(name)}
    return options_from_text(given)


def state(number: int) -> JobState | None:
    """Convert a state filter; None means any state. Raises InvalidRequest for unknown numbers."""
    if number == pb.JOB_STATE_UNSPECIFIED:
        return None
    for ours, theirs in STATES.items():
        if theirs == number:
            return ours
    raise InvalidRequest(f"unknown job state {number}; see JobState in upscaler.proto")


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
        model=document.model,
        progress=pb.Progress(**_set_fields(document.progress, _PROGRESS)),
        input=_facts(document.input),
        output=_facts(document.output),
        metrics=pb.JobMetrics(**_set_fields(document.metrics, _METRICS)),
        warnings=document.warnings,
        files_removed=document.files_removed,
        owner=document.owner,
    )
    if document.error is not None:
        message.error.CopyFrom(
            pb.Problem(title=document.error.title, status=document.error.status, detail=document.error.detail)
        )
    return message


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
