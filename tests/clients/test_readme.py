"""Every example of the client's README runs against a real service with the network `tiny`."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from commands.shared.embedded_redis import EmbeddedRedis
from jobs.settings import Settings
from skipvsr_client import Client, InvalidRequest
from tests.support.clips import make_clip
from tests.support.crew import crew
from tests.support.http_server import Service, serving
from tests.support.paths import ROOT
from tests.support.rpc_server import RpcServer, rpc_server

README = (ROOT / "clients" / "python" / "README.md").read_text()
EXAMPLES = dict(re.findall(r"^## ([^\n]*)\n\n```python\n(.*?)```", README, re.DOTALL | re.MULTILINE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def service(redis_server: EmbeddedRedis, folder: Path) -> Iterator[Service]:
    settings = Settings(
        redis_url=redis_server.url,
        data_dir=folder / "data",
        http_port=0,
        device="cpu",
        precision="fp32",
        threads=1,
        model="tiny",
    )
    make_clip(folder / "clip.mp4", frames=6)
    with serving(settings) as running, crew(settings, folder):
        yield running


@pytest.fixture(scope="module")
def frames_server(redis_server: EmbeddedRedis, folder: Path) -> Iterator[RpcServer]:
    with rpc_server(folder / "rpc", redis_server.url) as running:
        yield running


def test_every_example_is_found() -> None:
    assert len(EXAMPLES) == README.count("```python") == 7


@pytest.mark.parametrize("title", EXAMPLES)
def test_example(title: str, service: Service, frames_server: RpcServer, folder: Path) -> None:
    code = EXAMPLES[title].replace("http://127.0.0.1:8000", service.url)
    code = code.replace("127.0.0.1:50051", frames_server.address)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(EXPECTED[title], done.stdout), done.stdout


def test_figures_and_previews_of_a_job(service: Service, folder: Path) -> None:
    with Client(service.url) as client:
        job = client.upscale(folder / "clip.mp4", folder / "figures.mp4", scale=4).job
        report = client.jobs.report(job.id)
        assert (report["source"], report["model"], report["progress"]["frames_done"]) == ("clip.mp4", "tiny", 6)
        skipmap = client.jobs.skipmap(job.id, first=2, count=3)
        assert (skipmap["total"], len(skipmap["frames"])) == (6, 3)
        for view, width in (("source", 32), ("bicubic", 128), ("result", 128)):
            preview = client.jobs.preview(job.id, t=0.1, view=view)
            assert preview.data[8:12] == b"WEBP"
            assert preview.media_type == "image/webp"
            assert preview.seconds == pytest.approx(0.08, abs=0.05)
            assert width_of(preview.data) == width
        with pytest.raises(InvalidRequest, match="view"):
            client.jobs.preview(job.id, view="nothing")


def width_of(webp: bytes) -> int:
    with av.open(io.BytesIO(webp)) as picture:
        return int(picture.streams.video[0].width)


EXPECTED = {
    "Upscale a file": r"^clip-x4\.mp4 128 \[",
    "Progress": r"(?s)^uploading .*\ndone 6 6\ndownloading ",
    "Jobs, step by step": r"(?s)\ndone 6 6\n[0-9.]+\n\['clip\.mp4'.*\n\[.*'tiny'\] \['cpu'\]",
    "Know before you wait": r"^64 48 6\n",
    "Errors": r"^crf: .* (400|422) invalid-request",
    "In an event loop": r"^clip-x2\.mp4\nclip-x4\.mp4\n",
    "Live frames": r"(?s)^0 256 192 147456\n.*\n7 256 192 147456\n8 ",
}
