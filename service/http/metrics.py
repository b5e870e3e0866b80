"""What the API tells Prometheus: its own requests, and, asked at each scrape, the queue, the workers and the disk."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from jobs.errors import StoreUnavailable
from jobs.store import unavailable
from jobs.tickets import QUEUES
from service.operations import Operations

_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600)


class HttpMetrics:
    """The API's metrics, in a registry of their own. No label holds what a client chooses."""

    def __init__(self, operations: Operations) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "skipvsr_http_request_seconds",
            "Time from a request's first byte to its answer's last, uploads and downloads included.",
            ["method", "route", "status"],
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )
        self.upload_bytes = Counter("skipvsr_upload_bytes", "Bytes of files that became jobs.", registry=self.registry)
        self.rejected = Counter(
            "skipvsr_rejected_uploads", "Uploads that did not become jobs.", ["reason"], registry=self.registry
        )
        build = Info("skipvsr_build", "What runs here.", registry=self.registry)
        build.info({"version": version("skipvsr"), "part": "api"})
        ProcessCollector(registry=self.registry)
        self.registry.register(_State(operations))


class _State(Collector):
    """Gauges that are read from Redis and the disk when Prometheus asks, so that they are never stale."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """None: registering must not ask Redis."""
        return []

    def collect(self) -> Iterable[GaugeMetricFamily]:
        up = GaugeMetricFamily("skipvsr_redis_up", "Whether Redis answers (1) or not (0).")
        try:
            found = list(self._in_redis())
        except StoreUnavailable:
            found = []
        up.add_metric([], 1.0 if found else 0.0)
        yield up
        yield from found
        free = GaugeMetricFamily("skipvsr_storage_free_bytes", "Bytes left on the disk of the data folder.")
        free.add_metric([], self._operations.storage.free())
        yield free

    def _in_redis(self) -> Iterable[GaugeMetricFamily]:
        store = self._operations.store
        depth = GaugeMetricFamily("skipvsr_queue_depth", "Jobs that wait for a worker.", labels=["priority"])
        age = GaugeMetricFamily(
            "skipvsr_queue_oldest_seconds", "How long the job that waits longest has been queued; 0: none is."
        )
        with unavailable():
            for priority, queue in QUEUES.items():
                depth.add_metric([priority], store.redis.llen(f"rq:queue:{queue}"))
        age.add_metric([], store.longest_wait())
        yield depth
        yield age

        jobs = GaugeMetricFamily("skipvsr_jobs", "Jobs that are remembered, by state.", labels=["state"])
        for state, count in store.counts().items():
            jobs.add_metric([state], count)
        yield jobs

        workers = GaugeMetricFamily("skipvsr_workers", "Workers that are alive.", labels=["state"])
        busy = [worker.job is not None for worker in self._operations.workers()]
        workers.add_metric(["busy"], sum(busy))
        workers.add_metric(["idle"], len(busy) - sum(busy))
        yield workers
