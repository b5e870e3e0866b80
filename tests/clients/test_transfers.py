"""Uploads, events and estimates by skipvsr_client: what is resumed, and what is said if nothing can be."""

from __future__ import annotations

import threading
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from skipvsr_client import Activity, Client, ConnectionFailed, InvalidRequest, NotFound, SkipVsrError
from skipvsr_client.uploads import Uploads
from skipvsr_client.watching import Watching
from tests.support.http_server import Service
from tests.support.processes import wait_until
from tests.support.rpc_server import Proxy

MIB = 1 << 20


@pytest.fixture
def large(clip: Path, tmp_path: Path) -> Path:
    """A clip of 24 MiB: its end is free space, by MP4's rules."""
    path, size = tmp_path / "large.mp4", 24 * MIB
    path.write_bytes(clip.read_bytes() + size.to_bytes(4, "big") + b"free" + bytes(size - 8))
    return path


class Cuts:
    """Cuts the connections of a proxy during an upload, each time after `step` further bytes."""

    def __init__(self, proxy: Proxy, step: int, most: int) -> None:
        self._proxy, self._step, self._most = proxy, step, most
        self.places: list[int] = []
        self.phases: list[str] = []

    def __call__(self, activity: Activity) -> None:
        self.phases.append(activity.phase)
        due = activity.done > (len(self.places) + 1) * self._step
        if activity.phase == "uploading" and due and len(self.places) < self._most:
            self.places.append(activity.done)
            self._proxy.cut()


def test_a_cut_upload_resumes(service: Service, proxy: Proxy, large: Path, tmp_path: Path) -> None:
    cut = Cuts(proxy, 5 * MIB, most=3)
    with Client(f"http://{proxy.address}", patience=20) as client:
        job = client.submit(large, on_progress=cut, scale=2)
        assert len(cut.places) == 3
        assert cut.phases.count("away") >= 3
        assert (job.filename, job.options["scale"]) == ("large.mp4", 2)
        kept = client.download(job.id, tmp_path / "kept.mp4", file="input")
    assert sha256(kept.read_bytes()).digest() == sha256(large.read_bytes()).digest()


def test_an_upload_that_was_given_up_continues_later(client: Client, large: Path) -> None:
    """Two requests of 8 MiB arrive, and then no more."""
    sent: list[int] = []
    send = Uploads._sent

    async def breaking(self: Uploads, file: Any, upload: str, offset: int, on_progress: Any) -> int:
        if offset >= 16 * MIB:
            raise ConnectionFailed("the cable is cut")
        return await send(self, file, upload, offset, on_progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skipvsr_client.uploads._REQUEST_BYTES", 8 * MIB)
        patch.setattr(Uploads, "_sent", breaking)
        patch.setattr(client._inner._server, "_seconds", 0.5)
        with pytest.raises(ConnectionFailed, match=r"cable is cut; .* continues with upload=") as given_up:
            client.submit(large)
    upload = given_up.value.upload
    assert upload is not None
    job = client.submit(large, upload=upload, on_progress=lambda activity: sent.append(activity.done))
    assert job.state == "queued"
    assert min(sent) > 16 * MIB, "only what was missing is sent"


def test_an_upload_belongs_to_its_file(client: Client, clip: Path, large: Path) -> None:
    upload = client.upload(clip)
    with pytest.raises(SkipVsrError, match=f"{clip.stat().st_size} bytes, but"):
        client.upload(large, upload=upload)
    assert client.submit(clip, upload=upload).filename == "clip.mp4"


def test_a_server_without_resumable_uploads_gets_a_form(
    client: Client, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def absent(_: Any) -> bool:
        return False

    monkeypatch.setattr("skipvsr_client.uploads.Uploads.resumable", absent)
    seen: list[Activity] = []
    job = client.submit(clip, on_progress=seen.append, crf=30, lookahead=2)
    assert (job.options["crf"], job.options["lookahead"], job.filename) == (30, 2, "clip.mp4")
    assert seen[-1] == Activity("uploading", clip.stat().st_size, clip.stat().st_size)
    with pytest.raises(SkipVsrError, match="use submit or upscale"):
        client.upload(clip)


def test_events_are_watched_over_a_broken_connection(
    service: Service, proxy: Proxy, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("the server sends events")

    monkeypatch.setattr(Watching, "_by_polling", never)
    seen: list[str] = []

    def work(job_id: str) -> None:
        wait_until(lambda: "queued" in seen, 60, "no event")
        service.operations.pause(job_id)
        wait_until(lambda: "paused" in seen, 60, "no event")
        proxy.cut()
        service.operations.resume(job_id)
        service.finish(job_id, b"result")

    with Client(f"http://{proxy.address}", patience=60) as client:
        job = client.submit(clip)
        thread = threading.Thread(target=work, args=(job.id,), daemon=True)
        thread.start()
        for changed in client.watch(job.id):
            seen += [changed.state]
        thread.join(60)
        states = list(dict.fromkeys(seen))  # the place in the queue may come as an event of its own
        assert states[:2] == ["queued", "paused"]
        assert states[-1] == "done"
        with pytest.raises(NotFound, match="0000"):
            client.wait("0" * 24)


def test_an_estimate_sends_the_ends_only(service: Service, client: Client, clip: Path, large: Path) -> None:
    service.announce_worker(machine="here")
    wait_until(lambda: client.estimate(large, scale=2).workers == 1, 60, "the service knows of no worker")
    estimate = client.estimate(large, scale=2)
    assert (estimate.input.width, estimate.output.width, estimate.output.frames) == (32, 64, 4)
    assert (estimate.scale, estimate.workers) == (2, 1)
    assert estimate.seconds is None
    assert estimate.warnings
    assert client.estimate(upload=client.upload(clip)).output.frames == 4
    with pytest.raises(InvalidRequest, match="crf"):
        client.estimate(clip, crf=99)


def test_workers_and_models(service: Service, client: Client) -> None:
    service.announce_worker(machine="here")
    (worker,) = client.workers()
    assert (worker.device, worker.model) == ("cpu", "tiny")
    assert client.models() == ["small", "tiny"]


def test_wrong_fields_are_named(client: Client, clip: Path) -> None:
    with pytest.raises(InvalidRequest) as invalid:
        client.submit(clip, crf=99, codec="mp3")
    assert {error.field for error in invalid.value.errors} == {"crf", "codec"}
