"""Clients that stock generators make of openapi.json run a job through the real service and a real worker."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.settings import Settings
from tests.support.clips import make_clip, times_of
from tests.support.crew import crew
from tests.support.http_server import Service, serving
from tests.support.paths import ROOT

DESCRIPTION = ROOT / "service" / "http" / "openapi.json"
TYPESCRIPT = ROOT / "tests" / "data" / "typescript"
OTHER_CLIENTS = {
    "POST /uploads",
    "PATCH /uploads/{upload_id}",
    "POST /uploads/{upload_id}",
    "GET /jobs/{job_id}/preview",
}
"""Operations with media types that the generator leaves out: tus has clients of its own, and browsers show pictures."""
FRAMES = 4


@pytest.fixture
def service(settings: Settings, tmp_path: Path) -> Iterator[Service]:
    with serving(settings) as running, crew(settings, tmp_path):
        yield running


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "clip.mp4", frames=FRAMES)


def generate(folder: Path) -> str:
    """Generate a Python package below a folder; return its name."""
    name = "generated_skipvsr"
    tools = os.pathsep.join([sysconfig.get_path("scripts"), str(Path(sys.executable).parent), os.environ["PATH"]])
    command = ["openapi_python_client", "generate", "--path", str(DESCRIPTION), "--output-path", str(folder / name)]
    made = subprocess.run(
        [sys.executable, "-m", *command, "--meta", "none"],
        env=os.environ | {"PATH": tools},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    left_out = set(re.findall(r"WARNING parsing (\w+ \S+)", made.stdout + made.stderr))
    assert left_out <= OTHER_CLIENTS, made.stdout + made.stderr
    return name


def test_generated_python_client_runs_a_job(
    service: Service, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = generate(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def module(path: str) -> Any:
        return importlib.import_module(f"{name}.{path}")

    models, types = module("models"), module("types")
    with (
        module("client").Client(base_url=service.url, raise_on_unexpected_status=True) as client,
        clip.open("rb") as file,
    ):
        form = models.UpscaleForm(
            file=types.File(payload=file, file_name="clip.mp4"),
            model="tiny",
            scale=models.UpscaleFormScale.VALUE_2,
            priority=models.Priority.HIGH,
        )
        job = module("api.jobs.upscale").sync(client=client, body=form)
        assert isinstance(job, models.JobDocument), job
        assert (job.options.scale, job.options.priority, job.input_.frames) == (2, models.Priority.HIGH, FRAMES)
        deadline = time.monotonic() + 60
        while job.state not in (models.JobState.DONE, models.JobState.FAILED):
            assert time.monotonic() < deadline
            time.sleep(0.1)
            job = module("api.jobs.get_job").sync(job.id, client=client)
        assert (job.state, job.error, job.progress.frames_done) == (models.JobState.DONE, None, FRAMES)
        result = module("api.jobs.get_result").sync(job.id, client=client)
        (tmp_path / "result.mp4").write_bytes(result.payload.read())
        assert len(times_of(tmp_path / "result.mp4")) == FRAMES
        listed = module("api.jobs.list_jobs").sync(client=client)
        assert [found.id for found in listed.jobs] == [job.id]
        missing = module("api.jobs.get_job").sync("0", client=client)
        assert (missing.status, missing.title) == (404, "Not found")


@pytest.mark.slow
def test_generated_typescript_client_runs_a_job(service: Service, clip: Path, tmp_path: Path) -> None:
    if not shutil.which("npm"):
        pytest.skip("needs Node.js")
    project = tmp_path / "typescript"
    shutil.copytree(TYPESCRIPT, project)
    shutil.copy(DESCRIPTION, project)

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=project, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts")
    run("node", "generate.mjs")
    run("npx", "--no-install", "tsc")
    report = json.loads(run("node", "job.js", service.url, str(clip), "result.mp4"))
    assert (report["frames"], report["missing"]) == (FRAMES, 404)
    assert len(times_of(project / "result.mp4")) == FRAMES
