"""docker-compose.yml for real: built, started, used, hurt and taken down. Needs a Docker engine; `make test-slow`.

One stack for the whole module, under the file's own limits, on free ports. `pytest -s` shows what Prometheus answers.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support.clips import make_clip
from tests.support.compose import Stack, docker, engine_runs, until
from tests.support.paths import ROOT

SERVICES = {"api", "grpc", "worker", "redis", "prometheus"}
API_BYTES = 250e6
API_IMAGE = "skipvsr-api:0.1.0"


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not engine_runs(), reason="needs a Docker engine with Compose"),
]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack("skipvsr-tested").running() as stack:
        yield stack


@pytest.fixture(scope="module")
def still_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detailed still picture before which a square moves: what a router is for."""
    path = tmp_path_factory.mktemp("clips") / "still.mp4"
    picture = np.random.default_rng(1).integers(0, 255, (15, 20, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "16"})
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        for index in range(40):
            image = picture.copy()
            image[50:66, 2 * index : 2 * index + 16] = 250
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
    return path


def test_every_service_is_healthy_and_confined(stack: Stack) -> None:
    for service in SERVICES:
        (container,) = stack.containers(service)
        assert container["State"]["Health"]["Status"] == "healthy", service
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert host["SecurityOpt"] == ["no-new-privileges:true"], service
        assert host["Memory"] > 0, service
        assert host["PidsLimit"] > 0, service
        status = stack.compose("exec", "-T", service, *_status_of_first(service))
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE), service
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE), service
        assert not re.search(r"^Uid:.*\b0\b", status, re.MULTILINE), service


def _status_of_first(service: str) -> tuple[str, ...]:
    if service in ("redis", "prometheus"):
        return ("cat", "/proc/1/status")
    return ("python", "-c", "print(open('/proc/1/status').read())")


def test_the_apis_image_is_small_and_bare(stack: Stack) -> None:
    for image in (API_IMAGE, "skipvsr-worker:0.1.0", "redis:8", "prom/prometheus:v2.53.3"):
        print(f"{image}: {int(docker('image', 'inspect', '-f', '{{.Size}}', image)) / 1e6:.0f} MB")
    assert int(docker("image", "inspect", "-f", "{{.Size}}", API_IMAGE)) <= API_BYTES
    programs = "import os; print(sorted(p for d in ('/bin', '/sbin', '/usr/bin', '/usr/sbin') "
    programs += "if os.path.isdir(d) for p in os.listdir(d)), os.listdir('/usr/local/bin'))"
    print(found := stack.compose("exec", "-T", "api", "python", "-c", programs))
    assert found.startswith("[] ")
    absent = "import importlib.util as u; print([m for m in ('torch', 'numpy', 'pip') if u.find_spec(m)])"
    assert stack.compose("exec", "-T", "api", "python", "-c", absent) == "[]"


def test_a_routed_job_and_what_prometheus_says_of_it(stack: Stack, still_clip: Path) -> None:
    job = stack.done(stack.post(still_clip, model="basicvsr-reds", routing="balanced"))
    metrics = job["metrics"]
    print({name: metrics[name] for name in ("skip_ratio", "reuse_ratio", "speedup")})
    assert len(stack.api.get(f"/jobs/{job['id']}/result").content) > 10_000

    model = "model=basicvsr-reds"
    mean = "sum by (model) (skipvsr_job_{0}_ratio_sum) / (sum by (model) (skipvsr_job_{0}_ratio_count) > 0)"
    speedup = stack.shown(mean.format("speedup"))
    assert speedup[model] == pytest.approx(metrics["speedup"], abs=0.01)
    assert speedup[model] > 1.1
    skipped = stack.shown(mean.format("skip"))
    assert skipped[model] == pytest.approx(metrics["skip_ratio"], abs=0.01)
    assert skipped[model] > 0.2
    assert stack.shown("sum by (model) (skipvsr_frames_total) > 0")[model] == 40
    blocks = stack.shown("sum by (outcome) (skipvsr_tile_blocks_total)")
    assert (blocks["outcome=reused"] + blocks["outcome=skipped"]) / sum(blocks.values()) == pytest.approx(
        metrics["skip_ratio"], abs=0.01
    )
    stages = stack.shown("sum by (stage) (skipvsr_stage_seconds_sum)")
    assert set(stages) == {"stage=decode", "stage=model", "stage=encode"}
    assert stack.shown("sum by (model, outcome) (skipvsr_job_seconds_count)")[f"{model} outcome=done"] == 1
    assert stack.shown("skipvsr_queue_seconds_count")["job=worker"] == 1
    assert set(stack.shown("skipvsr_queue_depth").values()) == {0}
    assert stack.shown("sum(skipvsr_workers)")[""] == 1
    assert stack.shown("skipvsr_upload_bytes_total")["job=api"] == still_clip.stat().st_size
    assert stack.shown("skipvsr_device_memory_bytes", lambda found: len(found) == 2)
    assert set(stack.shown("sum by (part) (skipvsr_build_info)")) == {"part=api", "part=grpc", "part=worker"}
    assert stack.api.get("/metrics/jobs").json()["jobs"][0]["metrics"]["speedup"] == metrics["speedup"]


def test_a_stream_against_the_grpc_service(stack: Stack, tmp_path: Path) -> None:
    clip, target = make_clip(tmp_path / "clip.mp4", frames=20, width=64, height=48), tmp_path / "large.mp4"
    address = f"127.0.0.1:{stack.ports['SKIPVSR_GRPC_PORT']}"
    command = [sys.executable, "-m", "cli", "stream", str(clip), str(target), "--address", address]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    with av.open(str(target)) as container:
        video = container.streams.video[0]
        assert (video.width, video.height, sum(1 for _ in container.decode(video))) == (256, 192, 20)
    stack.shown("sum(skipvsr_frame_latency_seconds_count)", lambda found: found.get("") == 20)
    stack.shown("histogram_quantile(0.95, sum by (le) (skipvsr_frame_latency_seconds_bucket))")


