"""Prometheus metrics of the API: requests, and the state of queue, workers and disk at each scrape."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from jobs.errors import StoreUnavailable
from jobs.keys import WEBHOOKS
from jobs.store import unavailable
from service.operations import Operations

_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600)


class ApiMetrics:
    """The API's metrics, in their own registry. No label contains text chosen by a client."""

    def __init__(self, operations: Operations) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "skipvsr_http_request_seconds",
            "Time from the first byte of a request to the last byte of its response, including uploads and downloads.",
            ["method", "route", "status"],
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )
        self.upload_bytes = Counter(
            "skipvsr_upload_bytes", "Bytes of uploads that became jobs.", registry=self.registry
        )
        self.rejected = Counter(
            "skipvsr_rejected_uploads", "Uploads that were rejected, by reason.", ["reason"], registry=self.registry
        )
        self.webhooks = Counter(
            "skipvsr_webhooks",
            "Attempts to deliver a webhook, by outcome: delivered, failed (tried again later), given_up.",
            ["outcome"],
            registry=self.registry,
        )
        build = Info("skipvsr_build", "Version and part of the software.", registry=self.registry)
        build.info({"version": version("skipvsr"), "part": "api"})
        ProcessCollector(registry=self.registry)
        self.registry.register(_StateCollector(operations))


class _StateCollector(Collector):
    """Gauges read from Redis and the disk at each scrape."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return nothing, so that registration does not query Redis."""
        return []

    def collect(self) -> Iterable[GaugeMetricFamily]:
        up = GaugeMetricFamily("skipvsr_redis_up", "1 if Redis answers, else 0.")
        try:
            found = list(self._redis_gauges())
        except StoreUnavailable:
            found = []
        up.add_metric([], 1.0 if found else 0.0)
        yield up
        yield from found
        free = GaugeMetricFamily("skipvsr_storage_free_bytes", "Free bytes on the disk of the data folder.")
        free.add_metric([], self._operations.storage.free())
        yield free

    def _redis_gauges(self) -> Iterable[GaugeMetricFamily]:
        store = self._operations.store
        depth = GaugeMetricFamily("skipvsr_queue_depth", "Jobs waiting for a worker, by priority.", labels=["priority"])
        age = GaugeMetricFamily(
            "skipvsr_queue_oldest_seconds", "Seconds since the oldest waiting job was queued; 0 if the queue is empty."
        )
        for priority, count in store.depths().items():
            depth.add_metric([priority], count)
        age.add_metric([], store.longest_wait())
        yield depth
        yield age

        webhooks = GaugeMetricFamily("skipvsr_webhooks_pending", "Webhooks that have not arrived yet.")
        with unavailable():
            webhooks.add_metric([], store.redis.zcard(WEBHOOKS))
        yield webhooks

        jobs = GaugeMetricFamily("skipvsr_jobs", "Jobs in Redis, by state.", labels=["state"])
        for state, count in store.counts().items():
            jobs.add_metric([state], count)
        yield jobs

        workers = GaugeMetricFamily("skipvsr_workers", "Live workers, by state.", labels=["state"])
        busy = [worker.job is not None for worker in self._operations.workers()]
        workers.add_metric(["busy"], sum(busy))
        workers.add_metric(["idle"], len(busy) - sum(busy))
        yield workers
