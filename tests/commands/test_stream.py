"""`skipvsr stream` against a real server: a file, and a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from commands.shared.embedded_redis import EmbeddedRedis
from tests.support.clips import make_clip, times_of
from tests.support.media import as_ts
from tests.support.rpc_server import ROOT, RpcServer, rpc_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[RpcServer]:
    with rpc_server(tmp_path_factory.mktemp("rpc"), redis_server.url) as running:
        yield running


def skipvsr(*args: object, stdin: Path | None = None, **settings: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SKIPVSR_DEVICE": "cpu", "SKIPVSR_PRECISION": "fp32"}
    env |= {"SKIPVSR_THREADS": "1", "OMP_NUM_THREADS": "1", **settings}
    with (stdin or Path(os.devnull)).open("rb") as source:
        return subprocess.run(
            [sys.executable, "-P", "-m", "cli", *map(str, args)],
            env=env,
            stdin=source,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_a_streamed_file_equals_the_upscaled_file(server: RpcServer, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=10, sound=True)
    options = ("--model", "tiny", "--routing", "off", "--chunk", 24, "--lookahead", 4)
    streamed = skipvsr("stream", clip, tmp_path / "streamed.mp4", "--address", server.address, *options)
    assert streamed.returncode == 0, streamed.stderr
    assert "128×96, 10 frames, tiny on cpu" in streamed.stdout
    upscaled = skipvsr("upscale", clip, tmp_path / "upscaled.mp4", *options)
    assert upscaled.returncode == 0, upscaled.stderr
    np.testing.assert_array_equal(frames_of(tmp_path / "streamed.mp4"), frames_of(tmp_path / "upscaled.mp4"))
    assert times_of(tmp_path / "streamed.mp4") == times_of(clip)
    with av.open(str(tmp_path / "streamed.mp4")) as container:
        assert container.streams.audio
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "streamed.mp4", "upscaled.mp4"]


def test_the_suffix_says_the_container(server: RpcServer, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=3, sound=True)
    run = skipvsr("stream", clip, tmp_path / "out.mkv", "--address", server.address, "--model", "tiny")
    assert run.returncode == 0, run.stderr
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert "matroska" in container.format.name
        assert container.streams.audio
    for source, target, words in (
        ("-", "o.mkv", "a camera or pipe is written as MP4: end o.mkv in .mp4"),
        (clip, "o.webm", "WebM can't hold: end o.webm in .mkv"),
        (clip, "o.avi", "o.avi must end in .mp4, .mkv, .mov or .webm"),
        (tmp_path, "o.mp4", "is a folder; give the name of a video file"),
    ):
        run = skipvsr("stream", source, target, "--address", server.address)
        assert run.returncode == 1
        assert words in run.stderr
        assert len(run.stderr.strip().splitlines()) == 1


def test_a_pipe(server: RpcServer, tmp_path: Path) -> None:
    clip, pipe = make_clip(tmp_path / "clip.mp4", frames=10), tmp_path / "clip.mkv"
    with av.open(str(clip)) as source, av.open(str(pipe), "w") as target:
        video = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                target.mux(packet)
    run = skipvsr("stream", "-", tmp_path / "out.mp4", "--address", server.address, "--model", "tiny", stdin=pipe)
    assert run.returncode == 0, run.stderr
    assert frames_of(tmp_path / "out.mp4").shape == (10, 96, 128, 3)


def test_a_pipe_whose_clock_began_long_ago(server: RpcServer, tmp_path: Path) -> None:
    """A broadcast's clock: the copy begins at zero, without a day's wait for the first frame."""
    clip = make_clip(tmp_path / "clip.mp4", frames=5)
    pipe = as_ts(clip, tmp_path / "clip.ts", ahead=72_000)
    run = skipvsr("stream", "-", tmp_path / "out.mp4", "--address", server.address, "--model", "tiny", stdin=pipe)
    assert run.returncode == 0, run.stderr
    times = times_of(tmp_path / "out.mp4")
    assert times[0] == 0
    assert len(times) == 5
    assert times[-1] < 1


def test_errors_in_one_line(server: RpcServer, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=3)
    for args, words in (
        ((clip, tmp_path / "o.mp4", "--address", "127.0.0.1:1"), "answers at 127.0.0.1:1 (Connection refused): "),
        ((clip, tmp_path / "o.mp4", "--address", server.address, "--model", "x"), "unknown model 'x'"),
        ((tmp_path / "none.mp4", tmp_path / "o.mp4"), "there is no file"),
    ):
        run = skipvsr("stream", *args)
        assert run.returncode == 1
        assert words in run.stderr
        assert len(run.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "o.mp4").exists()
