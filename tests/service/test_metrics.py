"""Prometheus metrics, alerting rules, and the Grafana dashboard."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from jobs.schema import Job, JobMetrics, JobOptions, JobState, Progress
from jobs.settings import Settings
from jobs.storage import new_id
from model.routing import RoutingReport
from pipeline.events import ChunkDone
from service.rpc.stream_metrics import StreamMetrics
from tests.support.clips import make_clip
from tests.support.http_server import Service, serving
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.rpc_server import noise, rpc_server
from worker.metrics import WorkerMetrics

DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules" / "skipvsr.yml"

# CI installs promtool, so a missing promtool fails there. Elsewhere the tests are skipped.
needs_promtool = pytest.mark.skipif(
    not (shutil.which("promtool") or os.environ.get("CI")), reason="needs promtool: apt install prometheus"
)


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings) as running:
        yield running


def promtool(*arguments: str, stdin: str = "") -> str:
    done = subprocess.run(["promtool", *arguments], input=stdin, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def values(text: str) -> dict[str, float]:
    """Parse samples. Keys have the form `name{label="value"}`, with labels in alphabetical order."""
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


def scraped(service: Service) -> dict[str, float]:
    return values(service.client.get("/metrics").text)


def worked() -> WorkerMetrics:
    """Return a worker's metrics after one job."""
    meters = WorkerMetrics()
    meters.claimed()
    meters.queue_seconds.observe(2)
    meters.uses("small")
    reports = [RoutingReport(units_total=100, units_reused=20, units_skipped=5, tiles_reused=4, seconds=0.1)] * 8
    stages = {"decode": 0.1, "model": 1.0, "encode": 0.2}
    meters.chunk(ChunkDone(0, 8, 1.0, Progress(frames_done=8), JobMetrics(), stages, reports))
    meters.published(JobMetrics(skip_ratio=0.25, speedup=1.3))
    meters.ended("done", 4.0)
    meters.lost.inc()
    meters.resumes.inc()
    return meters


def test_api_counts_uploads_queue_and_workers(service: Service, tmp_path: Path) -> None:
    before = scraped(service)
    assert before["skipvsr_redis_up"] == 1
    assert before['skipvsr_workers{state="idle"}'] == 0
    clip = make_clip(tmp_path / "clip.mp4", frames=2)
    first = service.post(clip, priority="high").json()["id"]
    service.post(clip)
    assert service.post(clip, crf="99").status_code == 400
    (tmp_path / "notes.txt").write_text("no video")
    assert service.post(tmp_path / "notes.txt").status_code == 415
    service.announce_worker()
    service.client.get("/no/such/page/1")
    service.client.get(f"/jobs/{first}")
    now = scraped(service)
    assert now["skipvsr_upload_bytes_total"] == 2 * clip.stat().st_size
    assert now['skipvsr_rejected_uploads_total{reason="invalid-request"}'] == 1
    assert now['skipvsr_rejected_uploads_total{reason="unsupported-media"}'] == 1
    assert now['skipvsr_queue_depth{priority="high"}'] == 1
    assert now['skipvsr_queue_depth{priority="normal"}'] == 1
    assert now['skipvsr_jobs{state="queued"}'] == 2
    assert now["skipvsr_queue_oldest_seconds"] > 0
    assert now['skipvsr_workers{state="idle"}'] == 1
    assert now["skipvsr_storage_free_bytes"] > 0
    assert now['skipvsr_http_request_seconds_count{method="POST",route="/upscale",status="202"}'] == 2
    assert now['skipvsr_http_request_seconds_count{method="GET",route="none",status="404"}'] == 1
    assert first not in service.client.get("/metrics").text  # ids as labels would create unbounded time series


def test_waiting_time_starts_when_the_job_was_last_queued(service: Service) -> None:
    store = service.operations.store
    long_ago = datetime.now(UTC) - timedelta(days=3)
    job = Job(id=new_id(), filename="clip.mp4", options=JobOptions(), created_at=long_ago)
    store.create(job)
    assert scraped(service)["skipvsr_queue_oldest_seconds"] == pytest.approx(3 * 86400, abs=60)
    store.request_pause(job.id)
    assert scraped(service)["skipvsr_queue_oldest_seconds"] == 0
    store.resume(job.id)
    assert scraped(service)["skipvsr_queue_oldest_seconds"] < 60


def test_first_failure_is_an_increase() -> None:
    """Series must start at 0, because Prometheus sees no increase in a series that starts at 1."""
    meters = WorkerMetrics()
    before = values(generate_latest(meters.registry).decode())
    assert before['skipvsr_job_seconds_count{model="none",outcome="failed"}'] == 0
    meters.uses("small")
    before = values(generate_latest(meters.registry).decode())
    assert before['skipvsr_job_seconds_count{model="small",outcome="failed"}'] == 0


