"""`skipvsr doctor`: what it finds on a machine that works, and in settings that prevent work."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

import cli
from commands.shared.embedded_redis import EmbeddedRedis
from jobs.settings import Settings
from tests.support.http_server import serving
from tests.support.s3_server import s3_server


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    monkeypatch.setenv("SKIPVSR_DATA_DIR", str(data_dir))
    monkeypatch.setenv("SKIPVSR_HTTP_PORT", "0")
    monkeypatch.setenv("SKIPVSR_GRPC_PORT", "0")
    monkeypatch.setenv("SKIPVSR_DEVICE", "cpu")
    monkeypatch.setattr("commands.shared.checks._encoding_trouble", lambda codec, encoder: "")


def doctor(capsys: pytest.CaptureFixture[str], status: int) -> dict[str, list[str]]:
    """Run the command; returns (state, detail and cure) by name."""
    assert cli.main(["doctor", "--json"]) == status
    found: dict[str, list[str]] = {}
    for row in json.loads(capsys.readouterr().out):
        found.setdefault(row["name"], []).append(f"{row['state']}: {row['detail']}; {row['cure']}")
    return found


def test_a_machine_that_works(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the encoders for real
    monkeypatch.setenv("SKIPVSR_HTTP_PORT", "0")
    monkeypatch.setenv("SKIPVSR_GRPC_PORT", "0")
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out.splitlines()
    names = {line[9:22].strip() for line in said}
    assert names == {
        *("system", "settings", "data folder", "disk", "device", "models", "encoders", "jail", "redis", "ports"),
        "API keys",
    }
    assert "ok       encoders     libx264, libx265, libsvtav1" in said
    assert {line.split()[0] for line in said} <= {"ok", "note"}


@pytest.mark.parametrize(
    ("variable", "value", "name", "words"),
    [
        ("SKIPVSR_DEVICE", "cuda:9", "device", "problem: this machine has no device cuda:9"),
        ("SKIPVSR_MIN_FREE_GB", "1e9", "disk", "or lower SKIPVSR_MIN_FREE_GB"),
        ("SKIPVSR_MODEL", "basicvsr-reds", "models", "problem: no weights for SKIPVSR_MODEL=basicvsr-reds"),
        ("SKIPVSR_REDIS_URL", "redis://127.0.0.1:9", "redis", "problem: Redis does not answer"),
        ("SKIPVSR_REDIS_URL", "redis+sentinel://127.0.0.1:9/main", "redis", "problem: Redis does not answer"),
        ("SKIPVSR_REDIS_URL", "http://127.0.0.1", "settings", "problem: SKIPVSR_REDIS_URL: "),
        ("SKIPVSR_HTTP_PORT", "many", "settings", "problem: SKIPVSR_HTTP_PORT: "),
        ("SKIPVSR_HTTP_HOST", "no.such.host.invalid", "ports", "is not an address of this machine"),
        ("SKIPVSR_DATA_DIR", "/proc/data", "data folder", "problem: /proc/data is not writable"),
        ("SKIPVSR_GRPC_TLS_CERT", "/none.pem", "ports", "problem: SKIPVSR_GRPC_TLS_CERT: cannot read /none.pem"),
        ("SKIPVSR_SECRETS_DIR", "/none", "settings", "problem: SKIPVSR_SECRETS_DIR: no folder /none"),
    ],
)
def test_what_prevents_work_has_a_cure_and_status_1(
    variable: str,
    value: str,
    name: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if value == "/proc/data":
        monkeypatch.setattr("os.access", lambda path, mode: str(path) != "/proc")  # root may write everywhere else
    monkeypatch.setenv(variable, value)
    found = doctor(capsys, 1)[name]
    (line,) = [line for line in found if words in line]
    assert not line.endswith("; "), "a cure"


def test_a_port_in_use(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, serving(settings) as service:
        other.close()
        monkeypatch.setenv("SKIPVSR_HTTP_PORT", str(service.port))
        assert f"ok: HTTP: 127.0.0.1:{service.port} is used by a running service; " in doctor(capsys, 0)["ports"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr("commands.shared.checks._is_our_api", lambda where: False)
        monkeypatch.setenv("SKIPVSR_HTTP_PORT", str(taken.getsockname()[1]))
        (line,) = [line for line in doctor(capsys, 1)["ports"] if line.startswith("problem")]
        assert line.endswith("stop the program on this port, or set SKIPVSR_HTTP_PORT")


def test_a_running_redis_and_an_open_service(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, data_dir: Path
) -> None:
    monkeypatch.setenv("SKIPVSR_HTTP_HOST", "0.0.0.0")
    with EmbeddedRedis(data_dir / "redis", persist=False):
        found = doctor(capsys, 0)
    assert found["redis"][0].startswith("ok: version ")
    assert found["API keys"] == [
        "note: the service listens beyond this machine and needs no key; `skipvsr keys add NAME` closes the service"
    ]
    assert cli.main(["keys", "add", "laptop"]) == 0
    capsys.readouterr()
    assert doctor(capsys, 0)["API keys"] == ["ok: 1 active; "]
    (data_dir / "keys.json").write_text("{")
    assert doctor(capsys, 1)["API keys"][0].startswith("problem: ")


def test_missing_layers_of_the_jail(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("media.jail.missing_layers", lambda: ("files",))
    assert doctor(capsys, 0)["jail"][0].startswith("note: the kernel does not limit files ")
    monkeypatch.setenv("SKIPVSR_REQUIRE_JAIL", "true")
    assert doctor(capsys, 1)["jail"][0].startswith("problem: ")


def test_an_encoder_that_does_not_work(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = {"av1": "no such encoder"}
    monkeypatch.setattr("commands.shared.checks._encoding_trouble", lambda codec, encoder: trouble.get(codec, ""))
    assert doctor(capsys, 1)["encoders"] == [
        "problem: libsvtav1: no such encoder; results in av1 fail: install PyAV from PyPI; its wheels hold all "
        "encoders",
        "ok: libx264, libx265; ",
    ]


def test_a_misspelt_variable_and_a_missing_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKIPVSR_DEVCE", "cpu")
    monkeypatch.setattr("commands.shared.checks.find_spec", lambda name: None if name == "grpc" else name)
    found = doctor(capsys, 0)
    assert found["settings"] == [
        "note: SKIPVSR_DEVCE is no setting and has no effect; did you mean SKIPVSR_DEVICE?; "
        "correct or remove the variable"
    ]
    assert "note: grpc is missing, for the gRPC server; pip install 'skipvsr[grpc]'" in found["packages"]


def test_a_bucket_is_checked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "storage" not in doctor(capsys, 0)
    with s3_server(tmp_path / "s3") as server:
        server.empty()
        monkeypatch.setenv("SKIPVSR_STORAGE", "s3://videos/x")
        monkeypatch.setenv("SKIPVSR_S3_ENDPOINT", f"http://127.0.0.1:{server.port}")
        monkeypatch.setenv("SKIPVSR_S3_RETRY_SECONDS", "1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
        assert doctor(capsys, 0)["storage"] == ["ok: s3://videos/x writes, keeps conditions and deletes; "]
        monkeypatch.setattr("jobs.bucket.Bucket._refuses", lambda self, write: False)
        assert "ignores If-None-Match" in doctor(capsys, 1)["storage"][0]
        monkeypatch.setenv("SKIPVSR_STORAGE", "s3://other")
        assert doctor(capsys, 1)["storage"][0].startswith("problem: ")
    monkeypatch.setenv("SKIPVSR_STORAGE", "s3://videos")
    assert "does not answer" in doctor(capsys, 1)["storage"][0]
