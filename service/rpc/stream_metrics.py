"""Prometheus metrics of live streams."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, start_http_server

from model.routing import RoutingReport

_LATENCY_BUCKETS = (0.005, 0.01, 0.02, 0.033, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 30)
"""Seconds. 33 ms is the duration of a frame at 30 frames per second."""
_BATCH_BUCKETS = (1, 2, 4, 8, 16)


class StreamMetrics:
    """The gRPC server's metrics, in their own registry. Names of frame and unit counters match the worker's."""

    def __init__(self, streams: Callable[[], int], device: torch.device | None = None) -> None:
        """`streams` returns the number of connected streams; `device` is the networks' device."""
        self.registry = CollectorRegistry()
        self.latency = Histogram(
            "skipvsr_frame_latency_seconds",
            "Seconds from a frame's arrival until its answer was written, including the wait for chunk and look-ahead.",
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.batches = Histogram(
            "skipvsr_batch_streams",
            "Number of streams in a batch, observed once per stream of the batch.",
            buckets=_BATCH_BUCKETS,
            registry=self.registry,
        )
        self.frames = Counter("skipvsr_frames", "Frames upscaled and answered.", ["model"], registry=self.registry)
        self.tile_blocks = Counter(
            "skipvsr_tile_blocks",
            "(Tile, block) units by outcome: run, reused (inter-frame mask) or skipped (gates).",
            ["outcome"],
            registry=self.registry,
        )
        self.tiles_reused = Counter(
            "skipvsr_tiles_reused", "Tiles of output frames reused from the previous frame.", registry=self.registry
        )
        self.moved = Counter(
            "skipvsr_states_moved",
            "States of disconnected streams moved between a GPU and main memory. to: host or device.",
            ["to"],
            registry=self.registry,
        )
        active = Gauge("skipvsr_streams", "Connected streams.", registry=self.registry)
        active.set_function(streams)
        device = device or torch.device("cpu")
        memory = Gauge(
            "skipvsr_device_memory_bytes",
            "Memory of this process on the networks' device; on a CPU, resident memory.",
            ["device"],
            registry=self.registry,
        )
        memory.labels(device.type).set_function(lambda: _memory_of(device))
        build = Info("skipvsr_build", "Version and part of the software.", registry=self.registry)
        build.info({"version": version("skipvsr"), "part": "grpc"})
        ProcessCollector(registry=self.registry)

    def watch_parked(self, streams: Callable[[], int], host_bytes: Callable[[], int]) -> None:
        """Report disconnected streams that may resume, and the main memory of states that have left a GPU."""
        parked = Gauge("skipvsr_parked_streams", "Disconnected streams that may resume.", registry=self.registry)
        parked.set_function(streams)
        moved = Gauge(
            "skipvsr_parked_host_bytes",
            "Main memory of the states that disconnected streams have moved from a GPU.",
            registry=self.registry,
        )
        moved.set_function(host_bytes)

    def frame(self, model: str, report: RoutingReport, latency_seconds: float) -> None:
        """Count an answered frame of a stream with this model."""
        self.latency.observe(latency_seconds)
        self.frames.labels(model).inc()
        self.tile_blocks.labels("reused").inc(report.units_reused)
        self.tile_blocks.labels("skipped").inc(report.units_skipped)
        self.tile_blocks.labels("run").inc(report.units_total - report.units_left_out)
        self.tiles_reused.inc(report.tiles_reused)

    def serve(self, address: str, port: int) -> None:
        """Serve the metrics over HTTP in a daemon thread. Raises OSError if the port is in use."""
        start_http_server(port, addr=address, registry=self.registry)


def _memory_of(device: torch.device) -> float:
    """Return bytes; 0 on systems without /proc."""
    if device.type == "cuda":
        return float(torch.cuda.memory_reserved(device))
    try:
        return float(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE"))
    except OSError:
        return 0.0
