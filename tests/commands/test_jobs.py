"""Commands about jobs on a server: jobs, status, watch, cancel, pause, resume, download."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

import cli
from jobs.schema import JobState
from jobs.settings import Settings
from tests.support.clips import make_clip
from tests.support.http_server import Service, serving


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=4)


@pytest.fixture
def service(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Service]:
    monkeypatch.chdir(tmp_path)
    with serving(settings) as running:
        yield running


@pytest.fixture
def job(service: Service, clip: Path) -> str:
    return str(service.post(clip).json()["id"])


def skipvsr(service: Service, *argv: object) -> int:
    return cli.main([*map(str, argv), "--server", service.url])


def test_jobs_are_listed_newest_first(
    service: Service, job: str, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = service.post(clip).json()["id"]
    service.operations.cancel(job)
    assert skipvsr(service, "jobs") == 0
    titles, first, second = capsys.readouterr().out.splitlines()
    assert titles.split() == ["job", "state", "done", "size", "created", "file"]
    assert first.split()[:2] == [newer[:8], "waiting"]
    assert second.split()[:2] == [job[:8], "cancelled"]
    assert first.endswith("clip.mp4")
    assert skipvsr(service, "jobs", "--json", "--state", "cancelled", "failed") == 0
    assert [each["id"] for each in json.loads(capsys.readouterr().out)] == [job]
    assert skipvsr(service, "jobs", "--json", "-n", 1) == 0
    assert [each["id"] for each in json.loads(capsys.readouterr().out)] == [newer]
    assert skipvsr(service, "jobs", "--state", "done") == 0
    assert capsys.readouterr().out == f"no jobs at {service.url}\n"


def test_a_jobs_status(service: Service, job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert skipvsr(service, "status", job[:10]) == 0
    said = capsys.readouterr().out
    assert f"job       {job}\n" in said
    assert "state     waiting\n" in said
    assert "file      clip.mp4, 32×24, h264 in mp4, 25 fps" in said
    service.finish(job, b"result")
    assert skipvsr(service, "status", job) == 0
    assert f"download  skipvsr download {job}\n" in capsys.readouterr().out
    assert skipvsr(service, "status", job, "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "done"


def test_jobs_are_paused_resumed_and_cancelled(service: Service, job: str, capsys: pytest.CaptureFixture[str]) -> None:
    for operation, state in (("pause", "paused"), ("resume", "waiting"), ("cancel", "cancelled")):
        assert skipvsr(service, operation, job[:12]) == 0
        assert capsys.readouterr().out == f"{job}  {state}  clip.mp4\n"
    assert skipvsr(service, "resume", job, "f" * 24) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith(f"skipvsr: {job}: ")


def test_an_id_must_name_one_job(service: Service, job: str, capsys: pytest.CaptureFixture[str]) -> None:
    other = "x" if job[0] != "x" else "y"
    assert skipvsr(service, "status", other) == 1
    assert f"no job id begins with {other}; `skipvsr jobs` lists" in capsys.readouterr().err
    twin = f"{job[:20]}{'0000' if job[20:] != '0000' else '1111'}"
    service.operations.store.create(service.operations.get(job).model_copy(update={"id": twin}))
    assert skipvsr(service, "cancel", job[:20]) == 1
    assert f"2 job ids begin with {job[:20]}: " in capsys.readouterr().err
    assert service.operations.get(job).state is JobState.QUEUED


@pytest.mark.parametrize(("state", "status"), [(JobState.DONE, 0), (JobState.FAILED, 1), (JobState.CANCELLED, 3)])
def test_watching_a_job_ends_with_its_outcome(
    service: Service, job: str, state: JobState, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    if state is JobState.CANCELLED:
        service.operations.cancel(job)
    else:
        service.finish(job, b"result", state)
    assert skipvsr(service, "watch", job[:12]) == status
    said = capsys.readouterr()
    assert (f"skipvsr download {job}" in said.out) == (status == 0)
    assert (f"job {job} {state}" in said.err) == (status != 0)
    assert skipvsr(service, "watch", job, "--json") == status
    assert json.loads(capsys.readouterr().out)["state"] == state


def test_watching_waits(service: Service, job: str) -> None:
    status: list[int] = []
    thread = threading.Thread(target=lambda: status.append(skipvsr(service, "watch", job)))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    service.finish(job, b"result")
    thread.join(60)
    assert status == [0]


def test_a_result_is_downloaded(service: Service, job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert skipvsr(service, "download", job) == 1
    assert "skipvsr: " in capsys.readouterr().err
    service.finish(job, b"result")
    assert skipvsr(service, "download", job) == 0
    assert capsys.readouterr().out == "clip.upscaled.mp4  6 bytes\n"
    assert skipvsr(service, "download", job) == 1
    assert "clip.upscaled.mp4 exists" in capsys.readouterr().err
    (tmp_path / "folder").mkdir()
    for place in ("other.mp4", "folder"):
        assert skipvsr(service, "download", job, "-q", "-o", place) == 0
    assert skipvsr(service, "download", job, "--overwrite") == 0
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*") if "data" not in path.parts}
    assert made == {"clip.upscaled.mp4", "other.mp4", "folder/clip.upscaled.mp4"}
    assert (tmp_path / "other.mp4").read_bytes() == b"result"


def test_a_download_continues_where_an_earlier_one_ended(
    service: Service, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(range(256)) * 4096
    service.finish(job, content)

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", interrupted)
        assert skipvsr(service, "download", job, "-o", "out.mp4") == 130
    assert not (tmp_path / "out.mp4").exists()
    (part,) = [path for path in tmp_path.iterdir() if path.name.startswith(".out.mp4")]
    part.write_bytes(b"x" * 1000 + content[1000:300_000])
    assert skipvsr(service, "download", job, "-o", "out.mp4") == 0
    assert (tmp_path / "out.mp4").read_bytes() == b"x" * 1000 + content[1000:], "the first bytes came no second time"
    assert not part.exists()


def test_job_ids_are_completed(
    service: Service, job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_SKIPVSR_COMPLETE", "bash_complete")
    for server, expected in ((service.url, {job}), ("http://127.0.0.1:9", set())):
        line = f"skipvsr status --server {server} {job[:2]}"
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
        assert cli.main([]) == 0
        assert {item.partition(",")[2] for item in capsys.readouterr().out.split()} == expected


def test_a_key_opens_the_server(
    settings: Settings, clip: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(settings.model_copy(update={"api_key": SecretStr("secret")})) as service:
        assert skipvsr(service, "jobs") == 1
        assert "needs its API key" in capsys.readouterr().err
        assert skipvsr(service, "jobs", "--api-key", "secret") == 0
        monkeypatch.setenv("SKIPVSR_API_KEY", "secret")
        assert skipvsr(service, "jobs") == 0
