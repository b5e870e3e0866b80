"""The file with the API keys: digests only, atomic changes, several writers, damage."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from jobs.allowance import Limits
from jobs.errors import InvalidRequest, KeysUnreadable, NotFound, Unauthorized
from jobs.settings import Settings
from service.api_key import ApiKeys
from service.callers import ADMINISTRATOR, ANYBODY, Scope
from service.key_file import KeyFile, cookie_of
from tests.support.paths import ROOT

READ = frozenset({Scope.READ})


@pytest.fixture
def file(data_dir: Path) -> KeyFile:
    return KeyFile(data_dir / "keys.json")


def test_only_digests_are_stored(file: KeyFile) -> None:
    row, text = file.add("laptop", READ, Limits(max_jobs=3))
    stored = file.path.read_text()
    secret = text.rpartition("_")[2]
    assert (len(secret), text.startswith(f"svk_{row.id}_")) == (64, True)
    assert secret not in stored
    assert cookie_of(text.encode()) not in stored
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert file.find(text.encode()) == row
    assert file.find_cookie(f"{row.id}.{cookie_of(text.encode())}".encode()) == row


def test_wrong_keys_are_not_found(file: KeyFile) -> None:
    row, text = file.add("laptop", READ, Limits())
    other, _ = file.add("desktop", READ, Limits())
    wrong = ["", "svk", text[:-1], text + "0", text.upper(), text.replace(row.id, other.id), f"svk_{row.id}_{'0' * 64}"]
    digests = [row.key_sha256, f"svk_{row.id}_{row.key_sha256}", f"{row.id}.{row.cookie_sha256}", "é\x00"]
    for given in wrong + digests:
        assert file.find(given.encode()) is None, given
        assert file.find_cookie(given.encode()) is None, given


def test_many_writers_lose_no_key(file: KeyFile) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from jobs.allowance import Limits; from service.key_file import KeyFile\n"
        "for i in range(10): KeyFile(Path(sys.argv[1])).add(f'{sys.argv[2]}-{i}', frozenset(), Limits())"
    )
    command = [sys.executable, "-c", code, str(file.path)]
    writers = [subprocess.Popen([*command, str(number)], cwd=ROOT) for number in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    assert len(file.keys()) == 40
    assert sorted(path.name for path in file.path.parent.iterdir()) == [".keys.json.lock", "keys.json"]


def test_names(file: KeyFile) -> None:
    first, _ = file.add("laptop", READ, Limits())
    with pytest.raises(InvalidRequest, match="has the name 'laptop' already"):
        file.add("laptop", READ, Limits())
    file.revoke("laptop")
    second, _ = file.add("laptop", READ, Limits())
    assert file.revoke("laptop").id == second.id
    assert file.revoke(first.id).revoked == file.revoke(first.id).revoked
    with pytest.raises(NotFound):
        file.revoke("laptop")
    for name in ("", "x" * 65, "two\nlines", "\x1b[31mred", "\u202eleft", " space"):
        with pytest.raises(InvalidRequest):
            file.add(name, READ, Limits())
    assert len(file.keys()) == 2


def test_states_of_a_key(file: KeyFile, data_dir: Path) -> None:
    keys = ApiKeys(Settings(data_dir=data_dir))
    assert not keys.required
    assert keys.caller([b"whatever"]) == ANYBODY
    _, usable = file.add("usable", READ, Limits(), datetime.now(UTC) + timedelta(hours=1))
    _, expired = file.add("expired", READ, Limits(), datetime.now(UTC))
    caller = keys.caller([usable.encode()])
    assert (caller.name, caller.scopes, caller.admin) == ("usable", READ, False)
    caller.confirm()
    with pytest.raises(Unauthorized, match="expired"):
        keys.caller([expired.encode()])
    file.revoke("usable")
    for attempt in (caller.confirm, lambda: keys.caller([usable.encode()])):
        with pytest.raises(Unauthorized, match="revoked"):
            attempt()
    assert keys.required


def test_a_service_may_demand_a_key_before_any_exists(data_dir: Path) -> None:
    keys = ApiKeys(Settings(data_dir=data_dir / "not mounted", require_api_key=True))
    for given in ([], [b"whatever"]):
        with pytest.raises(Unauthorized):
            keys.caller(given)


def test_every_key_of_a_request_is_tried(file: KeyFile, data_dir: Path) -> None:
    keys = ApiKeys(Settings(data_dir=data_dir, api_key=SecretStr("sésame")))
    row, text = file.add("laptop", READ, Limits())
    assert keys.caller([b"wrong", text.encode()]).key_id == row.id
    assert keys.caller([b"wrong", "sésame".encode()]) == ADMINISTRATOR
    for given in ([], [b""], [b"wrong"], ["sésame".encode("latin-1")]):
        with pytest.raises(Unauthorized):
            keys.caller(given)


def test_two_valid_keys_in_a_request_are_refused(file: KeyFile, data_dir: Path) -> None:
    """Otherwise the server and a proxy before it might see different callers."""
    keys = ApiKeys(Settings(data_dir=data_dir, api_key=SecretStr("sesame")))
    texts = [file.add(name, READ, Limits())[1].encode() for name in ("laptop", "phone")]
    assert keys.caller([texts[0], texts[0]]).name == "laptop"
    for given in (texts, texts[::-1], [b"sesame", texts[0]]):
        with pytest.raises(Unauthorized, match="two different"):
            keys.caller(given)


def test_the_first_key_ends_what_anybody_began(file: KeyFile, data_dir: Path) -> None:
    anybody = ApiKeys(Settings(data_dir=data_dir)).caller([])
    anybody.confirm()
    file.add("laptop", READ, Limits())
    with pytest.raises(Unauthorized, match="needs an API key now"):
        anybody.confirm()


def test_a_date_without_a_time_zone_damages_the_file(file: KeyFile, data_dir: Path) -> None:
    """Nobody knows when such a key expires, and comparing the date would end every request with status 500."""
    text = file.add("laptop", READ, Limits(), datetime.now(UTC) + timedelta(days=1))[1].encode()
    document = json.loads(file.path.read_text())
    document["keys"][0]["expires"] = "2030-01-01T00:00:00"
    file.path.write_text(json.dumps(document))
    with pytest.raises(KeysUnreadable):
        ApiKeys(Settings(data_dir=data_dir)).caller([text])


@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling link", "device", "huge"])
def test_what_is_no_file_of_keys_closes_the_server_at_once(
    file: KeyFile, data_dir: Path, kind: str, tmp_path: Path
) -> None:
    match kind:
        case "pipe":
            os.mkfifo(file.path)
        case "folder":
            file.path.mkdir()
        case "dangling link":
            file.path.symlink_to(tmp_path / "not mounted")
        case "device":
            file.path.symlink_to("/dev/zero")
        case _:
            with file.path.open("wb") as target:
                target.truncate(1 << 40)
    keys = ApiKeys(Settings(data_dir=data_dir))
    assert keys.required
    with pytest.raises(KeysUnreadable):
        keys.caller([f"svk_00000000_{'0' * 64}".encode()])
    with pytest.raises(KeysUnreadable):
        file.add("laptop", READ, Limits())


def test_the_log_names_the_damage_without_the_files_content(file: KeyFile, caplog: pytest.LogCaptureFixture) -> None:
    file.path.write_text('{"keys": [{"id": "s3cret"}], "version": 1}')
    with pytest.raises(KeysUnreadable):
        file.keys()
    assert "keys.0.id: String should match" in caplog.text
    assert "s3cret" not in caplog.text


def test_the_administrators_key_works_with_a_damaged_file(file: KeyFile, data_dir: Path) -> None:
    keys = ApiKeys(Settings(data_dir=data_dir, api_key=SecretStr("sésame")))
    text = file.add("laptop", READ, Limits())[1].encode()
    file.path.write_text("{")
    assert keys.caller(["sésame".encode("latin-1"), "sésame".encode()]).admin
    with pytest.raises(KeysUnreadable):
        keys.caller([text])


def test_a_damaged_file_is_never_overwritten(file: KeyFile) -> None:
    file.add("laptop", READ, Limits())
    file.path.write_text("{")
    for attempt in (file.keys, lambda: file.revoke("laptop"), lambda: file.add("other", READ, Limits())):
        with pytest.raises(KeysUnreadable):
            attempt()
    assert file.path.read_text() == "{"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_writes_for_the_owner_of_the_folder(file: KeyFile) -> None:
    os.chown(file.path.parent, 10001, 10001)
    file.add("laptop", READ, Limits())
    assert file.path.stat().st_uid == 10001


def test_a_change_within_the_same_clock_tick_is_noticed(file: KeyFile) -> None:
    """A file of the same size and time, as after a restore from a backup."""
    row, _ = file.add("laptop", READ, Limits())
    assert file.keys()[row.id].name == "laptop"
    before = file.path.stat()
    new = file.path.with_name("new")
    new.write_text(file.path.read_text().replace("laptop", "potlap"))
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(file.path)
    assert file.keys()[row.id].name == "potlap"
    assert json.loads(file.path.read_text())["version"] == 1
