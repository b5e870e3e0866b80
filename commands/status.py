"""`skipvsr status`: state, progress and result of a job on a server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click

from commands.shared.command_line import Command, option
from commands.shared.expected import about
from commands.shared.service import Document, JobId, activity_of, connected, server_options


@click.command(cls=Command)
@click.argument("job", type=JobId(), metavar="JOB", help="Id, or the first characters")
@option("--json", "as_json", is_flag=True, help="Write the document as JSON")
@server_options
def command(job: str, as_json: bool, server: str | None, api_key: str | None) -> int:
    """Show state, progress and result of a job."""
    with connected(server, api_key) as service:
        document = service.job(service.find(job))
    if as_json:
        print(json.dumps(document, indent=2, ensure_ascii=False))
        return 0
    for name, text in _facts(document):
        print(f"{name:<9} {text}")
    return 0


def _facts(job: Document) -> Iterator[tuple[str, str]]:
    from commands.shared.logs import escaped

    yield "job", job["id"]
    yield "state", activity_of(job)
    yield "file", ", ".join([escaped(job["filename"]), *_stream(job.get("input"))])
    yield "progress", _progress(job)
    yield from _forecast(job)
    options = job["options"]
    yield "model", f"{job['model'] or options['model']}, routing {options['routing']}"
    for name in ("created", "started", "finished"):
        if time := job[f"{name}_at"]:
            yield name, time
    if result := job.get("output"):
        yield "result", ", ".join(_stream(result))
    for warning in job["warnings"]:
        yield "note", escaped(warning)
    if error := job.get("error"):
        yield "error", escaped(error["detail"])
    if job["state"] == "done":
        yield "download", f"skipvsr download {job['id']}"
    if expires := job.get("expires_at"):
        yield "expires", expires


def _forecast(job: Document) -> Iterator[tuple[str, str]]:
    """Place in the queue and estimated time of a job that has not begun."""
    if job["state"] != "queued":
        return
    if queue := job.get("queue"):
        wait = queue.get("wait_seconds")
        yield "queue", f"position {queue['position']}" + (f", begins in {about(wait)}" if wait else "")
    if (estimate := job.get("estimate")) and estimate.get("seconds"):
        yield "estimate", f"{estimate['width']}×{estimate['height']}, {about(estimate['seconds'])}"


def _stream(facts: Document | None) -> list[str]:
    if not facts:
        return []
    rate, length = facts.get("frame_rate"), facts.get("duration_seconds")
    parts = [f"{facts['width']}×{facts['height']}", f"{facts['codec']} in {facts['container']}"]
    return parts + ([f"{rate:g} fps"] if rate else []) + ([f"{length:.1f} s"] if length else [])


def _progress(job: Document) -> str:
    progress = job["progress"]
    done, total, fps, left = (progress[name] for name in ("frames_done", "frames_total", "fps", "eta_seconds"))
    text = f"{done} of {total} frames ({done / total:.0%})" if total else f"{done} frames"
    running = job["state"] == "running"
    return text + (f", {fps:.1f} fps" if fps else "") + (f", {about(left)} left" if running and left else "")