def test_metrics_without_redis(settings: Settings) -> None:
    with serving(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"})) as service:
        samples = scraped(service)
    assert samples["skipvsr_redis_up"] == 0
    assert not any(name.startswith("skipvsr_workers") for name in samples)


def test_worker_counts_reused_and_skipped_units() -> None:
    samples = values(generate_latest(worked().registry).decode())
    assert samples['skipvsr_frames_total{model="small"}'] == 8
    assert samples['skipvsr_tile_blocks_total{outcome="skipped"}'] == 40
    assert samples['skipvsr_tile_blocks_total{outcome="reused"}'] == 160
    assert samples['skipvsr_tile_blocks_total{outcome="run"}'] == 600
    assert samples["skipvsr_tiles_reused_total"] == 32
    assert samples['skipvsr_stage_seconds_sum{stage="model"}'] == 1
    assert samples['skipvsr_job_skip_ratio_sum{model="small"}'] == 0.25
    assert samples['skipvsr_job_speedup_ratio_sum{model="small"}'] == 1.3
    assert samples['skipvsr_job_seconds_count{model="small",outcome="done"}'] == 1
    assert samples['skipvsr_device_memory_bytes{device="cpu"}'] > 1 << 20


def test_grpc_server_counts_frames_and_latency(tmp_path: Path, redis_url: str) -> None:
    port = free_port()
    with (
        rpc_server(tmp_path, redis_url, SKIPVSR_GRPC_METRICS_PORT=str(port)) as server,
        server.client() as client,
    ):
        answers = list(client.stream(list(enumerate(noise(5))), width=32, height=24))
        assert len(answers) == 5
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    samples = values(text)
    assert samples["skipvsr_frame_latency_seconds_count"] == 5
    assert samples['skipvsr_frames_total{model="tiny"}'] == 5
    assert samples['skipvsr_tile_blocks_total{outcome="run"}'] > 0
    assert samples["skipvsr_streams"] == 0
    assert samples['skipvsr_device_memory_bytes{device="cpu"}'] > 1 << 20


def test_measurements_of_recent_jobs(service: Service, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=6)
    ids = [service.post(clip).json()["id"] for _ in range(3)]
    claim = service.operations.store.claim(ids[0], "w")
    assert claim is not None
    measured = JobMetrics(processing_seconds=3.0, skip_ratio=0.4, speedup=1.5)
    fields = {"metrics": measured, "progress": Progress(frames_done=6, frames_total=6)}
    service.operations.store.release(claim, JobState.DONE, fields)
    jobs = service.client.get("/metrics/jobs", params={"last": 2}).json()["jobs"]
    assert [job["id"] for job in jobs] == ids[:0:-1]
    done = service.client.get("/metrics/jobs").json()["jobs"][2]
    assert (done["id"], done["state"], done["fps"], done["width"]) == (ids[0], "done", 2.0, 32)
    assert (done["metrics"]["skip_ratio"], done["metrics"]["speedup"]) == (0.4, 1.5)


@needs_promtool
def test_promtool_accepts_all_metrics(service: Service, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no video")
    service.post(tmp_path / "notes.txt")
    registries = (worked().registry, StreamMetrics(lambda: 0).registry)
    for text in (service.client.get("/metrics").text, *(generate_latest(one).decode() for one in registries)):
        assert promtool("check", "metrics", stdin=text) == ""


@needs_promtool
def test_alerting_rules() -> None:
    promtool("check", "config", "--syntax-only", str(DEPLOY / "prometheus" / "prometheus.yml"))
    promtool("check", "rules", str(RULES))
    promtool("test", "rules", str(DEPLOY / "prometheus" / "tests" / "skipvsr.yml"))


def test_rules_and_dashboard_use_existing_metrics(service: Service) -> None:
    registries = (worked().registry, StreamMetrics(lambda: 0).registry)
    exposed = service.client.get("/metrics").text + "".join(generate_latest(one).decode() for one in registries)
    names = set(re.findall(r"^# TYPE (skipvsr_\w+)", exposed, re.MULTILINE))
    names |= {f"{name}_{part}" for name in names for part in ("bucket", "sum", "count")}
    rules = RULES.read_text()
    recorded = set(re.findall(r"record: (\S+)", rules))
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "skipvsr.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for text in (rules, *asked):
        assert set(re.findall(r"\bskipvsr_\w+", text)) <= names
        assert set(re.findall(r"\bskipvsr:\w+:\w+", text)) <= recorded
    titles = [panel["title"] for panel in dashboard["panels"][:2]]
    assert titles == ["Speed-up, mean of 1 h", "Work not done"]
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    source = (DEPLOY / "grafana" / "datasources" / "prometheus.yml").read_text()
    assert f"uid: {dashboard['panels'][0]['datasource']['uid']} " in source
