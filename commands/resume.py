"""`skipvsr resume`: resume paused or failed jobs on a server."""

from __future__ import annotations

from commands.shared.operations import operation

command = operation("resume", "Resume paused or failed jobs on a server.")
