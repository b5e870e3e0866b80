"""Secrets in files: a named file that is missing, empty or no file ends each server with one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cli
from commands.shared.command_line import read_settings
from jobs.errors import InvalidRequest
from jobs.settings import Settings


@pytest.mark.parametrize("where", ["environment", ".env"])
def test_secrets_from_named_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str) -> None:
    (tmp_path / "key").write_text("sesame\n")
    (tmp_path / "url").write_text("redis://:secret@here\n")
    variables = {"SKIPVSR_API_KEY_FILE": tmp_path / "key", "SKIPVSR_REDIS_URL_FILE": tmp_path / "url"}
    if where == ".env":
        env_file = tmp_path / ".env"
        env_file.write_text("".join(f"{name}={path}\n" for name, path in variables.items()))
        monkeypatch.setitem(Settings.model_config, "env_file", env_file)
    else:
        for name, path in variables.items():
            monkeypatch.setenv(name, str(path))
    settings = Settings()
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "sesame"
    assert settings.redis_url == "redis://:secret@here"
    assert Settings(redis_url="redis://there").redis_url == "redis://there"
    monkeypatch.setenv("SKIPVSR_API_KEY_FILE", "")
    assert (Settings().api_key is None) == (where == "environment"), "an empty variable counts as unset"


def test_the_environment_wins_over_a_file_named_in_dotenv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"SKIPVSR_REDIS_URL_FILE={tmp_path / 'url'}\n")
    (tmp_path / "url").write_text("redis://from-file")
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    monkeypatch.setenv("SKIPVSR_REDIS_URL", "redis://from-environment")
    assert Settings().redis_url == "redis://from-environment"


@pytest.mark.parametrize(
    ("variable", "content", "words"),
    [
        ("SKIPVSR_API_KEY_FILE", None, "SKIPVSR_API_KEY_FILE: cannot read .*: No such file or directory"),
        ("SKIPVSR_REDIS_URL_FILE", None, "SKIPVSR_REDIS_URL_FILE: cannot read .*: No such file or directory"),
        ("SKIPVSR_API_KEY_FILE", b" \n", "is empty"),
        ("SKIPVSR_API_KEY_FILE", b"\xff\xfe", "the file is no text"),
        ("SKIPVSR_APIKEY_FILE", b"sesame", "SKIPVSR_APIKEY_FILE: no such setting"),
        ("SKIPVSR_GRPC_TLS_KEY_FILE", b"sesame", "SKIPVSR_GRPC_TLS_KEY_FILE: no such setting"),
    ],
)
def test_a_named_file_without_a_secret_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    with pytest.raises(InvalidRequest, match=words) as error:
        Settings()
    assert "sesame" not in str(error.value)


def test_two_values_of_one_secret_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sesame")
    monkeypatch.setenv("SKIPVSR_API_KEY", "other")
    monkeypatch.setenv("SKIPVSR_API_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(InvalidRequest, match="are both set"):
        Settings()


@pytest.mark.parametrize("kind", ["folder", "no text", "link out of the folder", "dangling link", "pipe"])
def test_a_secret_in_a_folder_that_is_no_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Docker creates a folder in place of a missing file that a container mounts."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    secret = folder / "skipvsr_api_key"
    if kind == "folder":
        secret.mkdir()
    elif kind == "no text":
        secret.write_bytes(b"\xff")
    elif kind == "pipe":
        os.mkfifo(secret)
    else:
        secret.symlink_to(tmp_path / "elsewhere")
        if kind == "link out of the folder":
            (tmp_path / "elsewhere").write_text("sesame")
    monkeypatch.setenv("SKIPVSR_SECRETS_DIR", str(folder))
    assert cli.main(["models"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "SKIPVSR_SECRETS_DIR: " in line
    assert str(secret) in line


def test_secrets_of_kubernetes_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Kubernetes mounts links to files of a hidden folder beside them."""
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "skipvsr_api_key").write_text("sesame\n")
    (tmp_path / "skipvsr_api_key").symlink_to("..data/skipvsr_api_key")
    monkeypatch.setenv("SKIPVSR_SECRETS_DIR", str(tmp_path))
    key = read_settings().api_key
    assert key is not None
    assert key.get_secret_value() == "sesame"


@pytest.mark.parametrize("command", ["api", "grpc", "worker", "up"])
def test_no_server_starts_without_its_named_secret(command: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "SKIPVSR_API_KEY_FILE": "/nowhere",
        "SKIPVSR_DATA_DIR": str(tmp_path / "data"),
        "SKIPVSR_REDIS_URL": "redis://127.0.0.1:1/0",
        "SKIPVSR_HTTP_PORT": "0",
        "SKIPVSR_GRPC_PORT": "0",
    }
    run = subprocess.run(
        [sys.executable, "-P", "-m", "cli", command],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == 1
    line = "skipvsr: SKIPVSR_API_KEY_FILE: cannot read /nowhere: No such file or directory\n"
    assert (run.stdout, run.stderr) == ("", line)
    assert not (tmp_path / "data").exists()
