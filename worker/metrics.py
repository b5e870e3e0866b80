"""Prometheus metrics of a worker. The rules and dashboards in `deploy/` use the metric names."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, start_http_server

from jobs.schema import JobMetrics
from pipeline.events import ChunkDone

_JOB_BUCKETS = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
"""Seconds, from a short clip with a small network to a film with a large network."""
_QUEUE_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400)
_STAGE_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500)
_RATIO_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
_SPEEDUP_BUCKETS = (0.5, 0.8, 0.95, 1.05, 1.2, 1.35, 1.5, 1.75, 2, 2.5, 3, 4, 6, 10)


class WorkerMetrics:
    """All metrics of one worker, in a separate registry. The worker processes one job, with one model, at a time."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.registry = CollectorRegistry()
        self._model = "none"

        def histogram(name: str, text: str, labels: list[str], buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"skipvsr_{name}", text, labels, buckets=buckets, registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"skipvsr_{name}", text, labels, registry=self.registry)

        self.job_seconds = histogram(
            "job_seconds",
            "Seconds from the claim of a job until the worker finished, stopped or lost the job.",
            ["model", "outcome"],
            _JOB_BUCKETS,
        )
        self.queue_seconds = histogram(
            "queue_seconds", "Seconds that a job waited for its first worker.", [], _QUEUE_BUCKETS
        )
        self.stage_seconds = histogram(
            "stage_seconds",
            "Seconds of one chunk in a stage; stages overlap. stage: decode, model, encode.",
            ["stage"],
            _STAGE_BUCKETS,
        )
        self.skip_ratio = histogram(
            "job_skip_ratio",
            "Fraction of a finished job's (tile, block) units that the network did not compute.",
            ["model"],
            _RATIO_BUCKETS,
        )
        self.speedup = histogram(
            "job_speedup_ratio",
            "Dense time divided by routed time of a finished job; dense time from the job's steps on whole frames.",
            ["model"],
            _SPEEDUP_BUCKETS,
        )
        self.frames = counter("frames", "Number of frames upscaled and checkpointed.", "model")
        self.tile_blocks = counter(
            "tile_blocks",
            "(Tile, block) units of the network. outcome: run, reused (by the mask), or skipped (by the gates).",
            "outcome",
        )
        self.tiles_reused = counter("tiles_reused", "Tiles of output frames reused from the previous frame.")
        self.resumes = counter("resumes", "Jobs resumed from a checkpoint.")
        self.lost = counter("worker_lost", "Dead workers whose job this worker took away.")
        build = Info("skipvsr_build", "Version and part of the running program.", registry=self.registry)
        build.info({"version": version("skipvsr"), "part": "worker"})
        ProcessCollector(registry=self.registry)
        memory = Gauge(
            "skipvsr_device_memory_bytes",
            "Memory that the worker holds on the compute device; on a CPU, its resident memory.",
            ["device"],
            registry=self.registry,
        )
        device = device or torch.device("cpu")
        memory.labels(device.type).set_function(_memory_of(device))

        # Start at 0, so that Prometheus sees the first chunk as an increase.
        for outcome in ("run", "reused", "skipped"):
            self.tile_blocks.labels(outcome)
        for stage in ("decode", "model", "encode"):
            self.stage_seconds.labels(stage)
        self._create_outcomes(self._model)

    def claimed(self) -> None:
        """Record a claimed job, whose model is not known yet."""
        self._model = "none"

    def uses(self, model: str) -> None:
        """Set the model of the current job. Only names of loaded models become labels."""
        self._model = model
        for series in (self.frames, self.skip_ratio, self.speedup):
            series.labels(model)  # starts at 0, as above
        self._create_outcomes(model)

    def _create_outcomes(self, model: str) -> None:
        for outcome in ("done", "failed"):
            self.job_seconds.labels(model, outcome)

    def chunk(self, event: ChunkDone) -> None:
        """Record a finished chunk."""
        self.frames.labels(self._model).inc(event.frames)
        for stage, seconds in event.stages.items():
            self.stage_seconds.labels(stage).observe(seconds)
        for report in event.reports:
            self.tile_blocks.labels("reused").inc(report.units_reused)
            self.tile_blocks.labels("skipped").inc(report.units_skipped)
            self.tile_blocks.labels("run").inc(report.units_total - report.units_left_out)
        self.tiles_reused.inc(sum(report.tiles_reused for report in event.reports))

    def published(self, metrics: JobMetrics) -> None:
        """Record the skip ratio and the speedup of a finished job."""
        self.skip_ratio.labels(self._model).observe(metrics.skip_ratio)
        self.speedup.labels(self._model).observe(metrics.speedup)

    def ended(self, outcome: str, seconds: float) -> None:
        """Record the end of an attempt. outcome: done, failed, cancelled, paused, handed back or lost."""
        self.job_seconds.labels(self._model, outcome.replace(" ", "_")).observe(seconds)

    def serve(self, address: str, port: int) -> None:
        """Serve the metrics over HTTP in a daemon thread. Raises OSError if the port is in use."""
        start_http_server(port, addr=address, registry=self.registry)


def _memory_of(device: torch.device) -> Callable[[], float]:
    """A function that measures the memory held on a device in bytes."""
    if device.type == "cuda":
        return lambda: float(torch.cuda.memory_reserved(device))
    return _resident


def _resident() -> float:
    """Resident memory of the process in bytes; 0 on a system without /proc."""
    try:
        return float(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE"))
    except OSError:
        return 0.0
