"""What docker-compose.yml and the Dockerfile promise, as far as it shows without Docker; with it: test_compose_slow."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from redis.connection import parse_url

from commands.shared.command_line import read_settings
from commands.shared.embedded_redis import redis_binary
from jobs.settings import Settings
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.processes import wait_until

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ["api", "grpc", "worker"]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_hardened_limited_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert not {"privileged", "cap_add", "pid", "network_mode"} & set(service)
    assert {"memory", "pids"} <= set(service["deploy"]["resources"]["limits"])
    assert service["healthcheck"]["test"][0] == "CMD"  # no shell needed: the API's image has none
    assert service["healthcheck"]["start_interval"] == "1s"  # `--wait` is over when it is up
    assert all(each["condition"] == "service_healthy" for each in service.get("depends_on", {}).values())
    assert re.search(r":v?\d|:-\d", service["image"])


def test_images_have_a_name_to_publish_and_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {"api": "api", "worker": "worker", "grpc": "worker"}
    for name, image in images.items():
        assert SERVICES[name]["image"] == f"${{SKIPVSR_IMAGE:-skipvsr}}-{image}:${{SKIPVSR_TAG:-{version}}}"
    assert {name for name, service in SERVICES.items() if "build" in service} == {"api", "worker"}
    assert f"#SKIPVSR_TAG={version}\n" in (ROOT / ".env.example").read_text()


def test_a_tag_releases_the_images_of_compose() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads the key `on` as true
    jobs = workflow["jobs"]
    assert set(jobs["images"]["strategy"]["matrix"]["target"]) == {
        SERVICES[n]["build"]["target"] for n in ("api", "worker")
    }
    steps = [step for job in jobs.values() for step in job["steps"]]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
    assert all(job["timeout-minutes"] for job in jobs.values())
    assert {"wheels", "documentation", "images"} <= set(jobs["draft"]["needs"])
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for step in steps:
        assert set(re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))) <= set(targets)


def test_services_wait_for_what_they_need() -> None:
    assert all("redis" in SERVICES[name]["depends_on"] for name in OURS)
    assert "prometheus" in SERVICES["grafana"]["depends_on"]


def test_nothing_is_published_but_to_this_machine_and_redis_not_at_all() -> None:
    assert "ports" not in SERVICES["redis"]
    assert "ports" not in SERVICES["worker"]  # two workers could not share one
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(re.match(r"(127\.0\.0\.1|\$\{SKIPVSR_\w+_HOST:-127\.0\.0\.1\}):", port) for port in published)


def test_redis_keeps_what_it_was_told() -> None:
    command = SERVICES["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"
    assert SERVICES["redis"]["volumes"] == ["redis:/data", "redis-key:/run/redis-key"]


def test_only_services_that_need_redis_reach_it_and_know_its_password() -> None:
    assert COMPOSE["networks"]["backend"] == {"internal": True}
    assert SERVICES["redis"]["networks"] == ["backend"]
    assert {name for name, service in SERVICES.items() if "backend" in service.get("networks", [])} == {*OURS, "redis"}
    mounts = {name: [v for v in service["volumes"] if v.startswith("redis-key:")] for name, service in SERVICES.items()}
    assert {name for name, volumes in mounts.items() if volumes} == {*OURS, "redis"}
    assert all(mounts[name] == ["redis-key:/run/redis-key:ro"] for name in OURS)
    options = COMPOSE["volumes"]["redis-key"]["driver_opts"]
    assert options["type"] == "tmpfs"
    assert f"uid={SERVICES['redis']['user'].split(':')[0]}," in options["o"]
    for name in OURS:
        environment = SERVICES[name]["environment"]
        assert environment["SKIPVSR_REDIS_URL"] == ""  # a value in .env would win over the file
        assert environment["SKIPVSR_SECRETS_DIR"].split(":") == ["/run/secrets", "/run/redis-key", "/run/s3-key"]


def test_the_profile_s3_brings_a_server_and_its_key_to_the_services_that_need_them() -> None:
    assert SERVICES["s3"]["profiles"] == ["s3"]
    assert COMPOSE["networks"]["storage"] == {"internal": True}
    assert {name for name, service in SERVICES.items() if "storage" in service.get("networks", [])} == {*OURS, "s3"}
    mounts = {
        name: [v for v in service.get("volumes", []) if v.startswith("s3-key:")] for name, service in SERVICES.items()
    }
    assert {name for name, volumes in mounts.items() if volumes} == {*OURS, "s3"}
    for name in OURS:
        assert mounts[name] == ["s3-key:/run/s3-key:ro"]
        assert SERVICES[name]["depends_on"]["s3"] == {"condition": "service_healthy", "required": False}
        assert "SKIPVSR_STORAGE" not in SERVICES[name]["environment"]  # a value would win over the file
    options = COMPOSE["volumes"]["s3-key"]["driver_opts"]
    assert options["type"] == "tmpfs"
    assert f"uid={SERVICES['s3']['user'].split(':')[0]}," in options["o"]
    assert "useradd --uid 10001" in DOCKERFILE


def test_the_s3_server_creates_its_key_and_the_settings_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command of docker-compose.yml for real, with other folders and a program that prints its environment."""
    keys, program = tmp_path / "keys", tmp_path / "bin" / "versitygw"
    keys.mkdir()
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$ROOT_ACCESS_KEY $ROOT_SECRET_KEY $*"\n')
    program.chmod(0o755)
    [script] = SERVICES["s3"]["command"]
    script = script.replace("$$", "$").replace("/run/s3-key", str(keys)).replace("/var/tmp", str(tmp_path))
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    runs = [
        subprocess.run([*SERVICES["s3"]["entrypoint"], script], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]  # a restart keeps the key
    access, secret, *arguments = runs[0].split()
    assert len(secret) == 64
    assert arguments == ["--port", ":7070", "--health", "/health", "posix", str(tmp_path / "s3")]
    assert {path.stat().st_mode & 0o777 for path in keys.iterdir()} == {0o600}
    monkeypatch.setenv("SKIPVSR_SECRETS_DIR", str(keys))
    settings = read_settings()
    assert (settings.storage, settings.s3_endpoint) == ("s3://skipvsr", "http://s3:7070")
    assert settings.s3_access_key_id == access
    assert settings.s3_secret_access_key is not None
    assert settings.s3_secret_access_key.get_secret_value() == secret
    assert (tmp_path / "s3" / "skipvsr").is_dir()


@pytest.mark.slow
def test_redis_creates_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command of docker-compose.yml for real, with other folders and another address."""
    shell, options, script, *arguments = SERVICES["redis"]["command"]
    script = script.replace("$$", "$").replace("/run/redis-key", str(tmp_path)).replace("cd /data", f"cd {tmp_path}")
    port = free_port()
    command = [shell, options, script, *arguments, "--port", str(port), "--bind", "127.0.0.1"]
    here = tmp_path / "bin"
    here.mkdir()
    (here / "redis-server").symlink_to(redis_binary())
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    monkeypatch.setenv("SKIPVSR_REDIS_URL", "")
    (tmp_path / "none").mkdir()
    monkeypatch.setenv("SKIPVSR_SECRETS_DIR", f"{tmp_path / 'none'}:{tmp_path}")
    urls = []
    for _ in range(2):
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: _answers(port), 60, "Redis does not answer")
            url = read_settings().redis_url
            assert url is not None
            with redis.Redis.from_url(url.replace("@redis:6379", f"@127.0.0.1:{port}")) as client:
                assert client.ping()
            with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
                stranger.rpush("rq:queue:skipvsr-normal", "hostile")
            secret = parse_url(url)["password"]
            assert len(secret) == 64
            assert secret.encode() not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
            urls.append(url)
        finally:
            server.terminate()
            server.wait(60)
    assert urls[0] == urls[1]


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 60):
            return True
    except OSError:
        return False


def test_services_may_finish_what_they_do() -> None:
    assert seconds(SERVICES["worker"]["stop_grace_period"]) > Settings().stop_grace_seconds
    assert seconds(SERVICES["grpc"]["stop_grace_period"]) > Settings().grpc_drain_seconds


def test_variables_are_settings_or_explained() -> None:
    """Each `SKIPVSR_…` that the file sets or reads is a setting, or is named in .env.example."""
    explained = (ROOT / ".env.example").read_text()
    text = (ROOT / "docker-compose.yml").read_text() + (ROOT / "docker-compose.gpu.yml").read_text()
    for name in {*re.findall(r"SKIPVSR_[A-Z_]+", text), *re.findall(r"\$\{(\w+)", text)}:
        assert name in explained, name


def test_own_weights_are_mounted_beside_the_images() -> None:
    """As docs/containers.md has it: into the folder that worker and gRPC server look into, and not over it."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "containers.md").read_text(), re.DOTALL)
    (override,) = (yaml.safe_load(block)["services"] for block in blocks)
    assert set(override) == {"worker", "grpc"}
    for name, service in override.items():
        (mount,) = service["volumes"]
        source, target, mode = mount.split(":")
        assert Path(target).parent == Path(SERVICES[name]["environment"]["SKIPVSR_WEIGHTS_DIR"])
        assert Path(target).name == Path(source).name
        assert mode == "ro"


def test_secrets_are_files() -> None:
    labels = {
        "skipvsr_api_key": "skipvsr.key-file",
        "skipvsr_webhook_secret": "skipvsr.webhook-file",
        "skipvsr_s3_secret_access_key": "skipvsr.s3-file",
    }
    assert set(SERVICES["api"]["secrets"]) == set(SERVICES["grpc"]["secrets"]) == set(labels)
    assert SERVICES["worker"]["secrets"] == ["skipvsr_s3_secret_access_key"]
    for name in OURS:  # else a running container would keep the old file
        for secret in SERVICES[name]["secrets"]:
            assert SERVICES[name]["labels"][labels[secret]] == COMPOSE["secrets"][secret]["file"]
    assert "SKIPVSR_SECRETS_DIR=/run/secrets" in DOCKERFILE
    assert SERVICES["worker"]["environment"]["SKIPVSR_API_KEY"] == "", "a key in .env must not reach the worker"
    assert SERVICES["worker"]["environment"]["SKIPVSR_WEBHOOK_SECRET"] == ""
    assert (ROOT / "deploy" / "no-key").read_bytes() == b""


def test_a_gpu_is_one_more_file() -> None:
    override = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())["services"]
    assert set(override) == {"worker", "grpc"}
    for service in override.values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia"
        assert device["capabilities"] == ["gpu", "compute", "utility", "video"], "NVENC needs the capability video"
    assert override["worker"]["command"] == ["worker", "--devices", "all"]
    assert override["grpc"]["environment"] == {"SKIPVSR_DEVICE": "cuda"}


def test_images_run_as_nobody_and_get_what_they_copy() -> None:
    assert re.search(r"^ARG PYTHON=\d\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    assert DOCKERFILE.count("USER skipvsr") == 2
    assert "useradd --uid 10001" in DOCKERFILE
    let_in = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    for line in re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists()
            assert source == "." or source.split("/")[0] in let_in or source in let_in or source.endswith(".py"), source


def test_scripts_are_plain_shell() -> None:
    for script in (ROOT / "deploy").glob("*.sh"):
        subprocess.run(["sh", "-n", str(script)], check=True)
        assert script.stat().st_mode & 0o111, script
