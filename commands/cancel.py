"""`skipvsr cancel`: cancel jobs on a server."""

from __future__ import annotations

from commands.shared.operations import operation

command = operation("cancel", "Cancel jobs on a server; their files are removed.")
