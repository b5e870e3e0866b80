"""`skipvsr submit` against a real server: messages during pauses, and files left behind."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

import cli
from commands import submit
from commands.shared.embedded_redis import EmbeddedRedis
from commands.shared.errors import CommandError
from commands.shared.files import Item, Output
from jobs.allowance import Limits
from jobs.schema import JobOptions, JobState
from jobs.settings import Settings
from service.callers import Scope
from service.key_file import KeyFile
from tests.commands.test_interrupts import start
from tests.support.clips import make_clip
from tests.support.http_server import Service, serving
from tests.support.processes import wait_until


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=4)


@contextmanager
def submitted(service: Service, clip: Path, target: Path) -> Iterator[list[BaseException]]:
    """Submit a clip in a thread that ends with the block; yields the errors of the command."""
    raised: list[BaseException] = []
    output = Output(target, None, overwrite=False, as_json=False, quiet=False)

    def upload() -> None:
        try:
            submit.run([Item(clip, target, JobOptions(scale=2))], output, server=service.url)
        except CommandError as error:
            raised.append(error)

    thread = threading.Thread(target=upload)
    thread.start()
    yield raised
    thread.join(60)
    assert not thread.is_alive()


def test_a_paused_job_and_a_redis_that_restarts_are_waited_for(
    settings: Settings, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = [""]

    def says(text: str) -> bool:
        said[0] += capsys.readouterr().err
        return text in said[0]

    redis = EmbeddedRedis(tmp_path / "redis")
    redis.__enter__()
    try:
        with (
            serving(settings.model_copy(update={"redis_url": redis.url})) as service,
            submitted(service, clip, tmp_path / "out.mp4") as raised,
        ):
            wait_until(lambda: bool(service.operations.recent()), 60, "no job")
            (job,) = service.operations.recent()
            service.operations.pause(job.id)
            wait_until(lambda: says(f"job {job.id} is paused: "), 60, said[0])
            assert redis.process is not None
            redis.process.kill()
            redis.process.wait(60)
            redis = EmbeddedRedis(tmp_path / "redis")
            redis.__enter__()
            wait_until(lambda: service.operations.resume(job.id).state is JobState.QUEUED, 60, "not resumed")
            service.finish(job.id, b"result")
    finally:
        redis.stop()
    assert raised == []
    assert (tmp_path / "out.mp4").read_bytes() == b"result"
    mask = os.umask(0o022)
    os.umask(mask)
    assert (tmp_path / "out.mp4").stat().st_mode & 0o777 == 0o666 & ~mask
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_server_that_stays_away_is_given_up_with_the_jobs_address(
    settings: Settings, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commands.shared.service.PATIENCE_SECONDS", 1.0)
    with serving(settings) as service:
        submitting = submitted(service, clip, tmp_path / "out.mp4")
        raised = submitting.__enter__()
        wait_until(lambda: bool(service.operations.recent()), 60, "no job")
        (job,) = service.operations.recent()
    submitting.__exit__(None, None, None)
    (error,) = raised
    assert f"{service.url}/jobs/{job.id}" in str(error)
    assert not (tmp_path / "out.mp4").exists()


def test_several_files_with_one_broken(
    settings: Settings, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(clip.read_bytes())
    with serving(settings) as service:
        status: list[int] = []
        argv = ["submit", "a.mp4", "broken.mp4", "b.mp4", "--out-dir", "out", "--server", service.url]
        thread = threading.Thread(target=lambda: status.append(cli.main(argv)))
        thread.start()
        wait_until(lambda: len(service.operations.recent()) == 2, 60, "not uploaded")
        for job in service.operations.recent():
            service.finish(job.id, job.filename.encode())
        thread.join(60)
    said = capsys.readouterr()
    assert status == [1]
    assert said.out.splitlines()[-1] == "3 files: 2 upscaled, 1 failed"
    assert "skipvsr: broken.mp4: " in said.err
    assert (tmp_path / "out" / "a.mp4").read_bytes() == b"a.mp4"
    assert (tmp_path / "out" / "b.mp4").read_bytes() == b"b.mp4"


def test_a_server_that_takes_no_more_files_gets_them_later(settings: Settings, clip: Path, tmp_path: Path) -> None:
    """The key may have one job at a time: the second upload waits for the result of the first."""
    items = [Item(clip, tmp_path / f"{name}.mp4", JobOptions()) for name in "ab"]
    _, key = KeyFile.of(settings).add("one", frozenset({Scope.READ, Scope.SUBMIT}), Limits(max_jobs=1), None)
    with serving(settings) as service:
        status: list[int] = []
        output = Output(None, tmp_path, overwrite=False, as_json=False, quiet=True)
        submitting = partial(submit.run, items, output, server=service.url, api_key=key)
        thread = threading.Thread(target=lambda: status.append(submitting()))
        thread.start()
        for name in "ab":
            wait_until(lambda: bool(service.operations.recent(state=JobState.QUEUED)), 60, "not uploaded")
            (job,) = service.operations.recent(state=JobState.QUEUED)
            service.finish(job.id, b"r")
            wait_until((tmp_path / f"{name}.mp4").exists, 60, "not downloaded")
        thread.join(60)
    assert status == [0]


def test_after_an_interrupt_the_jobs_can_be_collected(settings: Settings, clip: Path, tmp_path: Path) -> None:
    with serving(settings) as service:
        process = start("submit", clip, "-o", "my result.mp4", "--server", service.url, folder=tmp_path)
        wait_until(lambda: bool(service.operations.recent()), 60, "no job")
        (job,) = service.operations.recent()
        assert process.stderr is not None
        assert job.id in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130
        lines = said.splitlines()
        way = f"skipvsr download {job.id} -o 'my result.mp4' --server {service.url}"
        assert lines == [f"job {job.id} continues; to fetch the result: {way}", "skipvsr: interrupted"]
        service.finish(job.id, b"result")
        process = start(*shlex.split(way)[1:], folder=tmp_path)
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert (tmp_path / "my result.mp4").read_bytes() == b"result"
