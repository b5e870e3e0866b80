"""`skipvsr pause`: pause jobs on a server."""

from __future__ import annotations

from commands.shared.operations import operation

command = operation("pause", "Pause jobs on a server; finished work is kept.")
