"""The HTTP service in a thread, on a real socket."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI

from jobs.presence import WorkerInfo
from jobs.schema import Job, JobState
from jobs.settings import Settings
from service.http.app import create_app
from service.http.connections import server_config
from service.operations import Operations
from tests.support.processes import wait_until


@dataclass
class Service:
    """A running service with its address, a client, the application and its operations."""

    url: str
    port: int
    client: httpx.Client
    app: FastAPI
    operations: Operations
    stop: Callable[[], None] = lambda: None
    """Begin to stop the service."""

    def post(self, path: Path, **fields: str) -> httpx.Response:
        with path.open("rb") as file:
            return self.client.post("/upscale", data=fields, files={"file": (path.name, file)})

    def finish(self, job_id: str, result: bytes, state: JobState = JobState.DONE, suffix: str = ".mp4") -> Job:
        """Publish `result` as a worker would."""
        claim = self.operations.store.claim(job_id, "test-worker")
        assert claim is not None
        work = self.operations.storage.take_work(job_id, claim.token)
        made = work / f"result{suffix}"
        made.write_bytes(result)
        self.operations.storage.publish(made, job_id)
        assert self.operations.store.release(claim, state)
        return self.operations.get(job_id)

    def announce_worker(self, machine: str = "", **scales: int) -> WorkerInfo:
        worker = WorkerInfo(
            name="test-worker",
            host="here",
            pid=1,
            device="cpu",
            model="tiny",
            models=["small", "tiny", *scales],
            scales=scales,
            machine=machine,
            started_at=datetime.now(UTC),
        )
        self.operations.presence.announce(worker, ttl=60)
        return worker

    def files(self) -> list[Path]:
        """Return all files in the data folder."""
        return [path for path in self.operations.storage.root.parent.rglob("*") if path.is_file()]


@contextmanager
def serving(settings: Settings, *, grace: int = 2) -> Iterator[Service]:
    """Run the service on a free port during the block. `grace`: seconds that requests have to end after it."""
    app = create_app(settings)
    server = uvicorn.Server(server_config(app, settings, port=0, timeout_graceful_shutdown=grace))

    def stop() -> None:
        server.should_exit = True

    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, 60, "the server did not start")
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=90) as client:
            yield Service(url, port, client, app, app.state.operations, stop)
    finally:
        stop()
        thread.join(60)
        app.state.operations.store.redis.close()
        assert not thread.is_alive(), "the server did not stop: it would send the webhooks of the next test"
