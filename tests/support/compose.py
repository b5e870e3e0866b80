"""docker-compose.yml as running services, on free ports, for tests that need a Docker engine."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.paths import ROOT
from tests.support.ports import free_port


def engine_runs() -> bool:
    try:
        return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0 and (
            subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
        )
    except FileNotFoundError:
        return False


def docker(*arguments: str, stdin: str = "", env: dict[str, str] | None = None, ok: bool = True) -> str:
    run = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, text=True, env=env, cwd=ROOT)
    assert not ok or run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    return (run.stdout + run.stderr).strip()


def until(condition: Callable[[], Any], limit: float, what: str) -> Any:
    deadline = time.monotonic() + limit
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {limit} s"
        time.sleep(0.5)
    return found


class Stack:
    """The running services."""

    def __init__(self, project: str, *options: str, **environment: str) -> None:
        self.project, self._options = project, options
        names = ("SKIPVSR_HTTP_PORT", "SKIPVSR_GRPC_PORT", "PROMETHEUS_PORT")
        self.ports = {name: str(free_port()) for name in names}
        self.environment = (
            {name: value for name, value in os.environ.items() if not name.startswith("SKIPVSR_")}
            | self.ports
            | environment
        )
        self.api = httpx.Client(base_url=f"http://127.0.0.1:{self.ports['SKIPVSR_HTTP_PORT']}", timeout=60)
        self.prometheus = httpx.Client(base_url=f"http://127.0.0.1:{self.ports['PROMETHEUS_PORT']}", timeout=60)

    def compose(self, *arguments: str, stdin: str = "") -> str:
        return docker("compose", "-p", self.project, *self._options, *arguments, stdin=stdin, env=self.environment)

    def containers(self, service: str) -> list[dict[str, Any]]:
        ids = self.compose("ps", "-q", service).split()
        found: list[dict[str, Any]] = json.loads(docker("inspect", *ids)) if ids else []
        return found

    def post(self, clip: Path, **options: str) -> str:
        with clip.open("rb") as file:
            answer = self.api.post("/upscale", files={"file": file}, data=options)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        document: dict[str, Any] = self.api.get(f"/jobs/{job_id}").json()
        return document

    def done(self, job_id: str, limit: float = 900) -> dict[str, Any]:
        ended = ("done", "failed", "cancelled", "paused")
        job: dict[str, Any] = until(
            lambda: job if (job := self.job(job_id))["state"] in ended else None, limit, "the job's end"
        )
        assert job["state"] == "done", job
        return job

    @contextmanager
    def running(self) -> Iterator[Stack]:
        """Build and start all services; at the end, take them down and check that nothing is left."""
        try:
            began = time.monotonic()
            self.compose("up", "--build", "--wait", "--wait-timeout", "600")
            print(f"\nup --build --wait: {time.monotonic() - began:.0f} s")
            yield self
        finally:
            self.api.close()
            self.prometheus.close()
            self.compose("--profile", "*", "down", "-v", "--remove-orphans")
        label = f"label=com.docker.compose.project={self.project}"
        for kind in (("ps", "-a"), ("volume", "ls"), ("network", "ls")):
            assert docker(*kind, "-q", "--filter", label) == ""

    def query(self, expression: str) -> dict[str, float]:
        """What Prometheus answers: labels (less where it was scraped from) to value."""
        answer = self.prometheus.get("/api/v1/query", params={"query": expression}).json()
        found = {}
        for each in answer["data"]["result"]:
            labels = {k: v for k, v in each["metric"].items() if k not in ("instance", "__name__")}
            found[" ".join(f"{k}={v}" for k, v in sorted(labels.items()))] = float(each["value"][1])
        return found

    def shown(self, expression: str, wanted: Callable[[dict[str, float]], bool] = bool) -> dict[str, float]:
        """The answer as soon as it is as wanted: scrapes are seconds apart."""
        found: dict[str, float] = until(
            lambda: found if wanted(found := self.query(expression)) else None, 40, expression
        )
        print(f"{expression}  ->  {found}")
        return found
