"""What a worker tells Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

from worker.pipeline import ChunkDone


class Meters:
    """The worker's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.jobs = Counter(
            "skipvsr_worker_jobs",
            "Jobs that left this worker's hands, by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self.frames = Counter("skipvsr_worker_frames", "Frames upscaled and checkpointed.", registry=self.registry)
        self.chunk_seconds = Histogram(
            "skipvsr_worker_chunk_seconds",
            "Time of a chunk in the network.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500),
            registry=self.registry,
        )

    def chunk(self, event: ChunkDone) -> None:
        """Count a chunk."""
        self.frames.inc(event.frames)
        self.chunk_seconds.observe(event.seconds)

    def serve(self, port: int, address: str = "0.0.0.0") -> None:  # noqa: S104 (Prometheus runs elsewhere)
        """Serve them over HTTP from a daemon thread. OSError if the port is taken."""
        start_http_server(port, addr=address, registry=self.registry)