def test_promtool_has_nothing_to_say(stack: Stack) -> None:
    """Of what the three really expose after their work, and of rules and their tests as they are mounted there."""
    for service, port in (("api", 8000), ("worker", 9101), ("grpc", 9102)):
        text = stack.compose("exec", "-T", "prometheus", "wget", "-q", "-O", "-", f"http://{service}:{port}/metrics")
        assert "skipvsr_build_info" in text
        assert stack.compose("exec", "-T", "prometheus", "promtool", "check", "metrics", stdin=text + "\n") == ""
        print(f"promtool check metrics, {service}: {len(text.splitlines())} lines, nothing to say")
    folder = "/etc/prometheus"
    for command in (("check", "config", f"{folder}/prometheus.yml"), ("test", "rules", f"{folder}/tests/skipvsr.yml")):
        print(stack.compose("exec", "-T", "-e", "TMPDIR=/prometheus", "prometheus", "promtool", *command))
    rules = stack.prometheus.get("/api/v1/rules").json()["data"]["groups"]
    assert {group["name"] for group in rules} == {"skipvsr-recorded", "skipvsr-alerts"}
    assert all(rule["health"] in ("ok", "unknown") for group in rules for rule in group["rules"])


def test_every_query_of_the_dashboard_has_an_answer(stack: Stack) -> None:
    """After a job and a stream; what nothing has happened for yet (lost workers, refusals) may have none."""
    panels = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "skipvsr.json").read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    needed = [expression for expression in asked if "rejected" not in expression]

    def empty() -> list[str]:
        return [expression for expression in needed if not stack.query(expression)]  # a wrong one has no "data" at all

    until(lambda: not empty(), 60, "queries without an answer, though rules are worked out every 15 s")
    print(f"{len(needed)} queries have an answer")


def test_redis_restarts_while_jobs_wait(stack: Stack, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=24, width=96, height=64)
    jobs = [stack.post(clip, model="small") for _ in range(4)]
    stack.compose("restart", "redis")
    until(lambda: stack.api.get("/readyz").status_code == 200, 60, "Redis")
    assert all(stack.done(job, 300)["progress"]["frames_done"] == 24 for job in jobs)


def test_a_killed_workers_job_goes_on(stack: Stack, still_clip: Path) -> None:
    before = stack.query("sum(skipvsr_resumes_total)").get("", 0)
    job = stack.post(still_clip, model="basicvsr-reds", chunk="4", lookahead="2")
    until(lambda: stack.job(job)["progress"]["frames_saved"] >= 4, 300, "a chunk")
    docker("kill", stack.containers("worker")[0]["Id"])  # Docker leaves what was killed so, it restarts what crashed
    at = stack.job(job)["progress"]["frames_saved"]
    stack.compose("up", "-d", "--wait", "worker")
    ended = stack.done(job)
    print(f"killed at frame {at}; attempt {ended['attempt']}")
    assert ended["attempt"] == 2
    assert stack.shown("sum(skipvsr_worker_lost_total) > 0")[""] >= 1
    assert stack.shown("sum(skipvsr_resumes_total) > 0")[""] >= max(1, before)
    assert re.search(rf'"job_id": "{job}".*', stack.compose("logs", "worker"))


def test_two_workers_do_two_jobs_at_once(stack: Stack, still_clip: Path) -> None:
    stack.compose("up", "-d", "--wait", "--scale", "worker=2")
    stack.shown("sum(skipvsr_workers)", lambda found: found == {"": 2})
    jobs = [stack.post(still_clip, model="basicvsr-reds") for _ in range(2)]
    until(lambda: all(stack.job(job)["state"] == "running" for job in jobs), 60, "both at work")
    stack.shown("sum by (state) (skipvsr_workers)", lambda found: found.get("state=busy") == 2)
    ended = [stack.done(job) for job in jobs]
    assert len({job["worker"] for job in ended}) == 2


def test_stopping_hands_a_job_back(stack: Stack, still_clip: Path) -> None:
    """SIGTERM: the chunk is finished, the worker ends by itself within its grace period, and another one goes on."""
    job = stack.post(still_clip, model="basicvsr-reds", chunk="4", lookahead="1")
    until(lambda: stack.job(job)["state"] == "running", 120, "at work")
    stack.compose("stop", "worker")
    codes = [each["State"]["ExitCode"] for each in json.loads(docker("inspect", *_stopped(stack)))]
    assert codes == [0] * len(codes)
    stack.compose("up", "-d", "--wait", "worker")
    assert stack.done(job)["progress"]["frames_done"] == 40


def _stopped(stack: Stack) -> list[str]:
    return stack.compose("ps", "-aq", "worker").split()


def test_a_key_in_a_file_closes_the_door(stack: Stack, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("open sesame\n")
    key.chmod(0o644)
    stack.environment["SKIPVSR_API_KEY_FILE"] = str(key)
    stack.compose("up", "-d", "--wait", "api")  # which makes it anew: Compose by itself would not
    assert stack.api.get("/jobs").status_code == 401
    assert stack.api.get("/jobs", headers={"X-API-Key": "open sesame"}).status_code == 200
    assert stack.api.get("/metrics").status_code == 200  # Prometheus has no key
    environment = json.dumps(stack.containers("api")[0]["Config"]["Env"])
    assert "sesame" not in environment
