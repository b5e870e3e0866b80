"""The usual data folder, and misspelt variables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cli
from jobs.environment import unknown_variables
from jobs.settings import Settings
from tests.support.paths import ROOT


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's data folder; the current folder is empty."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "share" / "skipvsr"


def test_a_checkout_keeps_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert Settings().data_dir == Path("data")


def test_elsewhere_data_go_to_the_users_data_folder(home: Path) -> None:
    assert Settings().data_dir == home
    Path("data").mkdir()
    Path("data/jobs").mkdir()
    assert Settings().data_dir == home, "a folder of another program"


@pytest.mark.parametrize("sign", ["keys.json", "redis/redis.conf", "jobs/x", "weights/mine.safetensors"])
def test_a_folder_with_files_of_a_service_is_kept(home: Path, sign: str) -> None:
    for path in (Path("data") / sign, Path("data/uploads/x")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert Settings().data_dir == Path("data")


def test_a_setting_wins(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPVSR_DATA_DIR", "elsewhere")
    assert Settings().data_dir == Path("elsewhere")
    monkeypatch.setenv("SKIPVSR_DATA_DIR", "")
    assert Settings().data_dir == home


def test_misspelt_variables_are_named_with_the_nearest_setting() -> None:
    given = {"SKIPVSR_DEVCE": "cpu", "SKIPVSR_QUUX": "1", "SKIPVSR_DEVICE": "cpu", "PATH": "", "SKIPVSR_TAG": "1"}
    assert unknown_variables(
        ["device", "api_key_file"], given, {"skipvsr_api_key": "", "SKIPVSR_API_KEY_FILE": ""}
    ) == [
        "SKIPVSR_API_KEY is no setting and has no effect; did you mean SKIPVSR_API_KEY_FILE?",
        "SKIPVSR_DEVCE is no setting and has no effect; did you mean SKIPVSR_DEVICE?",
        "SKIPVSR_QUUX is no setting and has no effect",
    ]


def test_every_variable_of_the_example_is_known(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = re.findall(r"^#(SKIPVSR_\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert {"SKIPVSR_API_KEY_FILE", "SKIPVSR_TAG", "SKIPVSR_DATA_DIR"} <= set(names)
    for name in names:
        monkeypatch.setenv(name, "")
    assert Settings.unknown_variables() == []


def test_commands_warn_once(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(Settings.model_config, "env_file", ".env")
    Path(".env").write_text("SKIPVSR_THREDS=2\n# SKIPVSR_COMMENT=1\n")
    monkeypatch.setenv("SKIPVSR_DEVCIE", "cpu")
    for expected in (2, 0):
        assert cli.main(["models"]) == 0
        said = capsys.readouterr().err.splitlines()
        assert len(said) == expected
        if said:
            assert said[0] == (
                "skipvsr: warning: SKIPVSR_DEVCIE is no setting and has no effect; did you mean SKIPVSR_DEVICE?"
            )
            assert said[1].endswith("did you mean SKIPVSR_THREADS?")
