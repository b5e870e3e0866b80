"""`skipvsr jobs`: list the jobs of a server, newest first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import click

from commands.shared.command_line import COUNT, Command, option
from commands.shared.durations import duration
from commands.shared.service import SHORT_ID, STATES, Document, activity_of, connected, server_options
from commands.shared.tables import print_table

_TITLES: Final = ("job", "state", "done", "size", "created", "file")


@click.command(cls=Command)
@option("--state", "states", type=click.Choice(STATES), multiple=True, help="Only jobs in these states")
@option("-n", "--limit", type=COUNT, default=50, metavar="N", help="Maximum number of jobs")
@option("--json", "as_json", is_flag=True, help="Write the documents as JSON")
@server_options
def command(states: Sequence[str], limit: int, as_json: bool, server: str | None, api_key: str | None) -> int:
    """List the jobs of a server, newest first."""
    with connected(server, api_key) as service:
        jobs = service.jobs(states, limit)
        if as_json:
            print(json.dumps(jobs, indent=2, ensure_ascii=False))
        elif jobs:
            print_table([_TITLES, *map(_line, jobs)])
        else:
            print(f"no jobs at {service.url}")
    return 0


def _line(job: Document) -> tuple[str, ...]:
    from commands.shared.logs import escaped

    progress, source, result = job["progress"], job.get("input"), job.get("output")
    done, total = progress["frames_done"], progress["frames_total"]
    share = f"{done / total:.0%}" if total else str(done or "-")
    size = "→".join(f"{facts['width']}×{facts['height']}" for facts in (source, result) if facts)
    created = f"{_age(job['created_at'])} ago"
    return job["id"][:SHORT_ID], activity_of(job), share, size or "-", created, escaped(job["filename"])


def _age(time: str) -> str:
    return duration(max(0.0, (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()))
