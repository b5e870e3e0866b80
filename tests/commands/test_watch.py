"""`skipvsr watch IN_DIR OUT_DIR`: a folder with one broken file, restarts, changes, and a server."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cli
from commands.shared.ledger import Ledger, Version
from commands.shared.settling import Settling, has_writer
from jobs.schema import JobState
from jobs.settings import Settings
from tests.commands.test_interrupts import start
from tests.support.clips import make_clip
from tests.support.http_server import Service, serving
from tests.support.processes import wait_until

TINY = ("--model", "tiny", "--scale", "2")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=3).read_bytes()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SKIPVSR_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SKIPVSR_DEVICE", "cpu")
    monkeypatch.setenv("SKIPVSR_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    return tmp_path


def once(*argv: object) -> int:
    return cli.main(["watch", "in", "out", "--once", "--settle", "0.1", *map(str, argv), *TINY])


def results(folder: Path) -> set[str]:
    out = folder / "out"
    return {
        path.relative_to(out).as_posix()
        for path in out.rglob("*")
        if path.is_file() and ".skipvsr" not in path.relative_to(out).parts
    }


def test_a_folder_with_one_broken_file(folder: Path, clip: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "in" / "series").mkdir()
    good = [*(f"film{i}.mp4" for i in range(3)), *(f"series/part{i}.mp4" for i in range(2))]
    for name in good:
        (folder / "in" / name).write_bytes(clip)
    (folder / "in" / "broken.mp4").write_bytes(clip[:700])
    before = {path: path.stat().st_mtime_ns for path in (folder / "in").rglob("*.mp4")}
    assert once() == 1
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == "6 files: 5 upscaled, 1 failed"
    (error,) = [line for line in said.err.splitlines() if "→" not in line]  # the others tell the expected times
    assert error.startswith("skipvsr: in/broken.mp4: ")
    assert results(folder) == set(good)
    assert {path: path.stat().st_mtime_ns for path in (folder / "in").rglob("*.mp4")} == before

    assert once() == 0, "nothing is done twice, and a broken file is reported once"
    assert capsys.readouterr() == ("", "")

    (folder / "out" / "film0.mp4").unlink()
    (folder / "in" / "broken.mp4").write_bytes(clip)
    (folder / "in" / "film1.mp4").write_bytes(clip + b"\0\0\0\x08free")
    assert once("--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {(line["target"], line["state"]) for line in lines} == {
        (f"out/{name}", "done") for name in ("film0.mp4", "broken.mp4", "film1.mp4")
    }


def test_a_result_of_another_program_is_kept(folder: Path, clip: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "out").mkdir()
    for name in ("in/a.mp4", "in/b.avi", "in/b.mkv"):
        (folder / name).write_bytes(clip)
    (folder / "out" / "a.mp4").write_bytes(b"mine")
    assert once() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "3 files: 2 upscaled, 1 skipped"
    assert (folder / "out" / "a.mp4").read_bytes() == b"mine"
    assert results(folder) == {"a.mp4", "b.mkv", "b.mkv.mkv"}
    assert once() == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_a_running_watch_takes_files_when_they_are_complete_and_survives_a_restart(folder: Path, clip: bytes) -> None:
    command = ("watch", "in", "out", "--settle", "0.5", *TINY)
    process = start(*command, folder=folder)
    try:
        with (folder / "in" / "slow.mp4").open("wb") as file:
            file.write(clip[:2000])
            file.flush()
            (folder / "in" / "whole.mp4").write_bytes(clip)
            wait_until(lambda: "whole.mp4" in results(folder), 60, "not upscaled")
            assert "slow.mp4" not in results(folder)
            file.write(clip[2000:])
        wait_until(lambda: "slow.mp4" in results(folder), 60, "not upscaled")
        other = start(*command, folder=folder)
        _, said = other.communicate(timeout=60)
        assert (other.returncode, said) == (1, "skipvsr: another `skipvsr watch` writes into out; stop it first\n")
    finally:
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.count("frames") == 2
    lines = [line for line in err.splitlines() if "→" not in line]
    assert lines == ["watching in; results go to out. ^C stops.", "skipvsr: interrupted"]
    (folder / "in" / "new.mp4").write_bytes(clip)
    assert once("-q") == 0
    assert results(folder) == {"slow.mp4", "whole.mp4", "new.mp4"}


def test_a_file_that_is_being_written_or_has_just_changed_is_not_settled(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"1")
    settling = Settling(0.2)
    assert not settling.is_settled(path, Version.of(path))
    path.write_bytes(b"12")
    time.sleep(0.25)
    os.utime(path, (0, 0))  # an antedated time of change is no sign of rest
    assert not settling.is_settled(path, Version.of(path))
    time.sleep(0.25)
    with path.open("ab"):
        assert has_writer(path)
        assert not settling.is_settled(path, Version.of(path))
    (tmp_path / "a.mp4.aria2").touch()
    assert not settling.is_settled(path, Version.of(path))
    (tmp_path / "a.mp4.aria2").unlink()
    assert not has_writer(path)
    assert settling.is_settled(path, Version.of(path))


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings) as running:
        yield running


def test_a_watch_through_a_server_resumes_its_job_and_reports_a_failed_one(
    folder: Path, clip: bytes, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "in" / "a.mp4").write_bytes(clip)
    process = start("watch", "in", "out", "--settle", "0.1", "--server", service.url, folder=folder)
    try:
        wait_until(lambda: bool(service.operations.recent()), 60, "no job")
        (job,) = service.operations.recent()
        wait_until(lambda: (folder / "out" / ".skipvsr" / "watch.json").exists(), 60, "no entry")
    finally:
        process.kill()
        process.communicate()
    service.finish(job.id, b"result")
    assert once("--server", service.url) == 0
    assert (folder / "out" / "a.mp4").read_bytes() == b"result"
    assert len(service.operations.recent()) == 1

    (folder / "in" / "b.mp4").write_bytes(clip)
    status: list[int] = []
    thread = threading.Thread(target=lambda: status.append(once("--server", service.url)))
    thread.start()
    wait_until(lambda: len(service.operations.recent()) == 2, 60, "no job")
    service.finish(service.operations.recent()[0].id, b"", JobState.FAILED)
    thread.join(60)
    assert status == [1]
    assert "b.mp4: job " in capsys.readouterr().err
    assert once("--server", service.url) == 0


def test_trouble_of_all_files_marks_none_as_failed(
    folder: Path, clip: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "in" / "a.mp4").write_bytes(clip)
    assert once("--server", "http://127.0.0.1:9") == 1
    assert "no server answers at http://127.0.0.1:9" in capsys.readouterr().err
    with Ledger(folder / "out").opened() as ledger:
        assert ledger.entry(Path("a.mp4")) is None
    assert once() == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["in"], "in is a folder; name the folder of the results too: skipvsr watch in OUT_DIR"),
        (["in", "in"], "the folder of the results must differ from the watched folder"),
        (["in", "."], "in lies in ."),
        (["in", "a.mp4"], "a.mp4 is no folder"),
        (["none", "out"], "there is no folder none"),
        (["in", "out", "more"], "name one job, or two folders"),
        (["in", "out", "--model", "nonsense"], "unknown model 'nonsense'"),
        (["in", "out", "--codec", "h264", "--container", "webm"], "webm can't hold h264"),
    ],
)
def test_misunderstandings_are_one_line(
    folder: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a.mp4").touch()
    assert cli.main(["watch", *argv]) in (1, 2)
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_damaged_ledger_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "out" / ".skipvsr").mkdir(parents=True)
    (folder / "out" / ".skipvsr" / "watch.json").write_text("{")
    assert once() == 1
    assert "watch.json is damaged; delete the file" in capsys.readouterr().err
