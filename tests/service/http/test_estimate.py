"""`POST /estimate`: what a video would take and give, before its upload."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.resumable import Upload
from jobs.schema import JobOptions
from jobs.settings import Settings
from jobs.speed import Rates
from jobs.speed_records import RedisSpeeds
from service.resumable import Resumable
from tests.support.clips import make_clip, make_noise
from tests.support.http_server import Service, serving

RATES = Rates(network={"tiny": 1e-6, "small": 1e-5}, pixels=36_864, grows=False, encode=1e-8, shared=True)
KNOWN = 2**16


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings) as running:
        RedisSpeeds(running.operations.store.redis).calibrated("here", RATES)
        running.announce_worker(machine="here")
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def ask(service: Service, path: Path, head: int = KNOWN, tail: int = KNOWN, **fields: str) -> httpx.Response:
    data = path.read_bytes()
    files = {"head": data[:head]} | ({"tail": data[-tail:]} if tail and head < len(data) else {})
    return service.client.post("/estimate", data={"size": str(len(data)), **fields}, files=files)


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        ("mp4", "libx264", {}),
        ("matroska", "libx264", {}),
        ("webm", "libvpx-vp9", {}),
        ("mpegts", "libx264", {}),
    ],
)
def test_the_ends_of_a_file_suffice(
    service: Service, folder: Path, container: str, codec: str, options: dict[str, str]
) -> None:
    whole = make_noise(folder / f"clip.{container}", container, codec, **options)
    answer = ask(service, whole, routing="off", codec="h264", container="mp4")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert (found["input"]["width"], found["input"]["size_bytes"]) == (96, whole.stat().st_size)
    assert (found["output"]["width"], found["output"]["height"], found["output"]["frames"]) == (384, 256, 75)
    assert found["output"]["frame_rate"] == 25
    assert found["output"]["duration_seconds"] == pytest.approx(3, abs=0.1)
    assert (found["model"], found["scale"], found["workers"], found["wait_seconds"]) == ("tiny", 4, 1, 0)
    assert found["seconds"] == pytest.approx(1.5 + 75 * (96 * 64e-6 * 13 / 12 + 384 * 256e-8), abs=0.2)
    assert found["seconds_low"] < found["seconds"] < found["seconds_high"]
    assert found["basis"] == "calibrated"
    assert found["output"]["bytes"] > 0
    assert not [path for path in service.files() if path.parent.name == "estimates"]


def test_a_header_that_was_not_sent_is_a_problem_of_its_own(service: Service, folder: Path) -> None:
    whole = make_noise(folder / "end.mp4", "mp4", "libx264")
    problem = ask(service, whole, tail=64)
    assert (problem.status_code, problem.json()["type"]) == (422, "/problems/header-not-sent")
    assert "Send the whole file" in problem.json()["detail"]


def test_errors_are_those_of_an_upload(service: Service, settings: Settings, folder: Path) -> None:
    text = folder / "text.mp4"
    text.write_bytes(b"no video at all " * 20_000)
    clip = make_clip(folder / "clip.mp4", frames=4)
    data = clip.read_bytes()
    files = {"head": data}

    def post(files: dict[str, bytes], **fields: str) -> httpx.Response:
        return service.client.post("/estimate", data=fields, files=files)

    size = str(len(data))
    answers = [
        (ask(service, text), 415, "not an accepted video"),
        (ask(service, clip, crf="99"), 400, "crf"),
        (ask(service, clip, model="missing"), 400, "missing"),
        (ask(service, clip, wrong="1"), 400, "wrong"),
        (post(files, size="9" * 15), 413, "SKIPVSR_MAX_UPLOAD_BYTES"),
        (post(files, size="many"), 400, "size"),
        (post(files), 400, "size"),
        (post(files, size="12"), 400, "size"),
        (post({"tail": data}, size=size), 400, "head"),
        (post({**files, "file": data}, size=size), 400, "file"),
        (post({"head": bytes(5 << 20)}, size="99999999"), 400, "head"),
        (post({"head": b"", "tail": bytes(22 << 20)}, size="99999999"), 413, "ends of the file only"),
        (post(files, size=size, upload="0" * 24), 400, "either"),
        (service.client.post("/estimate", data={"upload": "x"}), 400, "multipart"),
        (service.client.post("/estimate", files={"upload": (None, "0" * 24)}), 404, "0" * 24),
    ]
    for answer, status, detail in answers:
        assert (answer.status_code, detail in answer.json()["detail"]) == (status, True), (detail, answer.text)


def test_an_upload_has_an_estimate_while_it_arrives(service: Service, folder: Path) -> None:
    front = make_noise(folder / "front.mp4", "mp4", "libx264", movflags="faststart")
    back = make_noise(folder / "back.mp4", "mp4", "libx264")
    whole = ask(service, front, routing="off").json()
    found = {}
    for path in (front, back):
        data = path.read_bytes()
        tus = {"Tus-Resumable": "1.0.0"}
        length = {"Upload-Length": str(len(data)), "Upload-Metadata": "filename Y2xpcC5tcDQ="}
        place = service.client.post("/uploads", headers=tus | length).headers["location"]
        upload = place.rpartition("/")[2]
        for begin, end in ((0, KNOWN), (KNOWN, len(data))):
            packet = {"Upload-Offset": str(begin), "Content-Type": "application/offset+octet-stream"}
            sent = service.client.patch(place, headers=tus | packet, content=data[begin:end])
            assert sent.status_code == 204, sent.text
            answer = service.client.post("/estimate", files={"upload": (None, upload), "routing": (None, "off")})
            found[path.stem, end == len(data)] = answer
    assert found["front", False].json() == found["front", True].json() == whole
    assert found["back", False].json()["type"] == "/problems/header-not-sent"
    assert found["back", True].json()["seconds"] == whole["seconds"]


def test_limits_hold(settings: Settings, folder: Path) -> None:
    clip = make_clip(folder / "clip.mp4", frames=4)
    with serving(settings.model_copy(update={"max_pixels": 500})) as service:
        service.announce_worker()
        answer = ask(service, clip)
    assert (answer.status_code, "SKIPVSR_MAX_PIXELS" in answer.json()["detail"]) == (413, True)


def test_estimates_at_a_time_are_limited(service: Service, folder: Path) -> None:
    clip = make_clip(folder / "clip.mp4", frames=4)
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(service.app.state.estimating.place())
        refused = ask(service, clip)
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/too-many-estimates")
        assert int(refused.headers["retry-after"]) > 0
        of_upload = service.client.post("/estimate", files={"upload": (None, "0" * 24)})
        assert of_upload.status_code == 503, "estimates of uploads wait for probes, too"
    assert ask(service, clip).status_code == 200


def test_the_upload_then_has_the_same_estimate(service: Service, folder: Path) -> None:
    clip = make_clip(folder / "clip.mp4", frames=8)
    before = ask(service, clip, head=1 << 20).json()
    job = service.post(clip).json()
    assert job["estimate"] == {
        "width": before["output"]["width"],
        "height": before["output"]["height"],
        "frames": before["output"]["frames"],
        "bytes": before["output"]["bytes"],
        **{name: before[name] for name in ("seconds", "seconds_low", "seconds_high", "basis")},
    }
    assert job["queue"] == {"position": 1, "wait_seconds": 0.0}
    after = ask(service, clip, head=1 << 20).json()
    assert after["wait_seconds"] == job["estimate"]["seconds"]


def test_the_form_has_every_option(service: Service) -> None:
    document = service.client.get("/openapi.json").json()
    form = document["components"]["schemas"]["EstimateForm"]
    assert form["properties"].keys() >= {*JobOptions.model_fields, "head", "tail", "size", "filename", "upload"}


@pytest.mark.parametrize("charset", ["undefined", "punycode", "no-such-set"])
def test_a_form_in_another_character_set_is_refused(service: Service, charset: str) -> None:
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    form = b'--x\r\nContent-Disposition: form-data; name="upload"\r\n\r\n\xff\r\n--x--\r\n'
    answer = service.client.post("/estimate", content=form, headers={"Content-Type": kind})
    assert (answer.status_code, "UTF-8" in answer.json()["detail"]) == (400, True)


def test_an_upload_that_becomes_a_job_meanwhile_is_not_found(
    service: Service, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(
            Resumable, "peek", lambda *_: (Upload(id="0" * 24, owner="", length=9, filename=""), folder / "no")
        )
        answer = service.client.post("/estimate", files={"upload": (None, "0" * 24)})
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")
