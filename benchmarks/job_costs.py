"""Bytes and requests of a job: to the disk, to a bucket, and to Redis.

    python -m benchmarks.job_costs [CLIP] [--model small] [--chunks 24 12] [--json OUT]

A worker with one thread runs the clip with each chunk length, once on a local folder and once on a bucket of a moto
server. Rows are counts: other load on the machine changes only the commands that repeat with time, such as heartbeats.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr
from rich.console import Console

from benchmarks.report import machine, one_line, show, write_json
from benchmarks.targets import redis_in
from jobs.schema import Job, JobOptions, JobState, Progress
from jobs.settings import Settings
from jobs.storage import Storage, new_id
from jobs.storages import open_storage
from jobs.store import JobStore
from model.device import resolve_device

CLIP = Path(__file__).parents[1] / "examples" / "cups.mp4"


@dataclass(frozen=True)
class Row:
    """The costs of one job, from the upload until the work files are gone."""

    storage: str
    frames: int
    chunks: int
    seconds: float
    disk_mb: float
    """Bytes that the worker and its children have written to the disk."""
    sent_mb: float
    """Bytes to the bucket."""
    received_mb: float
    """Bytes from the bucket."""
    requests: dict[str, int]
    """Requests to the bucket by method."""
    commands: dict[str, int]
    """Commands of all clients to Redis."""


class Wire:
    """A way to a port that counts bytes."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.sent = self.received = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                for ends in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, forth: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if forth:
                    self.sent += len(data)
                else:
                    self.received += len(data)
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        source.close()


class BucketServer:
    """A moto server with a bucket."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self._log = folder / "moto.log"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        while not self._created(f"http://127.0.0.1:{port}/videos"):
            time.sleep(0.2)
        self.wire = Wire(port)

    def _created(self, url: str) -> bool:
        with suppress(httpx.TransportError):
            return httpx.put(url, timeout=10).is_success
        return False

    def close(self) -> None:
        """End the server."""
        self.wire.close()
        self.process.kill()
        self.process.wait()

    def requests(self) -> dict[str, int]:
        """Requests so far by method."""
        methods = ("GET", "PUT", "POST", "DELETE", "HEAD")
        text = self._log.read_text()
        return {method: count for method in methods if (count := text.count(f'"{method} '))}


@contextmanager
def worker(settings: Settings, folder: Path) -> Iterator[int]:
    """A worker with one thread; yields its process id."""
    given = settings.model_dump(mode="json", exclude_unset=True) | {"threads": 1}
    if settings.s3_secret_access_key:
        given["s3_secret_access_key"] = settings.s3_secret_access_key.get_secret_value()
    env = os.environ | {f"SKIPVSR_{name.upper()}": str(value) for name, value in given.items() if value is not None}
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-P", "-m", "cli", "worker"], stdout=log, stderr=log, env=env)
    try:
        while " on cpu" not in (folder / "worker.log").read_text():
            if process.poll() is not None:
                raise RuntimeError((folder / "worker.log").read_text())
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def written(pid: int) -> int:
    """Bytes that a process and its ended children have written to the disk."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def commands(store: JobStore) -> dict[str, int]:
    """Commands to Redis so far."""
    found: dict[str, Any] = store.redis.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(facts["calls"]) for name, facts in found.items()}


def run(store: JobStore, storage: Storage, clip: Path, options: JobOptions) -> Job:
    """Run one job. The wait costs one command a second."""
    job_id = new_id()
    storage.prepare()
    upload = storage.uploads / f"{job_id}.part"
    shutil.copyfile(clip, upload)
    storage.adopt(upload, job_id)
    store.create(Job(id=job_id, filename=clip.name, options=options, progress=Progress()))
    while True:
        time.sleep(1.0)
        job = store.get(job_id)
        if job.state.final:
            if job.state is not JobState.DONE:
                raise RuntimeError(str(job.error))
            time.sleep(1.0)  # the worker removes its files
            return job


def difference(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """Counts since an earlier count."""
    return {name: count for name, last in sorted(after.items()) if (count := last - before.get(name, 0))}


def measure(settings: Settings, clip: Path, options: JobOptions, folder: Path, bucket: BucketServer | None) -> Row:
    """The costs of one job."""
    store, storage = JobStore.from_settings(settings), open_storage(settings)
    wire = bucket.wire if bucket else None
    with worker(settings, folder) as pid:
        requests = bucket.requests() if bucket else {}
        sent, received = (wire.sent, wire.received) if wire else (0, 0)
        counted, disk, begun = commands(store), written(pid), time.monotonic()
        job = run(store, storage, clip, options)
        seconds = time.monotonic() - begun
        row = Row(
            storage="bucket" if bucket else "folder",
            frames=job.progress.frames_done,
            chunks=-(-job.progress.frames_done // options.chunk),
            seconds=round(seconds, 1),
            disk_mb=round((written(pid) - disk) / 1e6, 2),
            sent_mb=round((wire.sent - sent) / 1e6, 2) if wire else 0.0,
            received_mb=round((wire.received - received) / 1e6, 2) if wire else 0.0,
            requests=difference(bucket.requests(), requests) if bucket else {},
            commands=difference(commands(store), counted),
        )
    store.redis.close()
    return row


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path, nargs="?", default=CLIP)
    parser.add_argument("--model", default="small")
    parser.add_argument("--chunks", type=int, nargs="+", default=[24, 12], help="chunk lengths, a job each")
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bucket = BucketServer(folder)
        try:
            for chunk in args.chunks:
                for place in (None, bucket):
                    with tempfile.TemporaryDirectory() as data, redis_in(Path(data)) as url:
                        base = Settings(redis_url=url, data_dir=Path(data), min_free_gb=0)
                        rows.append(
                            measure(_placed(base, place), args.clip, _options(args.model, chunk), folder, place)
                        )
        finally:
            bucket.close()
    facts = machine(resolve_device("auto"))
    console = Console(width=150)
    console.print(one_line(facts), highlight=False)
    heads = ["storage", "frames", "chunks", "seconds", "disk MB", "to bucket MB", "from bucket MB", "requests", "Redis"]
    show(console, heads, [_cells(row) for row in rows])
    for row in rows:
        for what, counts in (("requests", row.requests), ("Redis", row.commands)):
            most = sorted(counts.items(), key=lambda item: -item[1])
            console.print(f"{row.storage}, {row.chunks} chunks, {what}: {', '.join(f'{n} {c}' for n, c in most)}")
    if args.json:
        write_json(args.json, {"machine": facts, "model": args.model, "rows": [asdict(row) for row in rows]})


def _options(model: str, chunk: int) -> JobOptions:
    return JobOptions(model=model, chunk=chunk)


def _placed(settings: Settings, bucket: BucketServer | None) -> Settings:
    if bucket is None:
        return settings
    return Settings(
        **settings.model_dump(exclude_unset=True),
        storage="s3://videos",
        s3_endpoint=f"http://127.0.0.1:{bucket.wire.port}",
        s3_access_key_id="someone",
        s3_secret_access_key=SecretStr(new_id()),
    )


def _cells(row: Row) -> list[str]:
    numbers = (row.storage, row.frames, row.chunks, row.seconds, row.disk_mb, row.sent_mb, row.received_mb)
    return [*map(str, numbers), str(sum(row.requests.values())), str(sum(row.commands.values()))]


if __name__ == "__main__":
    main()
