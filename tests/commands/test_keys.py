"""`skipvsr keys`: the key on the output, notes on the error stream, no key in any list."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import cli
from jobs.allowance import Limits
from service.callers import Scope
from service.key_file import KeyFile


@pytest.fixture(autouse=True)
def file(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> KeyFile:
    monkeypatch.setenv("SKIPVSR_DATA_DIR", str(data_dir))
    return KeyFile(data_dir / "keys.json")


def run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = cli.main(["keys", *line.split()])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_add_prints_the_key_once(file: KeyFile, capsys: pytest.CaptureFixture[str]) -> None:
    limits = "--max-jobs 2 --uploads-per-minute 5 --bytes-per-day 1.5GB"
    status, _, said = run(f"add laptop --scopes read {limits}", capsys)
    assert (status, "--bytes-per-day: '1.5GB' is not a number of bytes" in said) == (2, True)
    status, out, said = run(f"add laptop --scopes read {limits.replace('1.5GB', '1500MB')} --days 3", capsys)
    assert (status, bool(re.fullmatch(r"svk_[0-9a-f]{8}_[0-9a-f]{64}\n", out))) == (0, True)
    assert str(file.path) in said
    assert run("add forever --days 999999999", capsys)[0] == 2
    row = file.find(out.strip().encode())
    assert row is not None
    assert (row.name, row.scopes, row.limits) == ("laptop", (Scope.READ,), Limits(2, 5, 1_500_000_000))
    assert row.expires is not None
    assert (row.expires - row.created).days in (2, 3)
    assert out.strip() not in run("list", capsys)[1] + run("list --json", capsys)[1]


def test_list_and_revoke(file: KeyFile, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no keys" in run("list", capsys)[1]
    for name in ("laptop", "desktop"):
        run(f"add {name}", capsys)
    status, out, _ = run("revoke laptop", capsys)
    assert (status, out.startswith("revoked: ")) == (0, True)
    rows = json.loads(run("list --json", capsys)[1])
    assert [(row["name"], row["state"], row["scopes"]) for row in rows] == [
        ("laptop", "revoked", ["read", "submit"]),
        ("desktop", "active", ["read", "submit"]),
    ]
    assert not [name for row in rows for name in row if "sha256" in name]
    head, *lines = run("list", capsys)[1].splitlines()
    assert head.split()[:4] == ["id", "name", "state", "scopes"]
    assert [line.split()[1:4] for line in lines] == [
        ["laptop", "revoked", "read,submit"],
        ["desktop", "active", "read,submit"],
    ]
    status, _, said = run("revoke phone", capsys)
    assert (status, said) == (1, "skipvsr: there is no key 'phone': `skipvsr keys list` shows ids and names\n")


def test_a_damaged_file_is_named(file: KeyFile, capsys: pytest.CaptureFixture[str]) -> None:
    file.path.write_text("{")
    status, out, said = run("add laptop", capsys)
    assert (status, out, str(file.path) in said) == (1, "", True)
