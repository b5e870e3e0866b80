"""Hooks for schemathesis: real videos, and ids of jobs in the state that an operation needs.

schemathesis imports this module (`SCHEMATHESIS_HOOKS`); `benchmarks.contract` sets the addresses.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any, Final

import httpx
import schemathesis

_URL: Final = os.environ["SKIPVSR_CONTRACT_URL"]
_CLIP: Final = Path(os.environ["SKIPVSR_CONTRACT_CLIP"])
_SHARE: Final = 0.7
"""Part of the cases that get a real video or job."""
_STATES: Final = {
    "pause_job": ("queued", "running"),
    "cancel_job": ("queued", "running", "paused"),
    "resume_job": ("paused", "failed"),
    "get_result": ("done",),
    "get_preview": ("done",),
}
"""States of the jobs for an operation; all other operations get jobs in any state."""
_FRESH: Final = ("pause_job", "cancel_job", "resume_job")
_client = httpx.Client(base_url=_URL, timeout=60)


@schemathesis.hook  # type: ignore[untyped-decorator, unused-ignore]
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Change a generated case, unless the case is meant to be invalid. No case waits long for a job."""
    for part, name in ((case.query, "wait"), (case.headers, "Prefer"), (case.headers, "prefer")):
        if part and name in part:
            del part[name]
    if random.random() > _SHARE or _invalid(case.meta):
        return
    operation = case.operation.definition.raw.get("operationId")
    if case.operation.path.startswith("/uploads"):
        case.headers["Tus-Resumable"] = "1.0.0"
    if "upload_id" in case.path_parameters:
        case.path_parameters["upload_id"] = _upload()
    elif operation in _BODIES and case.media_type != "application/json":
        case.body = _BODIES[operation](case.body)
    elif "job_id" in case.path_parameters and case.path_parameters.get("job_id", "").strip("0"):
        case.path_parameters["job_id"] = _job(operation) or case.path_parameters["job_id"]


def _with_file(body: Any) -> Any:
    """A form with the video, or the video as the body."""
    return {**body, "file": _CLIP.read_bytes()} if isinstance(body, dict) else _CLIP.read_bytes()


def _with_ends(body: Any) -> Any:
    """A form of an estimate with the whole video as the file's first bytes."""
    clip = _CLIP.read_bytes()
    kept = {name: value for name, value in body.items() if name not in ("tail", "upload")}
    return {**kept, "head": clip, "size": len(clip), "filename": "clip.mp4"}


_BODIES: Final = {"upscale": _with_file, "upscale_body": _with_file, "estimate": _with_ends}
schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")


def _invalid(meta: Any) -> bool:
    """Whether a case is meant to be invalid, as a whole or in one part."""
    if meta is None:
        return False
    return any(part.mode.is_negative for part in (meta.generation, *meta.components.values()))


def _upload() -> str:
    """Id of a new resumable upload of 100 bytes."""
    made = _client.post("/uploads", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "100"})
    return made.headers["Location"].rpartition("/")[2]


def _job(operation: str) -> str | None:
    """Id of a job that fits an operation; a new job where the worker would have finished all others."""
    if operation in _FRESH:
        made = _client.post("/upscale", files={"file": ("clip.mp4", _CLIP.read_bytes())}, data={"model": "tiny"})
        job_id: str = made.json()["id"]
        if operation == "resume_job":
            _client.post(f"/jobs/{job_id}/pause")
        return job_id
    states = _STATES.get(operation, ())
    jobs = _client.get("/jobs", params={"state": states, "limit": 20}).json()["jobs"]
    return random.choice(jobs)["id"] if jobs else None
