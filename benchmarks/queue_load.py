"""The queue under load: many waiting jobs of many API keys, in a real Redis of its own.

    python -m benchmarks.queue_load [--jobs N] [--keys N] [--beside TEXT] [--out FILE]

One key has queued nine tenths of all jobs. No video is processed: the measurement takes the way of a job through store,
lines and RQ. Redis' own CPU time (`INFO cpu`) does not depend on what else runs on the machine; times of the clock do,
and `--beside` notes what ran at the same time.
"""

from __future__ import annotations

import argparse
import queue
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

import torch
from redis import Redis
from rich.console import Console

from benchmarks.report import machine, one_line, show, write_json
from benchmarks.targets import redis_in
from jobs import tickets
from jobs.presence import Presence, WorkerInfo
from jobs.schema import Estimate, Job, JobOptions, JobState, Progress, StreamFacts
from jobs.settings import Settings
from jobs.storage import Storage, new_id
from jobs.store import JobStore, Selection, connect
from jobs.tickets import SERIALIZER, FairQueue
from service.operations import Operations
from worker.janitor import Janitor
from worker.liveness import LivenessMonitor

_WAKES: Final = 100
_BEATS: Final = 1000


@dataclass(frozen=True)
class Row:
    """One kind of step."""

    step: str
    count: int
    p50_ms: float
    p99_ms: float
    redis_us: float
    """CPU time of Redis for each step."""
    client_us: float
    """CPU time of the client for each step."""
    note: str = ""


@dataclass
class Bench:
    """A Redis, and the measurements so far."""

    store: JobStore
    rows: list[Row] = field(default_factory=list)

    def measure(self, step: str, count: int, act: Callable[[int], object], note: str = "") -> None:
        """Measure `count` steps."""
        seconds = []
        redis, client = redis_cpu(self.store.redis), client_cpu()
        for number in range(count):
            begun = time.perf_counter()
            act(number)
            seconds.append(time.perf_counter() - begun)
        redis, client = redis_cpu(self.store.redis) - redis, client_cpu() - client
        self.add(step, seconds, redis, client, note)

    def add(self, step: str, seconds: list[float], redis: float, client: float, note: str = "") -> None:
        """Add a row of times in seconds."""
        cuts = quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 99
        count = len(seconds)
        p50, p99 = (round(1000 * cut, 2) for cut in (cuts[49], cuts[98]))
        self.rows.append(
            Row(step, count, p50, p99, round(1e6 * redis / count, 1), round(1e6 * client / count, 1), note)
        )


def redis_cpu(redis: Redis) -> float:
    """Seconds of CPU time that Redis has used."""
    found = redis.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


def client_cpu() -> float:
    """Seconds of CPU time that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def job_of(owner: str, number: int) -> Job:
    """A job like that of a user: a clip of 10 seconds."""
    facts = StreamFacts(
        container="mp4",
        codec="h264",
        pixel_format="yuv420p",
        width=320,
        height=180,
        frame_rate=25.0,
        duration_seconds=10.0,
    )
    estimate = Estimate(
        **{"seconds": 25.0, "seconds_low": 20.0, "seconds_high": 30.0, "basis": "measured"},
        **{"width": 1280, "height": 720, "frames": 250, "bytes": 10**6},
    )
    return Job(
        id=new_id(),
        owner=owner,
        filename=f"holiday-{number:05}.mp4",
        options=JobOptions(model="tiny"),
        input=facts,
        progress=Progress(frames_total=250),
        estimate=estimate,
    )


def taken(store: JobStore, timeout: float | None = None) -> str | None:
    """Id of the next job, taken like a worker."""
    found = FairQueue.dequeue_any([], timeout, store.redis, serializer=SERIALIZER)
    return tickets.job_of(found[0].id) if found else None


def submit(bench: Bench, jobs: int, keys: int) -> float:
    """Queue all jobs; return the bytes of Redis' memory for each."""
    before = bench.store.redis.info("memory")["used_memory"]
    most = jobs * 9 // 10

    def one(number: int) -> None:
        bench.store.create(job_of("key-0" if number < most else f"key-{1 + number % (keys - 1)}", number))

    bench.measure("submit", jobs, one)
    return float(bench.store.redis.info("memory")["used_memory"] - before) / jobs


def newcomer(bench: Bench) -> int:
    """Number of jobs that start until a new key's only job starts."""
    job = job_of("newcomer", 0)
    bench.store.create(job)
    for number in range(10**6):
        if taken(bench.store) == job.id:
            return number
    raise AssertionError("the job was never taken")


