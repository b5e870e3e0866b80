"""`docker compose --profile s3` for real: job files in a bucket of the S3 server beside the services. `make test-slow`.

Where the official image of the S3 server cannot be pulled, `s3.Dockerfile` stands in for the image.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from skipvsr.v1 import upscaler_pb2 as pb
from skipvsr.v1 import upscaler_pb2_grpc as rpc
from tests.deploy.test_deploy import SERVICES
from tests.support.clips import make_clip
from tests.support.compose import Stack, docker, engine_runs, until
from tests.support.rpc_jobs import upload

OFFICIAL = SERVICES["s3"]["image"].removeprefix("${S3_IMAGE:-").removesuffix("}")
STAND_IN = "skipvsr-tested-s3"
OURS = ("api", "worker", "grpc")
LOOK = """
from commands.shared.command_line import read_settings
from jobs.bucket import Bucket
bucket = Bucket.from_settings(read_settings())
bucket.check()
print(*(found.key for found in bucket.objects("")))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not engine_runs(), reason="needs a Docker engine with Compose"),
]


@pytest.fixture(scope="module")
def image() -> str:
    if subprocess.run(["docker", "pull", "-q", OFFICIAL], capture_output=True, timeout=300, check=False).returncode:
        docker("build", "-t", STAND_IN, "-f", "tests/deploy/s3.Dockerfile", "tests/support")
        return STAND_IN
    return str(OFFICIAL)


@pytest.fixture(scope="module")
def stack(image: str) -> Iterator[Stack]:
    print(f"\nS3 server: {image}")
    with Stack(STAND_IN, "--profile", "s3", S3_IMAGE=image).running() as stack:
        yield stack


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=48, width=96, height=64, sound=True)


def objects(stack: Stack, service: str = "api") -> list[str]:
    """Keys in the bucket, as a service sees them with its own settings."""
    return stack.compose("exec", "-T", service, "python", "-c", LOOK).split()


def test_the_s3_server_is_healthy_confined_and_known_to_the_services(stack: Stack) -> None:
    (container,) = stack.containers("s3")
    assert container["State"]["Health"]["Status"] == "healthy"
    assert container["HostConfig"]["ReadonlyRootfs"]
    assert container["Config"]["User"] == "10001:10001"
    secret = stack.compose("exec", "-T", "s3", "cat", "/run/s3-key/skipvsr_s3_secret_access_key")
    assert len(secret) == 64
    for service in (*OURS, "s3"):
        (container,) = stack.containers(service)
        assert secret not in json.dumps(container["Config"]), service
        if service != "s3":
            assert objects(stack, service) == []


def test_a_job_lies_in_the_bucket(stack: Stack, clip: Path) -> None:
    job = stack.done(stack.post(clip, model="small"))
    result = stack.api.get(f"/jobs/{job['id']}/result").content
    assert len(result) == job["output"]["size_bytes"]
    keys = objects(stack)
    assert f"jobs/{job['id']}.json" in keys
    assert {key.rpartition("-")[2] for key in keys if key.startswith(f"files/{job['id']}/")} >= {"input", "result.mp4"}
    print(f"{len(keys)} objects: {keys}")
    stored = "from pathlib import Path; print(*Path('/data/jobs').glob('*/*'))"
    until(lambda: stack.compose("exec", "-T", "worker", "python", "-c", stored) == "", 20, "the volume holds job files")


def test_a_job_over_grpc_lies_in_the_bucket(stack: Stack, clip: Path) -> None:
    parts = upload(clip.read_bytes(), model="small", crf=30)
    with grpc.insecure_channel(f"127.0.0.1:{stack.ports['SKIPVSR_GRPC_PORT']}") as channel:
        jobs = rpc.JobServiceStub(channel)
        created = jobs.CreateJob(parts, timeout=60).job
        stack.done(created.id)
        result = b"".join(part.data for part in jobs.DownloadResult(pb.DownloadResultRequest(job_id=created.id)))
    assert result == stack.api.get(f"/jobs/{created.id}/result").content
    assert f"jobs/{created.id}.json" in objects(stack)


def test_a_killed_s3_server_costs_time_only(stack: Stack, clip: Path) -> None:
    whole = stack.api.get(f"/jobs/{stack.done(stack.post(clip, model='small', chunk='4'))['id']}/result").content
    stack.api.delete("/jobs").read()
    job = stack.post(clip, model="small", chunk="4", crf="19")
    until(lambda: stack.job(job)["progress"]["frames_saved"] >= 8, 300, "a chunk")
    docker("kill", stack.containers("s3")[0]["Id"])
    until(lambda: stack.api.get("/readyz").status_code == 503, 60, "the API notices the outage")
    assert stack.job(job)["state"] == "running"
    stack.compose("up", "-d", "--wait", "s3")
    ended = stack.done(job)
    assert (ended["attempt"], ended["progress"]["frames_done"]) == (1, 48)
    assert len(whole) > 10_000
    assert f"jobs/{job}.json" in objects(stack)
