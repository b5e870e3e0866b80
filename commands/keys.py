"""`skipvsr keys`: add, list and revoke API keys. Servers notice a change at the next request, without a restart."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from commands.shared.command_line import COUNT, Group, option, read_settings
from commands.shared.tables import print_table

if TYPE_CHECKING:
    from service.key_file import KeyFile, StoredKey

_SCOPES: Final = ("read", "submit", "admin")
_MOST_DAYS: Final = 36_500
_UNITS: Final = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class _Size(click.ParamType[int]):
    """A number of bytes: `500MB`, `2GB`, `1000000`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+)\s*([KMGT]B)?", str(value).strip().upper())
        size = int(match[1]) * _UNITS[match[2] or ""] if match else 0
        if not 0 < size < 2**53:
            self.fail(f"{value!r} is not a number of bytes, such as 500MB or 2GB", param, ctx)
        return size


@click.group(cls=Group)
def command() -> None:
    """Add, list and revoke API keys."""


@command.command()
@click.argument("name", metavar="NAME", help="Name of the key's user: a person, a machine or a program")
@option(
    "--scopes",
    type=click.Choice(_SCOPES),
    multiple=True,
    default=("read", "submit"),
    metavar="SCOPE...",
    help="read: see own jobs; submit: create and change own jobs, live streams; admin: everything",
)
@option("--max-jobs", type=COUNT, metavar="N", help="Jobs, uploads and live streams at a time")
@option("--uploads-per-minute", type=COUNT, metavar="N", help="New uploads and live streams in a minute")
@option("--bytes-per-day", type=_Size(), metavar="SIZE", help="Bytes sent in a day (UTC), e.g. 2GB")
@option("--days", type=click.IntRange(1, _MOST_DAYS), metavar="N", help="Days until the key expires; default: never")
def add(name: str, scopes: Sequence[str], days: int | None, **limits: int | None) -> int:
    """Create a key and print the key once."""
    from jobs.allowance import Limits
    from service.callers import Scope

    expires = datetime.now(UTC) + timedelta(days=days) if days else None
    file = _file()
    _, text = file.add(name, frozenset(map(Scope, scopes)), Limits(**limits), expires)
    print(text, flush=True)
    print(
        f"Copy the key now: {file.path} holds only a digest. Servers of this data folder need a key from now on.",
        file=sys.stderr,
    )
    return 0


@command.command(name="list")
@option("--json", "as_json", is_flag=True, help="Write JSON")
def show(as_json: bool) -> int:
    """List the keys, revoked keys too."""
    rows = [_described(row) for row in _file().keys().values()]
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    if not rows:
        print("no keys: `skipvsr keys add NAME` creates a key")
        return 0
    print_table([tuple(_COLUMNS), *(tuple(_cell(row[name]) for name in _COLUMNS.values()) for row in rows)])
    return 0


@command.command()
@click.argument("key", metavar="KEY", help="Id or name of a key")
def revoke(key: str) -> int:
    """Revoke a key. The key's jobs stay; only administrators see these jobs."""
    row = _file().revoke(key)
    print(f"revoked: {row.id} ({row.name})")
    return 0


_COLUMNS: Final = {
    "id": "id",
    "name": "name",
    "state": "state",
    "scopes": "scopes",
    "jobs": "max_jobs",
    "uploads/min": "uploads_per_minute",
    "bytes/day": "bytes_per_day",
    "created": "created",
    "expires": "expires",
}
"""Titles of the table's columns, and their fields."""


def _file() -> KeyFile:
    from service.key_file import KeyFile

    return KeyFile.of(read_settings())


def _described(row: StoredKey) -> dict[str, Any]:
    """A row without its digests."""
    fields = row.model_dump(mode="json", exclude={"key_sha256", "cookie_sha256"})
    return {"id": row.id, "name": row.name, "state": row.state, **fields}


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ",".join(value)
    text = str(value)
    return text[:10] if re.match(r"\d{4}-\d\d-\d\dT", text) else text