def dispatch(bench: Bench, count: int) -> None:
    """Take and claim jobs, and end their work."""
    bench.measure("take a ticket", count, lambda _: taken(bench.store))
    claims = []

    def start(_: int) -> None:
        job_id = taken(bench.store)
        assert job_id is not None
        claim = bench.store.claim(job_id, "worker")
        assert claim is not None
        claims.append(claim)

    bench.measure("take and claim a job", count, start)
    progress = {"progress": Progress(frames_done=100, frames_total=250)}
    bench.measure("heartbeat with progress", _BEATS, lambda i: bench.store.heartbeat(claims[i % len(claims)], progress))
    done = {"finished_at": datetime.now(UTC)}
    bench.measure("end a job", count // 2, lambda i: bench.store.release(claims[i], JobState.DONE, done))


def wake(bench: Bench, url: str) -> None:
    """Time from the submission to the take by an idle worker."""
    idle = JobStore(connect(url, timeout=60))
    while taken(bench.store):
        pass
    arrived: queue.Queue[float] = queue.Queue()

    def work() -> None:
        for _ in range(_WAKES):
            taken(idle, 60)
            arrived.put(time.perf_counter())

    threading.Thread(target=work, daemon=True).start()
    seconds = []
    redis, client = redis_cpu(bench.store.redis), client_cpu()
    for number in range(_WAKES):
        while not bench.store.redis.info("clients")["blocked_clients"]:
            time.sleep(0.002)
        begun = time.perf_counter()
        bench.store.create(job_of("key-1", number))
        seconds.append(arrived.get(timeout=60) - begun)
    redis, client = redis_cpu(bench.store.redis) - redis, client_cpu() - client
    bench.add("submit to an idle worker", seconds, redis, client, "with the submission")


def look(bench: Bench, operations: Operations) -> None:
    """Lists, places in the queue, metrics and liveness, with all jobs waiting."""
    bench.measure("page of 100 jobs", 20, lambda _: bench.store.page(Selection(), limit=100))
    own = Selection((JobState.QUEUED,), "key-1")
    bench.measure("page of a key's waiting jobs", 20, lambda _: bench.store.page(own, limit=100))
    named = Selection(text="holiday-00777")
    bench.measure("search in file names", 10, lambda _: bench.store.page(named, limit=100))
    unknown = job_of("key-1", 0)  # makes the places anew at each look
    operations.estimates.place([unknown])  # reads every estimate once
    bench.measure("places of all waiting jobs", 5, lambda _: operations.estimates.place([unknown]), "every 2 s at most")
    bench.measure("depth and oldest job", 50, lambda _: (bench.store.depths(), bench.store.longest_wait()))
    monitor = LivenessMonitor(bench.store, Settings())
    bench.measure("look for lost tickets and workers", 50, lambda _: monitor.check(), "no job runs")


def watch(bench: Bench, workers: int) -> None:
    """One observer's look at many running jobs, and the announcements of their workers."""
    running = bench.store.counts()[JobState.RUNNING]
    monitor = LivenessMonitor(bench.store, Settings())
    bench.measure("look for dead workers", 20, lambda _: monitor.check(), f"{running} jobs run; 3 workers look")
    presence, now = Presence(bench.store.redis), datetime.now(UTC)
    names = [f"worker-{number}" for number in range(workers)]
    about = {"host": "h", "pid": 1, "device": "cpu", "model": "tiny", "models": ["tiny"], "started_at": now}
    infos = [WorkerInfo.model_validate({"name": name, **about}) for name in names]
    bench.measure("announce a worker", workers, lambda number: presence.announce(infos[number], 60))
    bench.measure("list the workers", 10, lambda _: presence.workers(), f"{workers} workers")


def clean(bench: Bench, folder: Path) -> None:
    """The janitor's work on all jobs."""
    storage = Storage(folder / "data")
    storage.prepare()
    janitor = Janitor(Settings(data_dir=folder / "data"), bench.store, storage)
    bench.measure(
        "janitor", 2, lambda _: janitor.clean(), f"{sum(bench.store.counts().values())} jobs; one worker cleans"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, show and write all figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue_load", description="The queue under load.")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--keys", type=int, default=20)
    parser.add_argument("--beside", default="", help="what ran on the machine at the same time")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/queue_load.json"))
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="queue") as name, redis_in(Path(name)) as url:
        bench = Bench(JobStore(connect(url)))
        memory = submit(bench, args.jobs, args.keys)
        look(bench, Operations(bench.store, Storage(Path(name) / "data")))
        overtakes = newcomer(bench)
        dispatch(bench, args.jobs // 10)
        watch(bench, 1000)
        clean(bench, Path(name))
        wake(bench, url)
    figures: dict[str, Any] = {"jobs": args.jobs, "keys": args.keys, "beside": args.beside}
    figures |= {"bytes_per_job": round(memory), "jobs_before_a_newcomer": overtakes}
    facts = machine(torch.device("cpu"))
    write_json(args.out, {"machine": facts, **figures, "steps": bench.rows})
    console = Console(width=160)
    headers = ("step", "note", "count", "p50 ms", "p99 ms", "Redis µs", "client µs")
    show(console, headers, [list(map(str, columns(row))) for row in bench.rows])
    console.print(one_line({**figures, **facts}))
    return 0


def columns(row: Row) -> tuple[object, ...]:
    """A row of the table."""
    return row.step, row.note, row.count, row.p50_ms, row.p99_ms, row.redis_us, row.client_us


if __name__ == "__main__":
    sys.exit(main())
