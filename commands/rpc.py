"""`skipvsr grpc`: the gRPC server in this process."""

from __future__ import annotations

from functools import partial

from commands.embedded_redis import connected
from jobs.settings import Settings
from service.rpc.server import run as serve


def run(settings: Settings) -> int:
    """Serve until a signal comes. Raises CommandError, ModelError, SkipVsrError."""
    return serve(connected(settings), say=partial(print, flush=True))
