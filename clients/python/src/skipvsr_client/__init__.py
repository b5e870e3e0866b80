"""Client of SkipVSR, a self-hosted video upscaler: jobs over REST, live frames over gRPC.

from skipvsr_client import Client

with Client("http://127.0.0.1:8000") as client:
    client.upscale("clip.mp4", "clip-x4.mp4")
"""

from skipvsr_client.activity import Activity, OnProgress
from skipvsr_client.client import AsyncClient, Client, Upscaled
from skipvsr_client.documents import (
    Estimate,
    Job,
    JobEstimate,
    JobPage,
    Metrics,
    Options,
    OutputFacts,
    Preview,
    Problem,
    Progress,
    Queue,
    Segments,
    StreamFacts,
    Worker,
)
from skipvsr_client.errors import (
    ConnectionFailed,
    FieldError,
    Forbidden,
    InvalidRequest,
    JobCancelled,
    JobFailed,
    LimitReached,
    NotFound,
    NotPossible,
    Refused,
    SkipVsrError,
    Unauthorized,
    Unavailable,
)
from skipvsr_client.jobs import AsyncJobs, Jobs

__all__ = [
    "Activity",
    "AsyncClient",
    "AsyncJobs",
    "Client",
    "ConnectionFailed",
    "Estimate",
    "FieldError",
    "Forbidden",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "JobEstimate",
    "JobFailed",
    "JobPage",
    "Jobs",
    "LimitReached",
    "Metrics",
    "NotFound",
    "NotPossible",
    "OnProgress",
    "Options",
    "OutputFacts",
    "Preview",
    "Problem",
    "Progress",
    "Queue",
    "Refused",
    "Segments",
    "SkipVsrError",
    "StreamFacts",
    "Unauthorized",
    "Unavailable",
    "Upscaled",
    "Worker",
]
