"""The process that reads files may die, hang or go bad: only it is lost, and it can do no harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from media.errors import DecoderCrashed
from media.limits import DEFAULT_LIMITS, Limits
from media.reader import VideoReader
from media.sandbox.process import Sandbox
from tests.support.media import children, upscale, write_clip

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", times=range(24), width=64, height=48)


def test_closing_early_ends_the_process(clip: Path) -> None:
    with VideoReader(clip) as reader:
        next(iter(reader))
        assert len(children()) == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_reader_that_dies_is_an_error_not_an_end(clip: Path, how: signal.Signals) -> None:
    def read() -> None:
        with VideoReader(clip) as reader:
            for number, _ in enumerate(reader):
                if number == 0:
                    os.kill(int(children()[0]), how)

    with pytest.raises(DecoderCrashed, match=how.name):
        read()


def test_a_reader_that_hangs_is_ended(clip: Path) -> None:
    def read() -> None:
        with VideoReader(clip, limits=Limits(max_decoder_seconds=1.0)) as reader:
            for number, _ in enumerate(reader):
                if number == 0:
                    os.kill(int(children()[0]), signal.SIGSTOP)

    begun = time.monotonic()
    with pytest.raises(DecoderCrashed, match="SKIPVSR_MAX_DECODER_SECONDS"):
        read()
    assert time.monotonic() - begun < 20


def test_a_parent_that_is_killed_takes_the_reader_along(tmp_path: Path, clip: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from media.reader import VideoReader\n"
        "from tests.support.media import children\n"
        "r = VideoReader(Path(sys.argv[1])); next(iter(r)); print(*children(), flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(clip)], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert parent.stdout is not None
    with parent, parent.stdout:
        child = parent.stdout.readline().decode().strip()
        assert child
        parent.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split():
        assert time.monotonic() < deadline
        time.sleep(0.05)


JAIL = """
import socket, sys
from pathlib import Path
from media.jailed.lockdown import lock_up
lock_up(memory_bytes=2**31, writes_below=Path(sys.argv[1]) if len(sys.argv) > 1 else None)
def refused(action):
    try:
        action()
    except (OSError, MemoryError) as error:
        return type(error).__name__
    return "allowed"
print(refused(lambda: Path("new").write_bytes(b"x" * 10)))
print(refused(lambda: Path("/tmp/skipvsr-outside").write_bytes(b"x")))
print(refused(lambda: socket.create_connection(("127.0.0.1", PORT), timeout=2).close()))
print(refused(lambda: bytearray(3 * 2**30)))
print(refused(lambda: Path("/proc/version").read_text()))
"""


@pytest.mark.parametrize("writable", [False, True])
def test_the_jail_holds(tmp_path: Path, writable: bool) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        code = JAIL.replace("PORT", str(server.getsockname()[1]))
        arguments = [str(tmp_path)] if writable else []
        environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
        run = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment
        )
    inside, outside, network, memory, reading = run.stdout.split()
    assert inside == ("allowed" if writable else inside) != ("x" if writable else "allowed")
    assert outside != "allowed"
    assert network != "allowed"
    assert memory == "MemoryError"
    assert reading == "allowed"
    assert not Path("/tmp/skipvsr-outside").exists() or Path("/tmp/skipvsr-outside").stat().st_size == 0


def test_readers_side_by_side(clip: Path) -> None:
    counts: list[int] = []

    def read() -> None:
        with VideoReader(clip) as reader:
            counts.append(sum(1 for _ in reader))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [24, 24, 24]


def test_joining_tells_of_each_segment_and_of_the_end(tmp_path: Path, clip: Path) -> None:
    """Thousands of segments take longer than a frame may; so does moving all frames of a large MP4 at its end."""
    done = upscale(clip, tmp_path, chunk=2)
    out = tmp_path / "again.mp4"
    arguments = {"segments": done.segments, "source": clip, "out": out, "spec": done.spec}
    with Sandbox("assemble", arguments, DEFAULT_LIMITS, writes_below=tmp_path) as process:
        messages = list(process.messages())
    closing = [message.get("closing") for message in messages]
    assert closing[:12] == [False] * 12
    assert closing[-2:] == [True, None]
    assert "warnings" in messages[-1]
    assert out.read_bytes() == done.path.read_bytes()
    assert DEFAULT_LIMITS.seconds_to_rewrite(4 * 10**9) > 500


def test_what_is_waited_for_can_be_lengthened(clip: Path) -> None:
    with Sandbox("probe", {"path": clip, "target": "mp4"}, Limits(max_decoder_seconds=0.001)) as process:
        process.patience = 60.0
        assert any("info" in message for message in process.messages())


def test_nonsense_from_the_process_is_an_error(clip: Path) -> None:
    class Babbler(Sandbox):
        def _line(self) -> bytes | None:
            return b"not json"

    with (
        Babbler("probe", {"path": clip, "target": "mp4"}, DEFAULT_LIMITS) as process,
        pytest.raises(DecoderCrashed, match="nonsense"),
    ):
        next(process.messages())
